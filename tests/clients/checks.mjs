// A script here is a list of checks. Each runs where it stands and prints a line: {"check", "ok", "detail"}.

// Where the gateway is: http://host:port
export const BASE = process.argv[2];

// Asked of risk-v1; the rig's model answers so each time.
export const COMPLAINT = "你们的系统导致我的资金被冻结了！";
export const ANSWER = "高风险";

// Asked of tutti-story: an answer of hundreds of tokens.
export const COUNT = "数到200";

// A thinking model of the rig's: it thinks from 1 to 5, and then says the rest.
export const THINKER = "tutti-thinks";

// A model of a replica that is later than the real one, and simulated.
export const LATER = "later";

// tutti-tools answers by this shape, and so calls the tool each time.
export const TOOL = {
  type: "function",
  function: {
    name: "freeze",
    description: "Freezes an account",
    parameters: { type: "object", properties: { account: { type: "string" } }, required: ["account"] },
  },
};
export const CALL = {
  type: "object",
  properties: {
    name: { type: "string", enum: ["freeze"] },
    arguments: { type: "object", properties: { account: { type: "string", enum: ["A1"] } }, required: ["account"] },
  },
  required: ["name", "arguments"],
};

// The longest a script may take.
setTimeout(() => process.exit(1), 120_000).unref();

/** Runs a check now. */
export async function check(name, run) {
  let line = { check: name, ok: true, detail: "" };
  try {
    await run();
  } catch (error) {
    line = { check: name, ok: false, detail: error.stack ?? String(error) };
  }
  console.log(JSON.stringify(line));
}

/** The error that `run` throws. */
export async function refused(run) {
  let answer;
  try {
    answer = await run();
  } catch (error) {
    return error;
  }
  throw new Error(`no error: ${JSON.stringify(answer)}`);
}

/** The messages of a chat that begins. */
export function user(text) {
  return [{ role: "user", content: text }];
}
