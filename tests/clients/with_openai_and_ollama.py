"""OpenAI's Python package: what an Ollama makes of it by itself, and what its later versions have."""

import openai
from checks import BASE, COUNT, LATER, THINKER, check, refused, user

client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="any", timeout=30)


@check
def thinking():
    # What Ollama 0.11.4 does with it, nobody else does. OpenAI's own field it does not read at all ...
    asked = {"messages": user(COUNT), "temperature": 0, "max_tokens": 20}
    for model in ("risk-v1", THINKER):
        answer = client.chat.completions.create(model=model, **asked, reasoning_effort="high")
        assert answer.choices[0].message.content.startswith("1 2 3"), answer
    # ... and by its own it takes an effort, which only one family of models has.
    effort = {"extra_body": {"reasoning": {"effort": "high"}}}
    for model, why in (("risk-v1", "does not support thinking"), (THINKER, "is not supported for this model")):
        ask = {"model": model, **asked, **effort}
        error = refused(openai.BadRequestError, lambda ask=ask: client.chat.completions.create(**ask))
        assert why in error.message, error.body


@check
def responses():
    answer = client.responses.create(model=LATER, input="hi")
    assert answer.output_text.startswith("simulated answer") and answer.model == LATER, answer
    assert answer.status == "completed" and answer.usage.output_tokens > 0, answer
    short = client.responses.create(model=LATER, input="hi", max_output_tokens=3)
    assert (short.status, short.usage.output_tokens) == ("incomplete", 3), short


@check
def responses_in_a_stream():
    with client.responses.stream(model=LATER, input="hi") as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        answer = stream.get_final_response()
    assert said == answer.output_text and said.startswith("simulated answer"), said
    assert answer.model == LATER and answer.usage.output_tokens > 0, answer
