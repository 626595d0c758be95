//! The only way a body is ever changed.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

/// Byte ranges of a body to replace, sorted, apart from each other; an empty range inserts. All other bytes go on
/// untouched and uncopied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits(SmallVec<[(Range<usize>, Bytes); 2]>);

impl Edits {
    /// Replaces `range` by `with`.
    ///
    /// # Panics
    /// In debug builds, where two edits overlap: whoever makes edits has read the body in order.
    pub fn replace(&mut self, range: Range<usize>, with: Bytes) {
        let at = self.0.partition_point(|(other, _)| other.start < range.start);
        debug_assert!(at == 0 || self.0[at - 1].0.end <= range.start, "edits overlap");
        debug_assert!(at == self.0.len() || range.end <= self.0[at].0.start, "edits overlap");
        self.0.insert(at, (range, with));
    }

    /// The changed body, in order. The pieces that were not changed share `body`'s memory.
    pub fn apply(&self, body: &Bytes) -> Vec<Bytes> {
        let mut pieces = Vec::with_capacity(2 * self.0.len() + 1);
        let mut from = 0;
        for (range, with) in &self.0 {
            pieces.extend([body.slice(from..range.start), with.clone()].into_iter().filter(|piece| !piece.is_empty()));
            from = range.end;
        }
        if from < body.len() {
            pieces.push(body.slice(from..));
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_inserts_in_any_order_of_asking() {
        let body = Bytes::from_static(b"0123456789");
        let mut edits = Edits::default();
        edits.replace(8..10, Bytes::from_static(b"end"));
        edits.replace(1..1, Bytes::from_static(b"in"));
        edits.replace(2..4, Bytes::new());
        assert_eq!(edits.apply(&body).concat(), b"0in14567end");
        assert_eq!(Edits::default().apply(&body).concat(), b"0123456789");
        assert!(Edits::default().apply(&Bytes::new()).is_empty());
    }
}
