//! One loaded model: its slots, the unbounded queue before them, and its keep-alive.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::{Id, Job, KeepAlive, Machine, Resident, RunnerOptions, Time, Timing, Work};

/// Where a runner is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Being loaded for one request, and given up if that request leaves.
    Loading { requester: Id },
    /// Serving.
    Ready,
}

/// A request that has its runner and waits for a slot.
#[derive(Debug)]
struct Waiting {
    id: Id,
    arrived: Time,
    granted: Time,
    prompt: Bytes,
    prompt_tokens: u32,
    tokens: u32,
}

/// A request in its slot.
#[derive(Debug)]
struct Active {
    request: Waiting,
    /// When the prompt begins to be read.
    began: Time,
    /// When the prompt is read: the first token is written then.
    prompt_read: Time,
    /// When the next token is written.
    next: Time,
    written: u32,
}

#[derive(Debug, Default)]
struct Slot {
    /// The prompt it read last, whose common prefix need not be read again.
    cached: Bytes,
    active: Option<Active>,
}

#[derive(Debug)]
pub(super) struct Runner {
    pub(super) base: Arc<str>,
    pub(super) state: State,
    pub(super) ready_at: Time,
    pub(super) keep_alive: KeepAlive,
    pub(super) weight_bytes: u64,
    model: Arc<str>,
    adapter: Option<Arc<str>>,
    options: RunnerOptions,
    slots_max: usize,
    slots: Vec<Slot>,
    waiting: VecDeque<Waiting>,
    idle_since: Time,
}

impl Runner {
    pub(super) fn loading(requester: Id, job: &Job, machine: &Machine, ready_at: Time) -> Self {
        Runner {
            base: job.base.clone(),
            state: State::Loading { requester },
            ready_at,
            keep_alive: job.keep_alive.unwrap_or(machine.keep_alive),
            weight_bytes: job.weight_bytes,
            model: job.model.clone(),
            adapter: job.adapter.clone(),
            options: job.options,
            slots_max: if job.one_slot { 1 } else { machine.slots.max(1) },
            slots: Vec::new(),
            waiting: VecDeque::new(),
            idle_since: ready_at,
        }
    }

    /// Whether this request can be served without a reload.
    pub(super) fn serves(&self, job: &Job) -> bool {
        self.adapter == job.adapter && self.options == job.options
    }

    /// Requests in slots, and the slots there are.
    #[cfg(test)]
    pub(super) fn load(&self) -> (usize, usize) {
        (self.slots.iter().filter(|s| s.active.is_some()).count(), self.slots_max)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.state != State::Ready || !self.waiting.is_empty() || self.slots.iter().any(|s| s.active.is_some())
    }

    /// When something next happens here by itself.
    pub(super) fn next(&self) -> Option<Time> {
        match self.state {
            State::Loading { .. } => Some(self.ready_at),
            State::Ready if self.is_busy() => self.slots.iter().filter_map(|s| s.active.as_ref()).map(|a| a.next).min(),
            State::Ready => self.expires(),
        }
    }

    pub(super) fn expired(&self, now: Time) -> bool {
        !self.is_busy() && self.expires().is_some_and(|at| at <= now)
    }

    fn expires(&self) -> Option<Time> {
        match self.keep_alive {
            KeepAlive::For(duration) => Some(self.idle_since.saturating_add(duration)),
            KeepAlive::Forever => None,
        }
    }

    pub(super) fn resident(&self, now: Time) -> Resident {
        let expires = match self.keep_alive {
            KeepAlive::For(duration) if self.is_busy() => Some(now.saturating_add(duration)),
            _ => self.expires(),
        };
        Resident { model: self.model.clone(), num_ctx: self.options.num_ctx, expires }
    }

