"""A script here is a list of checks. Each runs where it stands and prints a line: {"check", "ok", "detail"}."""

import json
import signal
import sys
import traceback

# Where the gateway is: http://host:port
BASE = sys.argv[1]

# Asked of risk-v1; the rig's model answers so each time.
COMPLAINT = "你们的系统导致我的资金被冻结了！"
ANSWER = "高风险"

# Asked of tutti-story: an answer of hundreds of tokens.
COUNT = "数到200"

# A thinking model of the rig's: it thinks from 1 to 5, and then says the rest.
THINKER = "tutti-thinks"

# A model of a replica that is later than the real one, and simulated.
LATER = "later"

# tutti-tools answers by this shape, and so calls the tool each time.
TOOL = {
    "type": "function",
    "function": {
        "name": "freeze",
        "description": "Freezes an account",
        "parameters": {"type": "object", "properties": {"account": {"type": "string"}}, "required": ["account"]},
    },
}
CALL = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["freeze"]},
        "arguments": {
            "type": "object",
            "properties": {"account": {"type": "string", "enum": ["A1"]}},
            "required": ["account"],
        },
    },
    "required": ["name", "arguments"],
}

# The longest a script may take, in seconds: then it dies by SIGALRM.
signal.alarm(120)


def check(run):
    """Runs a check now, under its function's name."""
    try:
        run()
        line = {"check": run.__name__, "ok": True, "detail": ""}
    except Exception:
        line = {"check": run.__name__, "ok": False, "detail": traceback.format_exc()}
    print(json.dumps(line), flush=True)


def refused(error, run):
    """The error that `run` raises, which must be of this class."""
    try:
        answer = run()
    except error as raised:
        return raised
    raise AssertionError(f"no {error.__name__}: {answer!r}")


def user(text):
    """The messages of a chat that begins."""
    return [{"role": "user", "content": text}]
