//! Why a step did not do what it is for.

use std::time::Duration;

use tutti_api::{Quarantine, Reason};

use crate::fetch::FetchError;
use crate::source::{SourceError, Trouble};
use crate::store::StoreError;

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// What is there does not serve, as it is.
    Judged(Quarantine),
    /// It may go better later.
    Passing(Quarantine),
}

impl Failure {
    /// What is there does not serve.
    pub(crate) fn judged(reason: Reason, message: impl Into<String>) -> Self {
        Self::Judged(Quarantine { reason, message: shortened(message.into()) })
    }

    /// It may go better later.
    pub(crate) fn passing(reason: Reason, message: impl Into<String>) -> Self {
        Self::Passing(Quarantine { reason, message: shortened(message.into()) })
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::passing(Reason::NoSpace, error.to_string())
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        match (error.trouble(), error.reason()) {
            // It was there when it was listed, so it is looked at again.
            (Trouble::NotFound | Trouble::Replaced, _) => Self::passing(Reason::SourceUnavailable, error.to_string()),
            (_, reason @ Reason::SourceUnavailable) => Self::passing(reason, error.to_string()),
            (_, reason) => Self::judged(reason, error.to_string()),
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Source(error) => error.into(),
            _ if error.is_passing() => Self::passing(error.reason(), error.to_string()),
            _ => Self::judged(error.reason(), error.to_string()),
        }
    }
}

/// Longest message. Unit: bytes.
const MAX_MESSAGE: usize = 1000;

/// A message of a bearable length, however much somebody else has said.
fn shortened(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let cut = (0..=MAX_MESSAGE).rev().find(|at| message.is_char_boundary(*at)).unwrap_or_default();
        message.truncate(cut);
        message.push('…');
    }
    message
}

/// Shortest pause after a failure.
const FIRST: Duration = Duration::from_millis(500);
/// Longest pause while somebody does not answer.
const LONGEST: Duration = Duration::from_secs(30);
/// Shortest pause after a refusal that may turn out otherwise by itself.
const FIRST_SLOW: Duration = Duration::from_secs(20);
/// Longest pause after such a one.
const LONGEST_SLOW: Duration = Duration::from_secs(600);

/// How long to wait after so many failures in a row: twice as long each time, of which `random` (0 to 1) takes up to a
/// half away, so that a fleet does not come all at once.
pub(crate) fn pause(reason: Reason, failures: u32, random: f64) -> Duration {
    let (first, longest) = match reason {
        Reason::EngineRefused | Reason::NoSpace => (FIRST_SLOW, LONGEST_SLOW),
        // It may have been the moment; but a bug that comes each time is not worth more than that.
        Reason::LoaderBroke => (FIRST, LONGEST_SLOW),
        _ => (FIRST, LONGEST),
    };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    doubled.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pauses_grow_to_a_bound_and_never_vanish(failures in 1..u32::MAX, random in 0.0..1.0_f64, slow: bool) {
            let reason = if slow { Reason::EngineRefused } else { Reason::SourceUnavailable };
            let (first, longest) = if slow { (FIRST_SLOW, LONGEST_SLOW) } else { (FIRST, LONGEST) };
            let pause = pause(reason, failures, random);
            prop_assert!(pause >= first / 2 && pause <= longest);
            prop_assert!(failures < 8 || pause >= longest / 2);
        }

        #[test]
        fn a_message_is_never_too_long(message in "\\PC{0,400}") {
            prop_assert!(shortened(message.repeat(5)).len() <= MAX_MESSAGE + '…'.len_utf8());
        }
    }
}
