//! The clients: a connection a stream, and each token looked at.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use super::upstream::{self, PROMPT};
use crate::http::{self, Connection, MODEL};
use crate::told::{End, Told};

/// Streams that are being opened at once, until their connection stands.
const OPENING: usize = 64;
/// What a stream may take beyond its tokens' longest pauses.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of all streams.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Streams that have begun and have not ended.
    pub(super) open: Cell<usize>,
    /// Most of them at once.
    pub(super) most: Cell<usize>,
    /// Tokens that came as they should.
    pub(super) tokens: Cell<u64>,
    /// Tokens that came where another one should have, or to another stream.
    pub(super) wrong: Cell<u64>,
    /// How streams ended.
    pub(super) ends: RefCell<BTreeMap<End, u64>>,
}

/// A stream's place among those that are open; given back when it is dropped.
struct Open<'a>(&'a Tally);

impl<'a> Open<'a> {
    fn begin(tally: &'a Tally) -> Self {
        tally.open.set(tally.open.get() + 1);
        tally.most.set(tally.most.get().max(tally.open.get()));
        Open(tally)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// Opens so many streams and reads each to its end; `look` is called once a second while they run.
pub(super) fn run(
    addr: SocketAddr,
    streams: u32,
    slow: &super::Slow,
    mut look: impl FnMut(&Tally),
) -> std::io::Result<Tally> {
    let tally = Rc::new(Tally::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let within = Duration::from_millis(slow.most_ms) * slow.tokens + PATIENCE;
    LocalSet::new().block_on(&runtime, async {
        let opening = Rc::new(Semaphore::new(OPENING));
        let mut tasks = JoinSet::new();
        for number in 0..streams {
            tasks.spawn_local(stream(addr, number, slow.tokens, tally.clone(), opening.clone(), within));
        }
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                ended = tasks.join_next() => if ended.is_none() { return },
                _ = second.tick() => look(&tally),
            }
        }
    });
    Ok(Rc::into_inner(tally).unwrap_or_default())
}

async fn stream(
    addr: SocketAddr,
    number: u32,
    tokens: u32,
    tally: Rc<Tally>,
    opening: Rc<Semaphore>,
    within: Duration,
) {
    let end = match tokio::time::timeout(within, read(addr, number, tokens, &tally, &opening)).await {
        Ok(end) => end,
        Err(_) => End::Lie(format!("no end within {within:?}")),
    };
    *tally.ends.borrow_mut().entry(end).or_default() += 1;
}

/// Reads a stream to its end.
async fn read(addr: SocketAddr, number: u32, tokens: u32, tally: &Tally, opening: &Semaphore) -> End {
    let place = opening.acquire().await;
    let connection = Connection::open(addr).await;
    let Ok(mut connection) = connection else { return End::Cut };
    drop(place);
    let body =
        format!(r#"{{"model":"{MODEL}","stream":true,"messages":[{{"role":"user","content":"{PROMPT}{number}"}}]}}"#);
    let request = http::post(&addr.to_string(), "/v1/chat/completions", &body, None);
    let (mut told, mut next, mut open) = (Told::default(), 0, None);
    let answer = connection.converse(&request, |part| {
        told.take(part, |token| {
            open.get_or_insert_with(|| Open::begin(tally));
            let right = token == upstream::text(number, next);
            let counter = if right { &tally.tokens } else { &tally.wrong };
            counter.set(counter.get() + 1);
            next += 1;
        });
    });
    match answer.await {
        Ok(answer) => told.end(answer.status, answer.complete, tokens),
        Err(_) => End::Cut,
    }
}
