"""Anthropic's Python package."""

import anthropic
from checks import BASE, LATER, check, refused, user

client = anthropic.Anthropic(base_url=BASE, api_key="any", timeout=30)


def named(name):
    """Headers by which the test finds the request in the gateway's log."""
    return {"x-request-id": name}


@check
def messages():
    answer = client.messages.create(model=LATER, max_tokens=64, messages=user("hi"))
    assert answer.content[0].text.startswith("simulated answer") and answer.model == LATER, answer
    assert answer.stop_reason == "end_turn" and answer.usage.output_tokens > 0, answer
    short = client.messages.create(model=LATER, max_tokens=3, messages=user("hi"))
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3), short


@check
def stream():
    asked = {"model": LATER, "max_tokens": 64, "messages": user("hi")}
    with client.messages.stream(**asked, extra_headers=named("stream")) as stream:
        said = "".join(stream.text_stream)
        answer = stream.get_final_message()
    assert said == answer.content[0].text and said.startswith("simulated answer"), said
    assert answer.model == LATER and answer.usage.output_tokens > 0, answer


@check
def errors():
    for model, status, code in (("nope", 404, "model_not_found"), ("risk-v1", 404, "api_not_served")):
        ask = {"model": model, "max_tokens": 64, "messages": user("hi"), "extra_headers": named(code)}
        error = refused(anthropic.NotFoundError, lambda ask=ask: client.messages.create(**ask))
        assert (error.status_code, error.body["error"]["code"]) == (status, code), error.body
    # What the replica says itself.
    error = refused(anthropic.BadRequestError, lambda: client.messages.create(model=LATER, max_tokens=64, messages=[]))
    assert "messages is required" in error.message, error.body


@check
def what_may_succeed_is_tried_again():
    ask = {"model": "unreachable", "max_tokens": 64, "messages": user("hi"), "extra_headers": named("no-replica")}
    patient = client.with_options(max_retries=1)
    error = refused(anthropic.InternalServerError, lambda: patient.messages.create(**ask))
    assert (error.status_code, error.body["error"]["code"]) == (503, "no_replica"), error.body
