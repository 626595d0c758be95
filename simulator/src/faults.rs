//! The failures that can be switched on, each as a real replica shows it.

use std::str::FromStr;
use std::time::Duration;

/// The request header that asks for a fault, for that request alone: `break-mid-token`, `slow-first-byte=200`.
pub const HEADER: &str = "x-simulate-fault";

/// A way to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Accepts the request and never answers.
    Silent,
    /// Answers bytes that are no HTTP, and closes.
    Garbage,
    /// Closes without a byte of answer.
    CloseBeforeHeader,
    /// Writes a whole header, and closes.
    CloseAfterHeader,
    /// Ends the connection in the middle of the body: a stream after two tokens and half a third, or half a document.
    BreakMidToken,
    /// Writes the header and two tokens of a stream, or half a document, and then nothing more.
    Stall,
    /// Ollama's own way to fail in a stream: an `error` line under 200; on `/v1` an empty delta and no `[DONE]`.
    ErrorMidStream,
    /// An error in a stream that is said as the API says it, and ends it: an `error` event, or `response.failed`.
    ErrorEvent,
    /// The 503 of a full queue, at once.
    Busy,
    /// The 401 of a server, or of a proxy before one, that wants another key.
    Denied,
    /// The 500 of a runner that died; of a create, that of a full disk.
    RunnerDied,
    /// The 404 of an Ollama that has the model: while another name is deleted 0.11.4 may not find it.
    Missing,
    /// The 500 of a runner that has no adapters, though its Ollama makes models of them (0.11.5 to 0.24, of some architectures).
    NoLoras,
    /// Lets the answer begin this much later.
    SlowFirstByte(Duration),
    /// A vector less than there are inputs.
    TooFewVectors,
    /// The vectors of `/v1/embeddings` the other way round, each with its index.
    TurnedVectors,
    /// The last vector of `/v1/embeddings` with the index of the first.
    RepeatedIndex,
}

/// Which requests a fault of the configuration meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Inference alone: `/`, `/api/tags` and `/api/ps` stay green, as in Ollama's known deadlocks.
    Inference,
    /// Requests without a prompt, alone, which have a model loaded.
    Loads,
    /// Models that are made, alone: `POST /api/create`. A fault in mid-answer, or a slow one, meets the answer and not the
    /// work, which goes on where the caller leaves (0.11.4; a 0.34.2 gives it up).
    Creates,
    /// Each n-th request for an answer in tokens, alone, from when the fault is switched on.
    EachNth(u32),
    /// Every request.
    Everything,
}

impl FromStr for Fault {
    type Err = String;

    /// Reads the header's form, kebab case, with milliseconds behind `=` where a duration is needed.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, millis) = text.split_once('=').unwrap_or((text, "0"));
        Ok(match name {
            "silent" => Fault::Silent,
            "garbage" => Fault::Garbage,
            "close-before-header" => Fault::CloseBeforeHeader,
            "close-after-header" => Fault::CloseAfterHeader,
            "break-mid-token" => Fault::BreakMidToken,
            "stall" => Fault::Stall,
            "error-mid-stream" => Fault::ErrorMidStream,
            "error-event" => Fault::ErrorEvent,
            "busy" => Fault::Busy,
            "denied" => Fault::Denied,
            "runner-died" => Fault::RunnerDied,
            "missing" => Fault::Missing,
            "no-loras" => Fault::NoLoras,
            "too-few-vectors" => Fault::TooFewVectors,
            "turned-vectors" => Fault::TurnedVectors,
            "repeated-index" => Fault::RepeatedIndex,
            "slow-first-byte" => {
                Fault::SlowFirstByte(Duration::from_millis(millis.parse().map_err(|e| format!("{text}: {e}"))?))
            }
            _ => return Err(format!("unknown fault {name:?}")),
        })
    }
}

impl Fault {
    /// Bytes to put on the wire by hand before the connection is closed, for faults that no HTTP library can commit.
    pub(crate) fn raw_ending(self) -> Option<&'static [u8]> {
        match self {
            Fault::Garbage => Some(b"\x16\x03\x01 this is not HTTP\r\n\r\n"),
            Fault::CloseBeforeHeader => Some(b""),
            Fault::CloseAfterHeader => {
                Some(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 300\r\n\r\n")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_names_every_kind_and_nothing_else() {
        assert_eq!("stall".parse(), Ok(Fault::Stall));
        assert_eq!("slow-first-byte=20".parse(), Ok(Fault::SlowFirstByte(Duration::from_millis(20))));
        assert!("slow-first-byte=soon".parse::<Fault>().is_err());
        assert!("explode".parse::<Fault>().is_err());
    }
}
