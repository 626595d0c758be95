// Ollama's JavaScript package on a server that speaks OpenAI's API alone; answers are compared with Ollama's own.

import assert from "node:assert/strict";
import { Ollama } from "ollama";
import { ANSWER, BASE, CALL, COMPLAINT, COUNT, TOOL, check, refused, user } from "./checks.mjs";

/** A client whose requests the test finds in the gateway's log. */
function named(name) {
  return new Ollama({ host: BASE, headers: { "x-request-id": name } });
}

const client = named("javascript");
// The same models, asked past the gateway by Ollama's own API.
const direct = new Ollama({ host: process.argv[3] });

const options = { temperature: 0 };

/** What is the same whoever answers. */
function counts({ model, done, done_reason, prompt_eval_count, eval_count }) {
  return { model, done, done_reason, prompt_eval_count, eval_count };
}

async function all(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

await check("chat", async () => {
  const asked = { model: "risk-v1", messages: user(COMPLAINT), options };
  const [answer, own] = [await client.chat(asked), await direct.chat(asked)];
  assert.deepEqual([answer.message, counts(answer)], [own.message, counts(own)]);
  assert.equal(answer.message.content, ANSWER);
});

await check("chat_in_a_stream", async () => {
  const asked = { model: "risk-v1", messages: user(COMPLAINT), options, stream: true };
  const parts = await all(await named("stream").chat(asked));
  assert.equal(parts.map((part) => part.message.content).join(""), ANSWER);
  assert.deepEqual(counts(parts.at(-1)), counts((await all(await direct.chat(asked))).at(-1)));
});

await check("generate", async () => {
  const asked = { model: "risk-v1", prompt: COMPLAINT, system: "be brief", options };
  const [answer, own] = [await client.generate(asked), await direct.generate(asked)];
  assert.deepEqual([answer.response, counts(answer)], [own.response, counts(own)]);
  const parts = await all(await client.generate({ ...asked, stream: true }));
  assert.equal(parts.map((part) => part.response).join(""), own.response);
});

await check("embed", async () => {
  const asked = { model: "tutti-embed", input: ["资金", "积分"] };
  assert.deepEqual((await client.embed(asked)).embeddings, (await direct.embed(asked)).embeddings);
  assert.equal((await client.embeddings({ model: "tutti-embed", prompt: "资金" })).embedding.length, 64);
});

await check("tools", async () => {
  const asked = { model: "tutti-tools", tools: [TOOL], messages: user("hi") };
  const { message } = await client.chat({ ...asked, format: CALL });
  assert.equal(message.tool_calls.length, 1);
  assert.deepEqual(message.tool_calls[0].function, { name: "freeze", arguments: { account: "A1" } });
  const result = { role: "tool", tool_name: "freeze", content: "done" };
  const messages = [...user("hi"), message, result];
  const next = { ...asked, messages, options: { num_predict: 8, ...options } };
  const [answer, own] = [await client.chat(next), await direct.chat(next)];
  assert.deepEqual([answer.message.content, counts(answer)], [own.message.content, counts(own)]);
});

await check("json_schema", async () => {
  const format = { type: "object", properties: { high: { type: "boolean" } }, required: ["high"] };
  const { message } = await client.chat({ model: "risk-v1", messages: user(COMPLAINT), format, options });
  assert.equal(typeof JSON.parse(message.content).high, "boolean");
});

await check("models", async () => {
  const names = (await client.list()).models.map((model) => model.model);
  for (const name of ["tutti-story:latest", "tutti-embed:latest", "risk-v1:latest", "risk-v2:latest"]) {
    assert(names.includes(name), `${name} in ${names}`);
  }
  assert((await client.show({ model: "risk-v1" })).modified_at);
});

await check("errors", async () => {
  const unknown = await refused(() => client.chat({ model: "nope", messages: user("hi") }));
  assert.deepEqual([unknown.status_code, unknown.error], [404, 'model "nope" not found']);
  const asked = { model: "risk-v1", messages: user("hi"), options: { num_ctx: 2048 }, stream: true };
  const error = await refused(() => client.chat(asked));
  assert.equal(error.status_code, 400);
  assert.match(error.error, /`options.num_ctx`/);
});

await check("abort", async () => {
  const parts = await named("cancel").chat({ model: "tutti-story", messages: user(COUNT), options, stream: true });
  let seen = 0;
  const error = await refused(async () => {
    for await (const _ of parts) {
      if (++seen === 20) parts.abort();
    }
  });
  assert.equal(error.name, "AbortError");
  assert(seen < 100, `${seen} parts`);
});
