// OpenAI's JavaScript package.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { ANSWER, BASE, CALL, COMPLAINT, COUNT, TOOL, check, refused, user } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: "any", timeout: 30_000 });

/** Headers by which the test finds the request in the gateway's log. */
function named(name) {
  return { headers: { "x-request-id": name } };
}

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

await check("chat", async () => {
  const answer = await client.chat.completions.create({ model: "risk-v1", messages: user(COMPLAINT), temperature: 0 });
  assert.equal(answer.choices[0].message.content, ANSWER);
  assert.equal(answer.model, "risk-v1");
  assert(answer.usage.total_tokens > 0);
});

await check("stream", async () => {
  const asked = { model: "risk-v1", messages: user(COMPLAINT), temperature: 0, stream: true };
  const chunks = await all(await client.chat.completions.create(asked, named("stream")));
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content).join(""), ANSWER);
});

await check("stream_with_usage", async () => {
  const asked = { model: "risk-v1", messages: user(COMPLAINT), temperature: 0, stream: true };
  const chunks = await all(await client.chat.completions.create({ ...asked, stream_options: { include_usage: true } }));
  const last = chunks.pop();
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content).join(""), ANSWER);
  assert.deepEqual(last.choices, []);
  assert(last.usage.completion_tokens > 0);
});

await check("completions", async () => {
  const asked = { model: "risk-v1", prompt: COMPLAINT, temperature: 0 };
  assert.equal((await client.completions.create(asked)).choices[0].text, ANSWER);
  const chunks = await all(await client.completions.create({ ...asked, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), ANSWER);
});

await check("embeddings", async () => {
  // Without a format the package asks for base64, and takes what comes for it.
  const asked = { model: "tutti-embed", input: ["资金", "积分"] };
  const floats = (await client.embeddings.create({ ...asked, encoding_format: "float" })).data;
  assert.deepEqual(floats.map((item) => item.embedding.length), [64, 64]);
  const { data } = await client.embeddings.create(asked);
  assert.deepEqual(data.map((item) => [...item.embedding].map(Math.fround)), floats.map((item) => item.embedding.map(Math.fround)));
  const raw = await client.embeddings.create({ ...asked, encoding_format: "base64" });
  assert.equal(Buffer.from(raw.data[0].embedding, "base64").readFloatLE(0), Math.fround(floats[0].embedding[0]));
  const error = await refused(() => client.embeddings.create({ ...asked, encoding_format: "hex" }));
  assert.deepEqual([error.status, error.code, error.param], [400, "invalid_parameter", "encoding_format"]);
});

await check("models", async () => {
  const names = (await all(client.models.list())).map((model) => model.id);
  for (const name of ["tutti-story:latest", "tutti-embed:latest", "risk-v1:latest", "risk-v2:latest"]) {
    assert(names.includes(name), `${name} in ${names}`);
  }
  for (const name of ["risk-v1", "acme/risk:v2"]) {
    assert.equal((await client.models.retrieve(name)).id, name);
    const asked = { model: name, messages: user(COMPLAINT), temperature: 0 };
    assert.equal((await client.chat.completions.create(asked)).model, name);
  }
});

await check("tools", async () => {
  const shape = { type: "json_schema", json_schema: { name: "call", schema: CALL } };
  const asked = { model: "tutti-tools", tools: [TOOL], messages: user("hi"), response_format: shape };
  const [choice] = (await client.chat.completions.create(asked)).choices;
  assert.equal(choice.finish_reason, "tool_calls");
  const [call] = choice.message.tool_calls;
  assert.equal(call.function.name, "freeze");
  assert.deepEqual(JSON.parse(call.function.arguments), { account: "A1" });
  const result = { role: "tool", tool_call_id: call.id, content: "done" };
  const messages = [...user("hi"), choice.message, result];
  const answer = await client.chat.completions.create({ model: "tutti-tools", tools: [TOOL], messages, max_tokens: 8 });
  assert.equal(answer.choices[0].message.role, "assistant");
});

await check("tools_in_a_stream", async () => {
  const shape = { type: "json_schema", json_schema: { name: "call", schema: CALL } };
  const asked = { model: "tutti-tools", tools: [TOOL], messages: user("hi"), response_format: shape };
  const [call] = (await client.chat.completions.stream(asked).finalMessage()).tool_calls;
  assert.equal(call.function.name, "freeze");
  assert.deepEqual(JSON.parse(call.function.arguments), { account: "A1" });
});

await check("max_tokens", async () => {
  const asked = { model: "tutti-story", messages: user(COUNT), temperature: 0 };
  for (const bound of [{ max_tokens: 5 }, { max_completion_tokens: 5 }, { max_tokens: 9, max_completion_tokens: 5 }]) {
    const answer = await client.chat.completions.create({ ...asked, ...bound });
    assert.deepEqual([answer.usage.completion_tokens, answer.choices[0].finish_reason], [5, "length"]);
  }
});

await check("json_schema", async () => {
  const schema = { type: "object", properties: { high: { type: "boolean" } }, required: ["high"] };
  const shape = { type: "json_schema", json_schema: { name: "risk", schema } };
  const asked = { model: "risk-v1", messages: user(COMPLAINT), temperature: 0, response_format: shape };
  const answer = await client.chat.completions.create(asked);
  assert.equal(typeof JSON.parse(answer.choices[0].message.content).high, "boolean");
});

await check("unknown_model", async () => {
  for (const ask of [
    () => client.chat.completions.create({ model: "nope", messages: user("hi") }),
    () => client.embeddings.create({ model: "nope", input: "hi" }),
    () => client.models.retrieve("nope"),
  ]) {
    const error = await refused(ask);
    assert(error instanceof OpenAI.NotFoundError, error);
    assert.deepEqual([error.code, error.param], ["model_not_found", "model"]);
  }
});

await check("bad_body", async () => {
  // What the replica says of it, and what the gateway does.
  for (const wrong of [{ messages: "no list" }, { stream: "yes" }]) {
    const ask = { model: "risk-v1", messages: user("hi"), ...wrong };
    const error = await refused(() => client.chat.completions.create(ask));
    assert(error instanceof OpenAI.BadRequestError, error);
    assert.equal(error.type, "invalid_request_error");
  }
});

await check("cancel", async () => {
  const asked = { model: "tutti-story", messages: user(COUNT), temperature: 0, stream: true };
  const stream = await client.chat.completions.create(asked, named("cancel"));
  let seen = 0;
  for await (const _ of stream) {
    if (++seen === 20) stream.controller.abort();
  }
  assert(seen < 100, `${seen} chunks`);
});

await check("timeout", async () => {
  const asked = { model: "tutti-story", messages: user(COUNT), temperature: 0 };
  const impatient = { ...named("timeout"), timeout: 100, maxRetries: 1 };
  const error = await refused(() => client.chat.completions.create(asked, impatient));
  assert(error instanceof OpenAI.APIConnectionTimeoutError, error);
});

await check("what_cannot_succeed_is_not_tried_again", async () => {
  const error = await refused(() => client.responses.create({ model: "risk-v1", input: "hi" }, named("not-served")));
  assert(error instanceof OpenAI.NotFoundError, error);
  assert.deepEqual([error.code, error.headers.get("x-should-retry")], ["api_not_served", "false"]);
});

await check("what_may_succeed_is_tried_again", async () => {
  const ask = { model: "unreachable", messages: user("hi") };
  const error = await refused(() => client.chat.completions.create(ask, { ...named("no-replica"), maxRetries: 1 }));
  assert(error instanceof OpenAI.InternalServerError, error);
  assert.deepEqual([error.status, error.code], [503, "no_replica"]);
});
