// Ollama's JavaScript package.

import assert from "node:assert/strict";
import { Ollama } from "ollama";
import { ANSWER, BASE, CALL, COMPLAINT, COUNT, THINKER, TOOL, check, refused, user } from "./checks.mjs";

/** A client whose requests the test finds in the gateway's log. */
function named(name) {
  return new Ollama({ host: BASE, headers: { "x-request-id": name } });
}

const client = named("javascript");

await check("chat", async () => {
  const answer = await client.chat({ model: "risk-v1", messages: user(COMPLAINT) });
  assert.deepEqual([answer.message.content, answer.model, answer.done], [ANSWER, "risk-v1", true]);
  assert(answer.eval_count > 0 && answer.total_duration > 0);
});

await check("chat_in_a_stream", async () => {
  let said = "";
  let last;
  for await (const part of await named("stream").chat({ model: "risk-v1", messages: user(COMPLAINT), stream: true })) {
    said += part.message.content;
    last = part;
  }
  assert.equal(said, ANSWER);
  assert(last.done && last.eval_count > 0);
});

await check("generate", async () => {
  assert.equal((await client.generate({ model: "risk-v1", prompt: COMPLAINT })).response, ANSWER);
  let said = "";
  for await (const part of await client.generate({ model: "risk-v1", prompt: COMPLAINT, stream: true })) {
    said += part.response;
  }
  assert.equal(said, ANSWER);
});

await check("options", async () => {
  const asked = { model: "tutti-story", prompt: COUNT, options: { num_predict: 5 }, keep_alive: "1m" };
  const answer = await client.generate(asked);
  assert.deepEqual([answer.eval_count, answer.done_reason], [5, "length"]);
});

await check("embed", async () => {
  const { embeddings } = await client.embed({ model: "tutti-embed", input: ["资金", "积分"] });
  assert.deepEqual(embeddings.map((one) => one.length), [64, 64]);
  assert.equal((await client.embeddings({ model: "tutti-embed", prompt: "资金" })).embedding.length, 64);
});

await check("tools", async () => {
  const asked = { model: "tutti-tools", tools: [TOOL], messages: user("hi") };
  const { message } = await client.chat({ ...asked, format: CALL });
  assert.equal(message.tool_calls.length, 1);
  assert.deepEqual(message.tool_calls[0].function, { name: "freeze", arguments: { account: "A1" } });
  const result = { role: "tool", tool_name: "freeze", content: "done" };
  const messages = [...user("hi"), message, result];
  const answer = await client.chat({ ...asked, messages, options: { num_predict: 8 } });
  assert.equal(answer.message.role, "assistant");
});

await check("json_schema", async () => {
  const format = { type: "object", properties: { high: { type: "boolean" } }, required: ["high"] };
  const { message } = await client.chat({ model: "risk-v1", messages: user(COMPLAINT), format });
  assert.equal(typeof JSON.parse(message.content).high, "boolean");
});

await check("thinking", async () => {
  const asked = { model: THINKER, messages: user(COUNT), options: { num_predict: 20 } };
  const { message } = await client.chat({ ...asked, think: true });
  assert.deepEqual([message.thinking.trim(), message.content.slice(0, 3)], ["2 3 4", "6 7"]);
  let thought = "";
  for await (const part of await client.chat({ ...asked, think: true, stream: true })) {
    thought += part.message.thinking ?? "";
  }
  assert.equal(thought.trim(), "2 3 4");
  const answer = await client.generate({ model: THINKER, prompt: COUNT, options: asked.options, think: true });
  assert.deepEqual([answer.thinking.trim(), answer.response.slice(0, 3)], ["2 3 4", "6 7"]);
  for (const unasked of [{}, { think: false }]) {
    const { message } = await client.chat({ ...asked, ...unasked });
    assert(message.thinking === undefined && message.content.startsWith("1 2 3"), JSON.stringify(message));
  }
  assert((await client.show({ model: THINKER })).capabilities.includes("thinking"));
});

await check("models", async () => {
  const names = (await client.list()).models.map((model) => model.model);
  for (const name of ["tutti-story:latest", "tutti-embed:latest", "risk-v1:latest", "risk-v2:latest"]) {
    assert(names.includes(name), `${name} in ${names}`);
  }
});

await check("show", async () => {
  const shown = await client.show({ model: "risk-v1" });
  assert(shown.capabilities.includes("completion"));
  assert.equal(shown.details.family, "qwen2");
});

await check("resident", async () => {
  await client.generate({ model: "risk", prompt: COMPLAINT, keep_alive: "1h" });
  const [loaded] = (await client.ps()).models.filter((model) => model.model === "risk:latest");
  assert.deepEqual([loaded.context_length, loaded.digest.length], [4096, 64]);
  assert(loaded.size > 0);
});

await check("unknown_model", async () => {
  for (const ask of [
    () => client.chat({ model: "nope", messages: user("hi") }),
    () => client.generate({ model: "nope", prompt: "hi", stream: true }),
    () => client.embed({ model: "nope", input: "hi" }),
    () => client.show({ model: "nope" }),
  ]) {
    const error = await refused(ask);
    assert.deepEqual([error.name, error.status_code], ["ResponseError", 404]);
    assert.equal(error.error, 'model "nope" not found');
  }
});

await check("what_the_model_cannot", async () => {
  for (const wanted of [{ think: true }, { tools: [TOOL] }]) {
    const error = await refused(() => client.chat({ model: "risk-v1", messages: user("hi"), ...wanted }));
    assert.equal(error.status_code, 400);
    assert.match(error.error, /does not support/);
  }
});

await check("management_is_refused", async () => {
  for (const ask of [
    () => client.pull({ model: "x" }),
    () => client.delete({ model: "risk-v1" }),
    () => client.copy({ source: "risk-v1", destination: "y" }),
    () => client.create({ model: "y", from: "risk-v1" }),
  ]) {
    assert.equal((await refused(ask)).status_code, 403);
  }
});

await check("abort", async () => {
  const parts = await named("cancel").chat({ model: "tutti-story", messages: user(COUNT), stream: true });
  let seen = 0;
  const error = await refused(async () => {
    for await (const _ of parts) {
      if (++seen === 20) parts.abort();
    }
  });
  assert.equal(error.name, "AbortError");
  assert(seen < 100, `${seen} parts`);
});
