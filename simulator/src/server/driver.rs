//! The engine with a real clock: events in, each request's outcomes out on a channel of its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, mpsc};

use crate::engine::{Engine, Event, Id, Job, Machine, Outcome, Resident, Time};

pub(super) struct Driver {
    inner: RefCell<Inner>,
    began: Instant,
    changed: Notify,
}

struct Inner {
    engine: Engine,
    listeners: HashMap<Id, mpsc::UnboundedSender<Outcome>>,
    next_id: Id,
    outcomes: Vec<Outcome>,
}

impl Driver {
    /// Starts the task that wakes the engine when something is due.
    pub(super) fn start(machine: Machine) -> Rc<Self> {
        let driver = Rc::new(Driver {
            inner: RefCell::new(Inner {
                engine: Engine::new(machine),
                listeners: HashMap::new(),
                next_id: 0,
                outcomes: Vec::new(),
            }),
            began: Instant::now(),
            changed: Notify::new(),
        });
        tokio::task::spawn_local(driver.clone().tick());
        driver
    }

    /// Hands a request to the engine; dropping the ticket is the client's departure.
    pub(super) fn submit(self: &Rc<Self>, job: Job) -> Ticket {
        // Unbounded, as the engine does not wait for a slow reader; an answer's tokens are its bound.
        let (sender, outcomes) = mpsc::unbounded_channel();
        let id = {
            let mut inner = self.inner.borrow_mut();
            inner.next_id += 1;
            let id = inner.next_id;
            inner.listeners.insert(id, sender);
            id
        };
        self.on(Event::Arrive(id, job));
        Ticket { id, outcomes, driver: self.clone() }
    }

    pub(super) fn expire(&self, base: Arc<str>) {
        self.on(Event::Expire(base));
    }

    pub(super) fn residents(&self) -> (Vec<Resident>, Time) {
        self.on(Event::Tick);
        let now = self.now();
        (self.inner.borrow().engine.residents(now), now)
    }

    fn now(&self) -> Time {
        self.began.elapsed()
    }

    fn on(&self, event: Event) {
        let mut inner = self.inner.borrow_mut();
        let mut outcomes = std::mem::take(&mut inner.outcomes);
        inner.engine.on(self.now(), event, &mut outcomes);
        for outcome in outcomes.drain(..) {
            let (Outcome::Busy(id) | Outcome::Token(id) | Outcome::Finished(id, _)) = outcome;
            if let Some(listener) = inner.listeners.get(&id) {
                // A listener that is gone sends its departure.
                let _ = listener.send(outcome);
            }
        }
        inner.outcomes = outcomes;
        drop(inner);
        self.changed.notify_one();
    }

    async fn tick(self: Rc<Self>) {
        loop {
            let due = self.inner.borrow().engine.next_deadline();
            let Some(due) = due else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until((self.began + due).into()) => self.on(Event::Tick),
                () = self.changed.notified() => {}
            }
        }
    }
}

/// A request in the engine.
pub(super) struct Ticket {
    id: Id,
    pub(super) outcomes: mpsc::UnboundedReceiver<Outcome>,
    driver: Rc<Driver>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.driver.inner.borrow_mut().listeners.remove(&self.id);
        self.driver.on(Event::Depart(self.id));
    }
}
