"""OpenAI's Python package."""

import base64
import json
import struct

import openai
from checks import ANSWER, BASE, CALL, COMPLAINT, COUNT, TOOL, check, refused, user
from pydantic import BaseModel

client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="any", timeout=30)


def named(name):
    """Headers by which the test finds the request in the gateway's log."""
    return {"x-request-id": name}


@check
def chat():
    answer = client.chat.completions.create(model="risk-v1", messages=user(COMPLAINT), temperature=0)
    assert answer.choices[0].message.content == ANSWER, answer
    assert answer.model == "risk-v1" and answer.usage.total_tokens > 0, answer


@check
def stream():
    asked = {"model": "risk-v1", "messages": user(COMPLAINT), "temperature": 0, "stream": True}
    chunks = list(client.chat.completions.create(**asked, extra_headers=named("stream")))
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == ANSWER, chunks
    assert all(chunk.usage is None for chunk in chunks), chunks


@check
def stream_with_usage():
    asked = {"model": "risk-v1", "messages": user(COMPLAINT), "temperature": 0, "stream": True}
    *chunks, last = client.chat.completions.create(**asked, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == ANSWER, chunks
    assert last.choices == [] and last.usage.completion_tokens > 0, last


@check
def completions():
    answer = client.completions.create(model="risk-v1", prompt=COMPLAINT, temperature=0)
    assert answer.choices[0].text == ANSWER, answer
    chunks = client.completions.create(model="risk-v1", prompt=COMPLAINT, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == ANSWER


@check
def embeddings():
    texts = ["资金", "积分"]
    floats = client.embeddings.create(model="tutti-embed", input=texts, encoding_format="float").data
    assert [len(item.embedding) for item in floats] == [64, 64], floats
    # Without a format the package asks for base64 and decodes it.
    default = client.embeddings.create(model="tutti-embed", input=texts).data
    assert all(
        struct.pack("<64f", *one.embedding) == struct.pack("<64f", *other.embedding)
        for one, other in zip(default, floats, strict=True)
    ), default
    raw = client.embeddings.create(model="tutti-embed", input=texts, encoding_format="base64").data
    assert base64.b64decode(raw[0].embedding) == struct.pack("<64f", *floats[0].embedding), raw
    ask = {"model": "tutti-embed", "input": texts, "encoding_format": "hex"}
    error = refused(openai.BadRequestError, lambda: client.embeddings.create(**ask))
    assert (error.code, error.param) == ("invalid_parameter", "encoding_format"), error.body


@check
def models():
    names = {model.id for model in client.models.list()}
    assert {"tutti-story:latest", "tutti-embed:latest", "risk-v1:latest", "risk-v2:latest"} <= names, names
    for name in ("risk-v1", "acme/risk:v2"):
        assert client.models.retrieve(name).id == name
        assert client.chat.completions.create(model=name, messages=user(COMPLAINT), temperature=0).model == name


@check
def tools():
    shape = {"type": "json_schema", "json_schema": {"name": "call", "schema": CALL}}
    asked = {"model": "tutti-tools", "tools": [TOOL]}
    called = client.chat.completions.create(**asked, messages=user("hi"), response_format=shape).choices[0]
    assert called.finish_reason == "tool_calls", called
    [call] = called.message.tool_calls
    assert call.function.name == "freeze" and json.loads(call.function.arguments) == {"account": "A1"}, call
    result = {"role": "tool", "tool_call_id": call.id, "content": "done"}
    answer = client.chat.completions.create(**asked, messages=[*user("hi"), called.message, result], max_tokens=8)
    assert answer.choices[0].message.role == "assistant", answer


@check
def tools_in_a_stream():
    shape = {"type": "json_schema", "json_schema": {"name": "call", "schema": CALL}}
    asked = {"model": "tutti-tools", "tools": [TOOL], "messages": user("hi"), "response_format": shape}
    with client.chat.completions.stream(**asked) as events:
        [call] = events.get_final_completion().choices[0].message.tool_calls
    assert call.function.name == "freeze" and json.loads(call.function.arguments) == {"account": "A1"}, call


@check
def max_tokens():
    asked = {"model": "tutti-story", "messages": user(COUNT), "temperature": 0}
    for bound in ({"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_tokens": 9, "max_completion_tokens": 5}):
        answer = client.chat.completions.create(**asked, **bound)
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (5, "length"), (bound, answer)


@check
def json_schema():
    class Risk(BaseModel):
        high: bool

    asked = {"model": "risk-v1", "messages": user(COMPLAINT), "temperature": 0}
    answer = client.chat.completions.parse(**asked, response_format=Risk)
    assert isinstance(answer.choices[0].message.parsed, Risk), answer


@check
def unknown_model():
    for ask in (
        lambda: client.chat.completions.create(model="nope", messages=user("hi")),
        lambda: client.embeddings.create(model="nope", input="hi"),
        lambda: client.models.retrieve("nope"),
    ):
        error = refused(openai.NotFoundError, ask)
        assert (error.code, error.param) == ("model_not_found", "model"), error.body


@check
def bad_body():
    # What the replica says of it, and what the gateway does.
    for wrong in ({"messages": "no list"}, {"stream": "yes"}):
        ask = {"model": "risk-v1", "messages": user("hi"), **wrong}
        error = refused(openai.BadRequestError, lambda ask=ask: client.chat.completions.create(**ask))
        assert error.type == "invalid_request_error", error.body


@check
def cancel():
    asked = {"model": "tutti-story", "messages": user(COUNT), "temperature": 0, "stream": True}
    chunks = client.chat.completions.create(**asked, extra_headers=named("cancel"))
    for _ in range(20):
        next(chunks)
    chunks.close()


@check
def timeout():
    asked = {"model": "tutti-story", "messages": user(COUNT), "temperature": 0}
    impatient = client.with_options(timeout=0.1, max_retries=1)
    refused(openai.APITimeoutError, lambda: impatient.chat.completions.create(**asked, extra_headers=named("timeout")))


@check
def what_cannot_succeed_is_not_tried_again():
    ask = {"model": "risk-v1", "input": "hi", "extra_headers": named("not-served")}
    error = refused(openai.NotFoundError, lambda: client.responses.create(**ask))
    assert error.code == "api_not_served", error.body
    assert error.response.headers["x-should-retry"] == "false", error.response.headers


@check
def what_may_succeed_is_tried_again():
    ask = {"model": "unreachable", "messages": user("hi"), "extra_headers": named("no-replica")}
    patient = client.with_options(max_retries=1)
    error = refused(openai.InternalServerError, lambda: patient.chat.completions.create(**ask))
    assert (error.status_code, error.code) == (503, "no_replica"), error.body
