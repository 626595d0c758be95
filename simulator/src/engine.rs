//! Ollama's scheduler as a pure state machine: (event, virtual time) in, outcomes out.
//!
//! Modelled on `server/sched.go` of 0.11.4. All requests go through one bounded first-in-first-out queue; its head
//! blocks the others while it waits for a load or an unload. A runner is keyed by the blob of the base weights: one
//! base never stays loaded with two adapters or two sets of options. Once a request has its runner it waits for a
//! slot in a second queue, which has no bound. A load belongs to the request that asked for it and dies with it.

mod runner;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub(crate) use runner::tokens_of;
use runner::{Runner, State};

/// Virtual time: the time since the engine began.
pub type Time = Duration;

/// A request, as the engine knows it. Never reused.
pub type Id = u64;

/// How long an idle runner stays loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepAlive {
    /// This long after its last request; zero unloads at once.
    For(Duration),
    /// Until something else needs its room.
    Forever,
}

/// The pace and the bounds of the machine that is simulated.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Requests that one runner works on at once (`OLLAMA_NUM_PARALLEL`); embedding models always have one.
    pub slots: usize,
    /// Runners that are loaded at once (`OLLAMA_MAX_LOADED_MODELS`).
    pub loaded_max: usize,
    /// Requests that wait for a runner (`OLLAMA_MAX_QUEUE`), the one that is being served not counted.
    pub queue_max: usize,
    /// Bytes of weights that fit at once.
    pub memory_bytes: u64,
    /// What a load takes whatever its size.
    pub load_fixed: Duration,
    /// Bytes of weights read in a second of loading; 0 for no time at all.
    pub load_bytes_per_second: u64,
    /// Time to read one prompt token that the slot does not hold already.
    pub prompt_token_time: Duration,
    /// Time to write one token while one slot is busy; `n` busy slots share the rate.
    pub token_time: Duration,
    /// The keep-alive of requests that name none.
    pub keep_alive: KeepAlive,
}

impl Default for Machine {
    /// A tiny model on a CPU, as measured on the real 0.11.4: 260 ms for a reload, 1 ms a token, one slot.
    fn default() -> Self {
        Machine {
            slots: 1,
            loaded_max: 3,
            queue_max: 512,
            memory_bytes: u64::MAX,
            load_fixed: Duration::from_millis(260),
            load_bytes_per_second: 2 << 30,
            prompt_token_time: Duration::from_micros(50),
            token_time: Duration::from_millis(1),
            keep_alive: KeepAlive::For(Duration::from_secs(300)),
        }
    }
}

impl Machine {
    /// A machine on which nothing takes time and every caller finds a slot.
    pub fn instant() -> Self {
        Machine {
            slots: 4096,
            load_fixed: Duration::ZERO,
            load_bytes_per_second: 0,
            prompt_token_time: Duration::ZERO,
            token_time: Duration::ZERO,
            ..Machine::default()
        }
    }

    fn load_time(&self, bytes: u64) -> Duration {
        let reading = match self.load_bytes_per_second {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
        };
        self.load_fixed + reading
    }
}

/// The options that make Ollama reload a model when they change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunnerOptions {
    /// `num_ctx`, in tokens a slot.
    pub num_ctx: u64,
    /// `num_batch`, `num_gpu`, `main_gpu`, `use_mmap` (0 or 1) and `num_thread`; `None` is Ollama's default.
    pub others: [Option<i64>; 5],
}

impl Default for RunnerOptions {
    fn default() -> Self {
        RunnerOptions { num_ctx: 4096, others: [None; 5] }
    }
}

/// What a request wants done once its runner is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Nothing: the load was all.
    Load,
    /// Read this many tokens.
    Embed {
        /// Tokens of all inputs together.
        prompt_tokens: u32,
    },
    /// Read a prompt and write an answer.
    Generate {
        /// The prompt; what a slot still holds of it is not read again.
        prompt: Bytes,
        /// Tokens to write.
        tokens: u32,
    },
}

