"""LangChain's two integrations."""

import ollama
import openai
from checks import ANSWER, BASE, CALL, COMPLAINT, COUNT, LATER, THINKER, TOOL, check, refused
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

RISK = {"title": "Risk", "type": "object", "properties": {"high": {"type": "boolean"}}, "required": ["high"]}


def by_openai(model="risk-v1", **more):
    return ChatOpenAI(base_url=f"{BASE}/v1", api_key="any", model=model, temperature=0, timeout=30, **more)


def by_ollama(model="risk-v1", **more):
    return ChatOllama(base_url=BASE, model=model, client_kwargs={"timeout": 30}, **more)


@check
def openai_invoke():
    answer = by_openai().invoke(COMPLAINT)
    assert answer.content == ANSWER and answer.usage_metadata["output_tokens"] > 0, answer


@check
def openai_stream():
    chunks = list(by_openai(stream_usage=True).stream(COMPLAINT))
    assert "".join(chunk.content for chunk in chunks) == ANSWER, chunks
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0, chunks


@check
def openai_completions():
    model = OpenAI(base_url=f"{BASE}/v1", api_key="any", model="risk-v1", temperature=0)
    assert model.invoke(COMPLAINT) == ANSWER


@check
def openai_responses():
    answer = by_openai(LATER, use_responses_api=True).invoke("hi")
    assert answer.text.startswith("simulated answer") and answer.usage_metadata["output_tokens"] > 0, answer


@check
def openai_cancel():
    chunks = by_openai("tutti-story", default_headers={"x-request-id": "openai-cancel"}).stream(COUNT)
    for _ in range(20):
        next(chunks)
    chunks.close()


@check
def openai_batch():
    answers = by_openai().batch([COMPLAINT] * 4)
    assert [answer.content for answer in answers] == [ANSWER] * 4, answers


@check
def openai_tools():
    shape = {"type": "json_schema", "json_schema": {"name": "call", "schema": CALL}}
    # As a plain part of the body: its own argument would have it parse what only OpenAI's `strict` promises.
    model = by_openai("tutti-tools", extra_body={"response_format": shape})
    [call] = model.bind_tools([TOOL]).invoke("hi").tool_calls
    assert (call["name"], call["args"]) == ("freeze", {"account": "A1"}), call


@check
def openai_structured_output():
    answer = by_openai().with_structured_output(RISK, method="json_schema").invoke(COMPLAINT)
    assert isinstance(answer["high"], bool), answer


@check
def openai_embeddings():
    # With the length check it sends tokens of OpenAI's own vocabulary, which no other server knows.
    asked = {"base_url": f"{BASE}/v1", "api_key": "any", "model": "tutti-embed", "check_embedding_ctx_length": False}
    vectors = OpenAIEmbeddings(**asked).embed_documents(["资金", "积分"])
    assert [len(vector) for vector in vectors] == [64, 64], vectors


@check
def openai_unknown_model():
    assert refused(openai.NotFoundError, lambda: by_openai("nope").invoke("hi")).code == "model_not_found"


@check
def ollama_invoke():
    answer = by_ollama().invoke(COMPLAINT)
    assert answer.content == ANSWER and answer.usage_metadata["output_tokens"] > 0, answer
    assert OllamaLLM(base_url=BASE, model="risk-v1").invoke(COMPLAINT) == ANSWER


@check
def ollama_stream():
    chunks = list(by_ollama().stream(COMPLAINT))
    assert "".join(chunk.content for chunk in chunks) == ANSWER, chunks
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0, chunks


@check
def ollama_thinking():
    answer = by_ollama(THINKER, reasoning=True, num_predict=20).invoke(COUNT)
    assert answer.additional_kwargs["reasoning_content"].strip() == "2 3 4", answer
    assert answer.content.startswith("6 7"), answer
    error = refused(ollama.ResponseError, lambda: by_ollama(reasoning=True).invoke(COUNT))
    assert error.status_code == 400 and "does not support thinking" in error.error, error


@check
def ollama_cancel():
    headers = {"headers": {"x-request-id": "ollama-cancel"}, "timeout": 30}
    chunks = ChatOllama(base_url=BASE, model="tutti-story", client_kwargs=headers).stream(COUNT)
    for _ in range(20):
        next(chunks)
    chunks.close()


@check
def ollama_tools():
    [call] = by_ollama("tutti-tools", format=CALL).bind_tools([TOOL]).invoke("hi").tool_calls
    assert (call["name"], call["args"]) == ("freeze", {"account": "A1"}), call


@check
def ollama_structured_output():
    answer = by_ollama().with_structured_output(RISK, method="json_schema").invoke(COMPLAINT)
    assert isinstance(answer["high"], bool), answer


@check
def ollama_embeddings():
    vectors = OllamaEmbeddings(base_url=BASE, model="tutti-embed").embed_documents(["资金", "积分"])
    assert [len(vector) for vector in vectors] == [64, 64], vectors


@check
def ollama_unknown_model():
    assert refused(ollama.ResponseError, lambda: by_ollama("nope").invoke("hi")).status_code == 404


@check
def ollama_validates_its_model():
    assert by_ollama(validate_model_on_init=True).invoke(COMPLAINT).content == ANSWER
