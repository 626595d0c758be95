//! A panic in one piece of work ends that piece, and nothing else: it is a failure as any other, and others hear nothing of it.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll};

use tutti_api::{Quarantine, Reason};

use crate::metrics::Metrics;

/// Longest part of what a panic says that is passed on. Unit: characters.
const MAX_SAID: usize = 300;

/// Does work to its end. Where it panics, that is logged with the name of what the work is on, and counted; what it held is
/// let go of, as when it is stopped.
///
/// # Errors
/// It has panicked.
pub(super) async fn caught<T>(metrics: &Metrics, name: &str, work: impl Future<Output = T>) -> Result<T, Quarantine> {
    unwound(work).await.map_err(|said| {
        metrics.broke();
        tracing::error!(name, said, "a step broke off: this is a bug");
        Quarantine { reason: Reason::LoaderBroke, message: format!("a step broke off, which is a bug: {said}") }
    })
}

/// What comes of work, or what its panic says.
async fn unwound<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = pin!(work);
    // What work shares with others is changed under locks, in one go each, and the record on the disk first: whoever comes
    // next finds what a crash may have left there, and makes do with that.
    let poll = |context: &mut Context<'_>| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(said(&*panic))),
    };
    poll_fn(poll).await
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it does not say why").chars().take(MAX_SAID).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_failure_and_what_was_held_is_let_go_of() {
        let metrics = Metrics::default();
        assert_eq!(caught(&metrics, "risk/v1", async { 7 }).await, Ok(7));
        let lock = tokio::sync::Mutex::new(());
        let number = 7;
        let breaks = async {
            let _held = lock.lock().await;
            tokio::task::yield_now().await;
            assert_eq!(number, 8, "seven is not");
        };
        let why = caught(&metrics, "risk/v1", breaks).await.unwrap_err();
        assert_eq!(why.reason, Reason::LoaderBroke);
        assert!(why.message.contains("seven is not"), "{}", why.message);
        assert!(lock.try_lock().is_ok());
        // One on a thread of its own comes here as it was.
        let far = async {
            let broke = tokio::task::spawn_blocking(move || assert_eq!(number, 9, "far away")).await;
            broke.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        };
        let why = caught(&metrics, "risk/v1", far).await.unwrap_err();
        assert!(why.message.contains("far away"), "{}", why.message);
        let page = metrics.page(&tutti_api::AdapterList::default(), false);
        assert!(page.contains("tutti_loader_panics_total 2\n"), "{page}");
    }
}