/// A request.
#[derive(Debug, Clone)]
pub struct Job {
    /// The name it was asked under, for `/api/ps`.
    pub model: Arc<str>,
    /// The blob of the base weights: the runner's key.
    pub base: Arc<str>,
    /// The blob of the adapter.
    pub adapter: Option<Arc<str>>,
    /// Options that the runner has to be loaded with.
    pub options: RunnerOptions,
    /// Size of the weights in bytes.
    pub weight_bytes: u64,
    /// An embedding model's runner has one slot.
    pub one_slot: bool,
    /// The caller's keep-alive; it then holds for the whole runner.
    pub keep_alive: Option<KeepAlive>,
    /// What to do.
    pub work: Work,
}

/// What happens to the engine.
#[derive(Debug, Clone)]
pub enum Event {
    /// A request came.
    Arrive(Id, Job),
    /// Its client left; ids that have ended are ignored.
    Depart(Id),
    /// Unload this base as soon as it is idle (`keep_alive: 0` without a prompt).
    Expire(Arc<str>),
    /// Nothing but the time.
    Tick,
}

/// What the engine says of a request. Each gets at most one of `Busy` and `Finished`, and nothing after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The queue is full.
    Busy(Id),
    /// The next token is written.
    Token(Id),
    /// It is done.
    Finished(Id, Timing),
}

/// Where the time of a finished request went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// From arrival to the end.
    pub total: Duration,
    /// From arrival to the runner: Ollama's `load_duration`, which contains the scheduler's wait.
    pub load: Duration,
    /// Reading the prompt.
    pub prompt_eval: Duration,
    /// Writing the answer.
    pub eval: Duration,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub tokens: u32,
}

/// A runner that is loaded, as `/api/ps` shows it.
#[derive(Debug, Clone)]
pub struct Resident {
    /// The name it was first asked under.
    pub model: Arc<str>,
    /// Context length a slot.
    pub num_ctx: u64,
    /// When it goes if nobody asks again; `None` for never.
    pub expires: Option<Time>,
}

/// The scheduler and its runners.
#[derive(Debug)]
pub struct Engine {
    machine: Machine,
    arrivals: HashMap<Id, (Time, Job)>,
    pending: VecDeque<Id>,
    runners: Vec<Runner>,
}

impl Engine {
    /// An engine with nothing loaded.
    pub fn new(machine: Machine) -> Self {
        Engine { machine, arrivals: HashMap::new(), pending: VecDeque::new(), runners: Vec::new() }
    }

    /// Takes an event at a time not before the last one's, and adds what came of it, and of the time until then.
    pub fn on(&mut self, now: Time, event: Event, out: &mut Vec<Outcome>) {
        self.advance(now, out);
        match event {
            Event::Arrive(id, job) => self.arrive(now, id, job, out),
            Event::Depart(id) => self.depart(now, id),
            Event::Expire(base) => {
                if let Some(runner) = self.runners.iter_mut().find(|r| r.base == base) {
                    runner.keep_alive = KeepAlive::For(Duration::ZERO);
                }
            }
            Event::Tick => {}
        }
        self.schedule(now, out);
        // What takes no time happens within the event that caused it.
        self.advance(now, out);
    }

    /// When [`Event::Tick`] is next worth sending.
    pub fn next_deadline(&self) -> Option<Time> {
        self.runners.iter().filter_map(Runner::next).min()
    }

    /// What is loaded now, the longest to stay first.
    pub fn residents(&self, now: Time) -> Vec<Resident> {
        let mut all: Vec<_> = self.runners.iter().map(|r| r.resident(now)).collect();
        all.sort_by_key(|r| std::cmp::Reverse(r.expires.unwrap_or(Duration::MAX)));
        all
    }

    /// Requests that have neither ended nor left.
    pub fn in_flight(&self) -> usize {
        self.arrivals.len()
    }

