"""Ollama's Python package on a server that speaks OpenAI's API alone; each answer is compared with Ollama's own."""

import json
import math
import sys

import ollama
from checks import ANSWER, BASE, CALL, COMPLAINT, COUNT, TOOL, check, refused, user

# The same models, asked past the gateway by Ollama's own API.
DIRECT = sys.argv[2]

EXACT = {"temperature": 0}


def named(name):
    """A client whose requests the test finds in the gateway's log."""
    return ollama.Client(BASE, headers={"x-request-id": name}, timeout=30)


client = named("python")
direct = ollama.Client(DIRECT, timeout=30)


def counts(answer):
    """What is the same whoever answers."""
    return (answer.model, answer.done, answer.done_reason, answer.prompt_eval_count, answer.eval_count)


@check
def chat():
    ask = {"model": "risk-v1", "messages": user(COMPLAINT), "options": EXACT}
    answer, own = client.chat(**ask), direct.chat(**ask)
    assert (answer.message.content, answer.message.content) == (ANSWER, own.message.content), answer
    assert counts(answer) == counts(own) and answer.total_duration > 0, (answer, own)


@check
def chat_in_a_stream():
    ask = {"model": "risk-v1", "messages": user(COMPLAINT), "options": EXACT, "stream": True}
    *parts, last = named("stream").chat(**ask)
    *_, own = direct.chat(**ask)
    assert "".join(part.message.content for part in parts) + last.message.content == ANSWER, parts
    assert counts(last) == counts(own) and not any(part.done for part in parts), (last, own)


@check
def a_system_and_a_conversation():
    said = [
        {"role": "system", "content": "be brief"},
        *user(COMPLAINT),
        {"role": "assistant", "content": ANSWER},
        *user("hello"),
    ]
    ask = {"model": "risk-v2", "messages": said, "options": EXACT}
    answer, own = client.chat(**ask), direct.chat(**ask)
    assert answer.message.content == own.message.content and counts(answer) == counts(own), (answer, own)


@check
def generate():
    for more in ({}, {"system": "be brief"}):
        ask = {"model": "risk-v1", "prompt": COMPLAINT, "options": EXACT, **more}
        answer, own = client.generate(**ask), direct.generate(**ask)
        assert answer.response == own.response and counts(answer) == counts(own), (answer, own)
        *parts, last = client.generate(**ask, stream=True)
        assert "".join(part.response for part in parts) + last.response == own.response, parts
        assert counts(last) == counts(own), (last, own)


@check
def options():
    bound = {"num_predict": 5, **EXACT}
    ask = {"model": "tutti-story", "prompt": COUNT, "options": bound, "keep_alive": "1m"}
    answer, own = client.generate(**ask), direct.generate(**ask)
    assert (answer.eval_count, answer.done_reason) == (5, "length"), answer
    assert answer.response == own.response and counts(answer) == counts(own), (answer, own)
    stopped = {"stop": ["5"], "seed": 1, **EXACT}
    ask = {"model": "tutti-story", "messages": user(COUNT), "options": stopped}
    answer, own = client.chat(**ask), direct.chat(**ask)
    assert answer.message.content == own.message.content and "5" not in answer.message.content, answer


@check
def a_long_answer_in_a_stream():
    ask = {"model": "tutti-story", "messages": user(COUNT), "options": EXACT, "stream": True}
    text = "".join(part.message.content for part in client.chat(**ask))
    assert text.split() == [str(number) for number in range(1, 201)], text


@check
def embed():
    texts = ["资金", "积分"]
    answer, own = client.embed("tutti-embed", texts), direct.embed("tutti-embed", texts)
    assert answer.embeddings == own.embeddings and answer.model == "tutti-embed", answer
    assert answer.prompt_eval_count == own.prompt_eval_count, (answer, own)
    one, own = (by.embeddings("tutti-embed", "资金").embedding for by in (client, direct))
    # Ollama's oldest API for it alone has vectors of any length; they point the same way.
    length = math.sqrt(sum(a * a for a in own))
    assert len(one) == 64 and max(abs(a - b / length) for a, b in zip(one, own)) < 1e-6, (one, own)


