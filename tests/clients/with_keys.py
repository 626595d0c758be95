"""OpenAI's and Ollama's Python packages with a key: 60 requests a minute, for the model m and not for e."""

import os

import ollama
import openai
from checks import BASE, check, refused, user

KEY = os.environ["TUTTI_KEY"]


def with_openai(key=KEY, **more):
    return openai.OpenAI(base_url=f"{BASE}/v1", api_key=key, timeout=30, **more)


def ask(client, name="chat"):
    headers = {"x-request-id": name}
    return client.chat.completions.create(model="m", messages=user("hi"), extra_headers=headers)


@check
def openai_with_its_key():
    answer = ask(with_openai())
    assert answer.choices[0].message.content, answer
    assert [model.id for model in with_openai().models.list()] == ["m:latest"]
    headers = with_openai().chat.completions.with_raw_response.create(model="m", messages=user("hi")).headers
    assert headers["x-ratelimit-limit-requests"] == "60", headers


@check
def openai_with_a_wrong_key():
    error = refused(openai.AuthenticationError, lambda: ask(with_openai("wrong"), "wrong"))
    assert (error.status_code, error.code) == (401, "invalid_api_key"), error.body


@check
def openai_with_another_model():
    error = refused(
        openai.PermissionDeniedError, lambda: with_openai().embeddings.create(model="e", input="hi")
    )
    assert (error.code, error.param) == ("model_not_allowed", "model"), error.body


@check
def ollama_with_its_key():
    client = ollama.Client(host=BASE, headers={"Authorization": f"Bearer {KEY}"})
    assert [model.model for model in client.list().models] == ["m:latest"]
    assert client.chat(model="m", messages=user("hi")).message.content


@check
def ollama_without_a_key():
    error = refused(ollama.ResponseError, lambda: ollama.Client(host=BASE).list())
    assert (error.status_code, "API key" in error.error) == (401, True), error


@check
def openai_waits_as_long_as_it_is_told():
    def until_refused():
        for _ in range(200):
            ask(with_openai(max_retries=0), "burst")

    error = refused(openai.RateLimitError, until_refused)
    headers = error.response.headers
    assert error.code == "rate_limited" and 0 < int(headers["retry-after-ms"]) <= 1000, (error.body, headers)
    assert headers["x-ratelimit-remaining-requests"] == "0" and headers["x-should-retry"] == "true", headers
    # However slow this machine is, and however much it has been given back since: one of these is told to wait.
    client = with_openai().chat.completions.with_raw_response
    for number in range(200):
        headers = {"x-request-id": f"waits-{number}"}
        answer = client.create(model="m", messages=user("hi"), extra_headers=headers)
        assert answer.parse().choices[0].message.content
        if answer.retries_taken:
            return
    raise AssertionError("none of 200 was told to wait")
