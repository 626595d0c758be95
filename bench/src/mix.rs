//! Clients of every kind at once, back to back: those who chat, who read streams, who ask wrongly, and who leave.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::{LocalSet, spawn_local};

use crate::http::{self, Connection, MODEL};
use crate::told::{End, Told, end_of_document};

/// Longest wait for an answer; who waits so long is taken to wait for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often whoever runs the load is asked to look.
const LOOK: Duration = Duration::from_millis(250);

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Reads an answer of one document.
    Chat,
    /// Reads a stream to its end.
    Stream,
    /// Sends what is no JSON.
    Broken,
    /// Asks for a model that nobody has.
    Unknown,
    /// Leaves without waiting for the answer.
    LeaveWaiting,
    /// Leaves within a stream.
    LeaveStreaming,
}

impl Kind {
    /// What it does, in words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Chat => "chats",
            Kind::Stream => "streams",
            Kind::Broken => "bodies that are no JSON",
            Kind::Unknown => "unknown models",
            Kind::LeaveWaiting => "clients that leave before the answer",
            Kind::LeaveStreaming => "clients that leave within a stream",
        }
    }

    /// Whether this is how such a request must end.
    pub(crate) fn is_right(self, end: Option<&End>) -> bool {
        match (self, end) {
            (Kind::Chat | Kind::Stream, Some(End::Whole)) => true,
            (Kind::Broken, Some(End::Error(400, _))) | (Kind::Unknown, Some(End::Error(404, _))) => true,
            // Who leaves may find the whole answer there already.
            (Kind::LeaveWaiting, None) | (Kind::LeaveStreaming, None | Some(End::Whole)) => true,
            _ => false,
        }
    }
}

/// A request that is over.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Its number: the `x-request-id` is `bench-` and it.
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// How; `None` where its client left.
    pub(crate) end: Option<End>,
}

/// A load.
#[derive(Debug, Clone)]
pub(crate) struct Mix {
    pub(crate) addr: SocketAddr,
    pub(crate) connections: usize,
    /// What clients do, and how many of all do so.
    pub(crate) kinds: Vec<(Kind, u32)>,
    /// Tokens of a stream.
    pub(crate) tokens: u32,
    /// No further request begins after so many, or then.
    pub(crate) requests: u64,
    pub(crate) until: Option<Instant>,
}

struct State {
    mix: Mix,
    host: String,
    next: Cell<u64>,
    over: mpsc::UnboundedSender<Asked>,
}

/// Runs a load on this thread to its end; `each` gets every request that is over, `look` is called four times a second
/// with how many have begun.
///
/// # Errors
/// A connection could not be opened at the start.
pub(crate) fn run(mix: Mix, mut each: impl FnMut(Asked), mut look: impl FnMut(u64)) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (over, mut asked) = mpsc::unbounded_channel();
        let state = Rc::new(State { host: mix.addr.to_string(), next: Cell::new(0), over, mix });
        for _ in 0..state.mix.connections {
            let connection = Connection::open(state.mix.addr).await?;
            spawn_local(client(connection, state.clone()));
        }
        let counter = Rc::downgrade(&state);
        drop(state); // the channel ends with the last client
        let mut often = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                asked = asked.recv() => match asked {
                    Some(asked) => each(asked),
                    None => return Ok(()),
                },
                _ = often.tick() => look(counter.upgrade().map_or(0, |state| state.next.get())),
            }
        }
    })
}

/// One client after the other on one connection, and on a new one where that is lost.
async fn client(mut connection: Connection, state: Rc<State>) {
    while let Some(number) = state.take() {
        let kind = kind(&state.mix.kinds, number);
        let began = Instant::now();
        let request = request(&state, number, kind);
        let (end, stands) = match tokio::time::timeout(PATIENCE, ask(&mut connection, kind, &request, &state)).await {
            Ok(ended) => ended,
            Err(_) => (Some(End::Lie(format!("no end within {PATIENCE:?}"))), false),
        };
        let _ = state.over.send(Asked { number, kind, began, ended: Instant::now(), end });
        if !stands {
            while !connection.reopen().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if state.is_over() {
                    return;
                }
            }
        }
    }
}