@check
def tools():
    ask = {"model": "tutti-tools", "tools": [TOOL]}
    message = client.chat(**ask, messages=user("hi"), format=CALL).message
    [call] = message.tool_calls
    assert call.function.name == "freeze" and call.function.arguments == {"account": "A1"}, call
    *parts, last = client.chat(**ask, messages=user("hi"), format=CALL, stream=True)
    [call] = [call for part in parts for call in part.message.tool_calls or []]
    assert call.function.arguments == {"account": "A1"} and last.done, (parts, last)
    result = {"role": "tool", "tool_name": "freeze", "content": "done"}
    said = [*user("hi"), message, result]
    ask = {**ask, "messages": said, "options": {"num_predict": 8, **EXACT}}
    answer, own = client.chat(**ask), direct.chat(**ask)
    assert answer.message.content == own.message.content and counts(answer) == counts(own), (answer, own)


@check
def json_schema():
    shape = {"type": "object", "properties": {"high": {"type": "boolean"}}, "required": ["high"]}
    ask = {"model": "risk-v1", "messages": user(COMPLAINT), "format": shape, "options": EXACT}
    answer, own = client.chat(**ask), direct.chat(**ask)
    assert isinstance(json.loads(answer.message.content)["high"], bool), answer
    assert answer.message.content == own.message.content, (answer, own)
    ask = {"model": "risk-v1", "prompt": COMPLAINT, "format": "json", "options": {"num_predict": 20, **EXACT}}
    answer, own = client.generate(**ask), direct.generate(**ask)
    assert answer.response.startswith("{") and answer.response == own.response, (answer, own)


@check
def models():
    names = {model.model for model in client.list().models}
    assert {"tutti-story:latest", "tutti-embed:latest", "risk-v1:latest", "risk-v2:latest"} <= names, names
    shown = client.show("risk-v1")
    assert shown.modified_at is not None and shown.capabilities is None, shown
    assert client.ps().models == []


@check
def loading():
    assert client.generate("risk-v1", "").done_reason == "load"
    assert client.chat("risk-v1", []).done_reason == "load"
    error = refused(ollama.ResponseError, lambda: client.generate("risk-v1", "", keep_alive=0))
    assert error.status_code == 400 and "keep_alive" in error.error, error


@check
def unknown_model():
    for ask in (
        lambda: client.chat("nope", user("hi")),
        lambda: list(client.generate("nope", "hi", stream=True)),
        lambda: client.embed("nope", "hi"),
        lambda: client.show("nope"),
    ):
        error = refused(ollama.ResponseError, ask)
        assert error.status_code == 404 and error.error == 'model "nope" not found', error


@check
def what_means_nothing_there():
    for ask, name in (
        (lambda: client.chat("risk-v1", user("hi"), options={"num_ctx": 2048}), "options.num_ctx"),
        (lambda: client.generate("risk-v1", "hi", raw=True), "raw"),
        (lambda: client.generate("risk-v1", "hi", context=[1, 2]), "context"),
        (lambda: list(client.generate("risk-v1", "hi", suffix="x", stream=True)), "suffix"),
    ):
        error = refused(ollama.ResponseError, ask)
        assert error.status_code == 400 and f"`{name}`" in error.error, error


@check
def what_the_model_cannot():
    error = refused(ollama.ResponseError, lambda: client.chat("risk-v1", user("hi"), tools=[TOOL]))
    assert error.status_code == 400 and "does not support tools" in error.error, error
    error = refused(ollama.ResponseError, lambda: client.chat("tutti-embed", user("hi")))
    assert error.status_code == 400 and "does not support chat" in error.error, error


@check
def abort():
    parts = named("cancel").chat("tutti-story", user(COUNT), options=EXACT, stream=True)
    for _ in range(20):
        next(parts)
    parts.close()
