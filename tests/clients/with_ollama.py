"""Ollama's Python package."""

import json

import ollama
from checks import ANSWER, BASE, CALL, COMPLAINT, COUNT, THINKER, TOOL, check, refused, user


def named(name):
    """A client whose requests the test finds in the gateway's log."""
    return ollama.Client(BASE, headers={"x-request-id": name}, timeout=30)


client = named("python")


@check
def chat():
    answer = client.chat("risk-v1", user(COMPLAINT))
    assert (answer.message.content, answer.model, answer.done) == (ANSWER, "risk-v1", True), answer
    assert answer.eval_count > 0 and answer.total_duration > 0, answer


@check
def chat_in_a_stream():
    *parts, last = named("stream").chat("risk-v1", user(COMPLAINT), stream=True)
    assert "".join(part.message.content for part in parts) + last.message.content == ANSWER, parts
    assert last.done and last.eval_count > 0 and not any(part.done for part in parts), last


@check
def generate():
    assert client.generate("risk-v1", COMPLAINT).response == ANSWER
    parts = client.generate("risk-v1", COMPLAINT, stream=True)
    assert "".join(part.response for part in parts) == ANSWER


@check
def options():
    answer = client.generate("tutti-story", COUNT, options={"num_predict": 5}, keep_alive="1m")
    assert (answer.eval_count, answer.done_reason) == (5, "length"), answer


@check
def embed():
    one, other = client.embed("tutti-embed", ["资金", "积分"]).embeddings
    assert len(one) == len(other) == 64 and one != other
    assert len(client.embeddings("tutti-embed", "资金").embedding) == 64


@check
def tools():
    message = client.chat("tutti-tools", user("hi"), tools=[TOOL], format=CALL).message
    [call] = message.tool_calls
    assert call.function.name == "freeze" and call.function.arguments == {"account": "A1"}, call
    result = {"role": "tool", "tool_name": "freeze", "content": "done"}
    short = {"num_predict": 8}
    answer = client.chat("tutti-tools", [*user("hi"), message, result], tools=[TOOL], options=short)
    assert answer.message.role == "assistant", answer


@check
def json_schema():
    shape = {"type": "object", "properties": {"high": {"type": "boolean"}}, "required": ["high"]}
    answer = client.chat("risk-v1", user(COMPLAINT), format=shape)
    assert isinstance(json.loads(answer.message.content)["high"], bool), answer


@check
def thinking():
    short = {"num_predict": 20}
    message = client.chat(THINKER, user(COUNT), think=True, options=short).message
    assert (message.thinking.strip(), message.content[:3]) == ("2 3 4", "6 7"), message
    parts = list(client.chat(THINKER, user(COUNT), think=True, options=short, stream=True))
    assert "".join(part.message.thinking or "" for part in parts).strip() == "2 3 4", parts
    answer = client.generate(THINKER, COUNT, think=True, options=short)
    assert (answer.thinking.strip(), answer.response[:3]) == ("2 3 4", "6 7"), answer
    for unasked in (None, False):
        message = client.chat(THINKER, user(COUNT), think=unasked, options=short).message
        assert message.thinking is None and message.content.startswith("1 2 3"), message
    assert "thinking" in client.show(THINKER).capabilities


@check
def models():
    names = {model.model for model in client.list().models}
    assert {"tutti-story:latest", "tutti-embed:latest", "risk-v1:latest", "risk-v2:latest"} <= names, names


@check
def show():
    shown = client.show("risk-v1")
    assert "completion" in shown.capabilities and shown.details.family == "qwen2", shown


@check
def resident():
    client.generate("risk", COMPLAINT, keep_alive="1h")
    [loaded] = [model for model in client.ps().models if model.model == "risk:latest"]
    assert loaded.context_length == 4096 and loaded.size > 0 and len(loaded.digest) == 64, loaded


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
def what_the_model_cannot():
    for ask in (
        lambda: client.chat("risk-v1", user("hi"), think=True),
        lambda: client.chat("risk-v1", user("hi"), tools=[TOOL]),
    ):
        error = refused(ollama.ResponseError, ask)
        assert error.status_code == 400 and "does not support" in error.error, error


@check
def management_is_refused():
    for ask in (
        lambda: client.pull("x"),
        lambda: client.delete("risk-v1"),
        lambda: client.copy("risk-v1", "y"),
        lambda: client.create("y", from_="risk-v1"),
    ):
        assert refused(ollama.ResponseError, ask).status_code == 403


@check
def abort():
    parts = named("cancel").chat("tutti-story", user(COUNT), stream=True)
    for _ in range(20):
        next(parts)
    parts.close()