/// Asks, and says how it ended and whether the connection can be used again.
async fn ask(connection: &mut Connection, kind: Kind, request: &[u8], state: &State) -> (Option<End>, bool) {
    if kind == Kind::LeaveWaiting {
        // Who leaves before the request is read was never there: the body is sent once it is asked for.
        let sent = connection.send_once_expected(request).await;
        return (sent.is_err().then_some(End::Cut), false);
    }
    let (mut body, mut told, began) = (Vec::new(), Told::default(), Notify::new());
    let streams = matches!(kind, Kind::Stream | Kind::LeaveStreaming);
    let answer = connection.converse(request, |part| {
        if streams {
            told.take(part, |_| began.notify_one());
        }
        if !streams || told.tokens == 0 {
            body.extend_from_slice(part); // an answer, or an error instead of a stream
        }
    });
    let answer = tokio::select! {
        biased;
        answer = answer => answer,
        () = began.notified(), if kind == Kind::LeaveStreaming => return (None, false),
    };
    let Ok(answer) = answer else { return (Some(End::Cut), false) };
    let end = match streams && answer.status == 200 {
        true => told.end(answer.status, answer.complete, state.mix.tokens),
        false => end_of_document(answer.status, answer.complete, &body),
    };
    (Some(end), answer.complete)
}

fn request(state: &State, number: u64, kind: Kind) -> Vec<u8> {
    let streams = matches!(kind, Kind::Stream | Kind::LeaveStreaming | Kind::LeaveWaiting);
    let model = if kind == Kind::Unknown { "nobody-has-this" } else { MODEL };
    let asks = if streams { r#""stream":true,"# } else { "" };
    let mut body = format!(r#"{{"model":"{model}",{asks}"messages":[{{"role":"user","content":"hello {number}"}}]}}"#);
    if kind == Kind::Broken {
        body.truncate(body.len() / 2);
    }
    let line = format!("x-request-id: bench-{number}\r\n");
    http::post_with(&state.host, "/v1/chat/completions", &body, &line)
}

impl State {
    fn is_over(&self) -> bool {
        let late = self.mix.until.is_some_and(|until| Instant::now() >= until);
        late || self.next.get() >= self.mix.requests
    }

    fn take(&self) -> Option<u64> {
        let number = self.next.get();
        (!self.is_over()).then(|| {
            self.next.set(number + 1);
            number
        })
    }
}

/// The kind of a request by its number: each in its share, and spread.
fn kind(kinds: &[(Kind, u32)], number: u64) -> Kind {
    let all: u64 = kinds.iter().map(|(_, share)| u64::from(*share)).sum();
    // A step that shares no factor with any small sum goes through all places.
    let mut place = number.wrapping_mul(7_919) % all.max(1);
    for (kind, share) in kinds {
        if place < u64::from(*share) {
            return *kind;
        }
        place -= u64::from(*share);
    }
    Kind::Chat
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tutti_simulator::{Config, Fault, Model, Running, Scope, Simulator};

    use super::*;

    fn replica() -> Running {
        Simulator::start(Config { answer_tokens: 3, ..Config::quick(Model::chat(MODEL, 1)) }).unwrap()
    }

    fn mix(replica: &Running, kinds: &[(Kind, u32)]) -> Mix {
        let kinds = kinds.to_vec();
        Mix { addr: replica.addr(), connections: 3, kinds, tokens: 3, requests: 100, until: None }
    }

    #[test]
    fn every_kind_has_its_share_and_its_end() {
        let replica = replica();
        let kinds = [
            (Kind::Chat, 40),
            (Kind::Stream, 30),
            (Kind::Broken, 5),
            (Kind::Unknown, 5),
            (Kind::LeaveWaiting, 10),
            (Kind::LeaveStreaming, 10),
        ];
        let mut counts = BTreeMap::new();
        let each = |asked: Asked| {
            assert!(asked.kind.is_right(asked.end.as_ref()), "{asked:?}");
            *counts.entry(asked.kind).or_insert(0) += 1;
        };
        run(mix(&replica, &kinds), each, |_| ()).unwrap();
        assert_eq!(counts, kinds.into_iter().collect());
    }

    #[test]
    fn a_stream_that_breaks_is_not_taken_for_a_whole_one() {
        for (fault, wrong) in [(Fault::BreakMidToken, End::Cut), (Fault::Busy, End::Error(503, String::new()))] {
            let replica = replica();
            replica.set_fault(Some((fault, Scope::Inference)));
            let mut ends = Vec::new();
            let mix = Mix { requests: 4, ..mix(&replica, &[(Kind::Stream, 1)]) };
            run(mix, |asked| ends.extend(asked.end), |_| ()).unwrap();
            let same = |end: &End| std::mem::discriminant(end) == std::mem::discriminant(&wrong);
            assert!(ends.len() == 4 && ends.iter().all(same), "{fault:?}: {ends:?}");
        }
    }
}
