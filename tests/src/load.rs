//! Clients that ask all the time, each as soon as it has its answer, on connections that they keep.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::{Client, Tutti};

/// Where a client connects, asked for each connection; `None`: nowhere now, ask again.
pub type Where = dyn Fn() -> Option<String> + Send + Sync;

/// Clients at work, with the model `m`.
pub struct Load {
    state: Arc<State>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    ends: AtomicBool,
    asked: AtomicU64,
    failed: Mutex<Vec<String>>,
}

/// What came of a load.
#[derive(Debug)]
pub struct Loaded {
    /// Requests.
    pub asked: u64,
    /// What became of those that failed.
    pub failed: Vec<String>,
}

impl Load {
    /// Starts as many clients; every second one asks for streams.
    pub fn start(clients: usize, to: Arc<Where>) -> Self {
        let state = Arc::new(State::default());
        let start = |number: usize| {
            let (state, to) = (state.clone(), to.clone());
            std::thread::spawn(move || state.ask(number.is_multiple_of(2), &*to))
        };
        Self { clients: (0..clients).map(start).collect(), state }
    }

    /// The same of these gateways, each with as many clients.
    pub fn on(gateways: &[&Tutti], clients: usize) -> Self {
        let addresses: Vec<String> = gateways.iter().map(|tutti| tutti.listen()).collect();
        let next = AtomicUsize::new(0);
        let to = move || Some(addresses[next.fetch_add(1, Relaxed) % addresses.len()].clone());
        Self::start(clients * gateways.len(), Arc::new(to))
    }

    /// How many requests there were so far.
    pub fn asked(&self) -> u64 {
        self.state.asked.load(Relaxed)
    }

    /// Ends them, each after its answer.
    pub fn end(mut self) -> Loaded {
        self.state.ends.store(true, Relaxed);
        for client in std::mem::take(&mut self.clients) {
            let _ = client.join();
        }
        let failed = std::mem::take(&mut *self.state.failed.lock().unwrap_or_else(PoisonError::into_inner));
        Loaded { asked: self.state.asked.load(Relaxed), failed }
    }
}

impl Drop for Load {
    /// Clients of a test that has failed ask no more.
    fn drop(&mut self) {
        self.state.ends.store(true, Relaxed);
    }
}

impl State {
    fn ask(&self, streams: bool, to: &Where) {
        let mut connection: Option<Client> = None;
        while !self.ends.load(Relaxed) {
            let mut kept = match connection.take() {
                Some(kept) => kept,
                None => match to().map(|address| Client::connect(&address)) {
                    Some(Ok(new)) => new,
                    Some(Err(error)) => {
                        self.fail(format!("no connection: {error}"));
                        continue;
                    }
                    None => {
                        std::thread::yield_now();
                        continue;
                    }
                },
            };
            match once(&mut kept, streams) {
                Ok(true) => connection = Some(kept),
                Ok(false) => {}
                Err(error) => self.fail(error),
            }
            self.asked.fetch_add(1, Relaxed);
        }
    }

    fn fail(&self, error: String) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(error);
    }
}

/// Asks once; yields whether the connection is to be kept.
fn once(client: &mut Client, streams: bool) -> Result<bool, String> {
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"stream":{streams}}}"#);
    let sent = client.send("POST", "/v1/chat/completions", &[], &body);
    let answer = sent.and_then(|()| client.answer()).map_err(|error| format!("no answer: {error}"))?;
    let whole = answer.complete && (!streams || answer.text().ends_with("data: [DONE]\n\n"));
    if answer.status != 200 || !whole {
        return Err(format!("status {}, whole: {whole}: {}", answer.status, answer.text()));
    }
    Ok(answer.header("connection") != Some("close"))
}
