//! Where a request is counted while it is there: once, whatever becomes of it.

use std::sync::Arc;

use super::Cells;

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Queued,
    InFlight,
}

/// A request in the counts of who waits and who is worked on. Dropping it takes it out. Stays on the core whose cells
/// it has.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    at: Option<(At, Arc<Cells>)>,
}

impl Standing {
    /// It waits for a slot of this revision.
    pub(crate) fn queues(&mut self, cells: &Arc<Cells>) {
        if let Some((At::Queued, known)) = &self.at
            && Arc::ptr_eq(known, cells)
        {
            return;
        }
        let is_new = self.at.is_none();
        self.leaves();
        cells.arrivals.add(u64::from(is_new));
        cells.queued.came.add(1);
        self.at = Some((At::Queued, cells.clone()));
    }

    /// It waits again: what it had came to nothing.
    pub(crate) fn queues_again(&mut self) {
        self.moves(At::InFlight, At::Queued);
    }

    /// A replica works on it.
    pub(crate) fn is_sent(&mut self) {
        self.moves(At::Queued, At::InFlight);
    }

    fn moves(&mut self, from: At, to: At) {
        let Some((_, cells)) = self.at.take_if(|(at, _)| *at == from) else { return };
        count(&cells, from).left.add(1);
        count(&cells, to).came.add(1);
        self.at = Some((to, cells));
    }

    /// Nobody works on it any more.
    pub(crate) fn leaves(&mut self) {
        if let Some((at, cells)) = self.at.take() {
            count(&cells, at).left.add(1);
        }
    }
}

fn count(cells: &Cells, at: At) -> &super::cells::Span {
    match at {
        At::Queued => &cells.queued,
        At::InFlight => &cells.in_flight,
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.leaves();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now(cells: &Cells) -> (u64, u64) {
        let span = |span: &super::super::cells::Span| span.came.get() - span.left.get();
        (span(&cells.queued), span(&cells.in_flight))
    }

    proptest! {
        #[test]
        fn whatever_becomes_of_it_it_is_counted_once_and_then_not_at_all(steps in prop::collection::vec(0..5u8, 0..20)) {
            let cells = [Arc::new(Cells::default()), Arc::new(Cells::default())];
            let mut standing = Standing::default();
            for step in steps {
                match step {
                    0 | 1 => standing.queues(&cells[usize::from(step)]),
                    2 => standing.queues_again(),
                    3 => standing.is_sent(),
                    _ => standing.leaves(),
                }
                let sum: u64 = cells.iter().map(|cells| now(cells)).map(|(queued, in_flight)| queued + in_flight).sum();
                prop_assert_eq!(sum, u64::from(standing.at.is_some()));
            }
            drop(standing);
            prop_assert!(cells.iter().all(|cells| now(cells) == (0, 0)));
        }
    }
}
