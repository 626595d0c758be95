// OpenAI's JavaScript package: what an Ollama makes of it by itself, and what its later versions have.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { BASE, COUNT, LATER, THINKER, check, refused, user } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: "any", timeout: 30_000 });

await check("thinking", async () => {
  // What Ollama 0.11.4 does with it, nobody else does. OpenAI's own field it does not read at all ...
  const asked = { messages: user(COUNT), temperature: 0, max_tokens: 20 };
  for (const model of ["risk-v1", THINKER]) {
    const answer = await client.chat.completions.create({ ...asked, model, reasoning_effort: "high" });
    assert(answer.choices[0].message.content.startsWith("1 2 3"), JSON.stringify(answer));
  }
  // ... and by its own it takes an effort, which only one family of models has.
  for (const [model, why] of [["risk-v1", "does not support thinking"], [THINKER, "is not supported for this model"]]) {
    const ask = { ...asked, model, reasoning: { effort: "high" } };
    const error = await refused(() => client.chat.completions.create(ask));
    assert(error instanceof OpenAI.BadRequestError && error.message.includes(why), error);
  }
});

await check("responses", async () => {
  const answer = await client.responses.create({ model: LATER, input: "hi" });
  assert(answer.output_text.startsWith("simulated answer"), answer.output_text);
  assert.deepEqual([answer.model, answer.status], [LATER, "completed"]);
  assert(answer.usage.output_tokens > 0);
  const short = await client.responses.create({ model: LATER, input: "hi", max_output_tokens: 3 });
  assert.deepEqual([short.status, short.usage.output_tokens], ["incomplete", 3]);
});

await check("responses_in_a_stream", async () => {
  const stream = client.responses.stream({ model: LATER, input: "hi" });
  let said = "";
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") said += event.delta;
  }
  const answer = await stream.finalResponse();
  assert(said.startsWith("simulated answer"), said);
  assert.deepEqual([answer.output_text, answer.model], [said, LATER]);
  assert(answer.usage.output_tokens > 0);
});