    fn arrive(&mut self, now: Time, id: Id, job: Job, out: &mut Vec<Outcome>) {
        // One request has left the channel that OLLAMA_MAX_QUEUE bounds: the one being loaded for, or the head.
        let loading = self.runners.iter().filter(|r| r.state != State::Ready).count();
        if self.pending.len() + loading > self.machine.queue_max {
            out.push(Outcome::Busy(id));
            return;
        }
        self.arrivals.insert(id, (now, job));
        self.pending.push_back(id);
    }

    fn depart(&mut self, now: Time, id: Id) {
        if self.arrivals.remove(&id).is_none() {
            return;
        }
        self.pending.retain(|&p| p != id);
        self.runners.retain(|r| r.state != State::Loading { requester: id });
        for runner in &mut self.runners {
            runner.leave(now, id, &self.machine);
        }
    }

    /// Lets everything that is due by `now` happen, in the order of time.
    fn advance(&mut self, now: Time, out: &mut Vec<Outcome>) {
        while let Some(due) = self.next_deadline().filter(|&t| t <= now) {
            let mut done = Vec::new();
            for runner in &mut self.runners {
                match runner.state {
                    State::Loading { requester } if runner.ready_at <= due => {
                        runner.state = State::Ready;
                        let (arrived, job) = &self.arrivals[&requester];
                        runner.join(due, requester, *arrived, job, &self.machine, &mut done);
                    }
                    State::Loading { .. } => {}
                    State::Ready => runner.step(due, &self.machine, out, &mut done),
                }
            }
            self.finish(done, out);
            self.runners.retain(|r| !r.expired(due));
            self.schedule(due, out);
        }
    }

    /// Works on the head of the queue until it has to wait.
    fn schedule(&mut self, now: Time, out: &mut Vec<Outcome>) {
        while let Some(&id) = self.pending.front() {
            let (arrived, job) = &self.arrivals[&id];
            let Some(at) = self.runners.iter().position(|r| r.base == job.base) else {
                if self.runners.iter().any(|r| r.state != State::Ready) {
                    return;
                }
                if self.has_room(job.weight_bytes) {
                    let ready_at = now + self.machine.load_time(job.weight_bytes);
                    self.runners.push(Runner::loading(id, job, &self.machine, ready_at));
                    self.pending.pop_front();
                } else if !self.evict_one() {
                    return;
                }
                continue;
            };
            let runner = &mut self.runners[at];
            if runner.state != State::Ready {
                return;
            }
            if runner.serves(job) {
                let mut done = Vec::new();
                runner.join(now, id, *arrived, job, &self.machine, &mut done);
                self.pending.pop_front();
                self.finish(done, out);
            } else if !self.expire(at) {
                return;
            }
        }
        self.runners.retain(|r| !r.expired(now));
    }

    fn has_room(&self, bytes: u64) -> bool {
        let used: u64 = self.runners.iter().map(|r| r.weight_bytes).sum();
        let fits = self.runners.is_empty() || used.saturating_add(bytes) <= self.machine.memory_bytes;
        self.runners.len() < self.machine.loaded_max.max(1) && fits
    }

    /// Idle runners first, then the shortest keep-alive: not the least recently used. True if one is gone already.
    fn evict_one(&mut self) -> bool {
        let victim = self.runners.iter().enumerate().min_by_key(|(_, r)| (r.is_busy(), r.keep_alive));
        victim.map(|(at, _)| at).is_some_and(|at| self.expire(at))
    }

    /// Unloads a runner now if it is idle, or as soon as it is. True if it is gone already.
    fn expire(&mut self, at: usize) -> bool {
        let idle = !self.runners[at].is_busy();
        if idle {
            self.runners.swap_remove(at);
        } else {
            self.runners[at].keep_alive = KeepAlive::For(Duration::ZERO);
        }
        idle
    }

    fn finish(&mut self, done: Vec<(Id, Timing)>, out: &mut Vec<Outcome>) {
        for (id, timing) in done {
            self.arrivals.remove(&id);
            out.push(Outcome::Finished(id, timing));
        }
    }
}

#[cfg(test)]
mod tests;