    /// Takes a request for which this runner is loaded; what needs no slot is done at once.
    pub(super) fn join(
        &mut self,
        now: Time,
        id: Id,
        arrived: Time,
        job: &Job,
        machine: &Machine,
        done: &mut Vec<(Id, Timing)>,
    ) {
        if let Some(keep_alive) = job.keep_alive {
            self.keep_alive = keep_alive;
        }
        self.idle_since = now;
        let (prompt, prompt_tokens, tokens) = match &job.work {
            Work::Load => {
                let wait = now - arrived;
                done.push((id, Timing { total: wait, load: wait, ..Timing::default() }));
                return;
            }
            Work::Embed { prompt_tokens } => (Bytes::new(), *prompt_tokens, 0),
            Work::Generate { prompt, tokens } => (prompt.clone(), tokens_of(prompt.len()), *tokens),
        };
        self.waiting.push_back(Waiting { id, arrived, granted: now, prompt, prompt_tokens, tokens });
        self.fill(now, machine);
    }

    /// Forgets a request wherever it is, and gives its slot to the next.
    pub(super) fn leave(&mut self, now: Time, id: Id, machine: &Machine) {
        self.waiting.retain(|w| w.id != id);
        for slot in &mut self.slots {
            if slot.active.take_if(|a| a.request.id == id).is_some() {
                self.idle_since = now;
            }
        }
        self.fill(now, machine);
    }

    /// Writes the tokens that are due at `now`.
    pub(super) fn step(
        &mut self,
        now: Time,
        machine: &Machine,
        out: &mut Vec<super::Outcome>,
        done: &mut Vec<(Id, Timing)>,
    ) {
        let busy = u32::try_from(self.slots.iter().filter(|s| s.active.is_some()).count()).unwrap_or(u32::MAX);
        for slot in &mut self.slots {
            let Some(active) = slot.active.as_mut().filter(|a| a.next <= now) else { continue };
            if active.written < active.request.tokens {
                active.written += 1;
                out.push(super::Outcome::Token(active.request.id));
            }
            if active.written < active.request.tokens {
                active.next = now + machine.token_time * busy;
            } else {
                done.push((active.request.id, active.timing(now)));
                slot.active = None;
                self.idle_since = now;
            }
        }
        self.fill(now, machine);
    }

    /// Gives free slots to the requests that wait longest.
    fn fill(&mut self, now: Time, machine: &Machine) {
        while let Some(prompt) = self.waiting.front().map(|w| w.prompt.clone()) {
            let Some(at) = self.best_free_slot(&prompt) else { return };
            let Some(request) = self.waiting.pop_front() else { return };
            let slot = &mut self.slots[at];
            // Only whole tokens are known.
            let known = u32::try_from(common_prefix(&slot.cached, &request.prompt) / 4).unwrap_or(u32::MAX);
            let unread = request.prompt_tokens.saturating_sub(known).max(1);
            let prompt_read = now + machine.prompt_token_time * unread;
            slot.cached = request.prompt.clone();
            slot.active = Some(Active { request, began: now, prompt_read, next: prompt_read, written: 0 });
        }
    }

    /// The free slot that holds the most of this prompt.
    fn best_free_slot(&mut self, prompt: &[u8]) -> Option<usize> {
        let free = self.slots.iter().enumerate().filter(|(_, s)| s.active.is_none());
        let best = free.max_by_key(|(_, s)| common_prefix(&s.cached, prompt)).map(|(at, _)| at);
        if best.is_none() && self.slots.len() < self.slots_max {
            // Slots come into being as they are used, so that a machine with thousands costs nothing.
            self.slots.push(Slot::default());
            return Some(self.slots.len() - 1);
        }
        best
    }
}

impl Active {
    fn timing(&self, now: Time) -> Timing {
        Timing {
            total: now - self.request.arrived,
            load: self.request.granted - self.request.arrived,
            prompt_eval: self.prompt_read - self.began,
            eval: now - self.prompt_read,
            prompt_tokens: self.request.prompt_tokens,
            tokens: self.written,
        }
    }
}

/// Tokens in this many bytes of text: one for every four begun.
pub(crate) fn tokens_of(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(4)).unwrap_or(u32::MAX)
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
