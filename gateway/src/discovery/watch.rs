//! The tasks that ask sources again and again.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tutti_api::ReplicaUrl;

use super::Source;
use super::answer::{Answer, Known, SOONEST};
use super::dns::Resolver;
use super::list;
use crate::follow::Followed;
use crate::limits::{self, Limit};

/// What a source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A name has these addresses.
    Addresses(Arc<[IpAddr]>),
    /// A file lists these replicas.
    Urls(Arc<[ReplicaUrl]>),
}

impl Said {
    fn len(&self) -> usize {
        match self {
            Said::Addresses(addresses) => addresses.len(),
            Said::Urls(urls) => urls.len(),
        }
    }
}

/// What a source last said, and how it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// `None` before it has said anything.
    pub(super) said: Option<Said>,
    /// What it said beyond what is taken. Unit: addresses.
    pub(crate) left_out: usize,
    /// When it last said something. Unit: seconds since 1970.
    pub(crate) at: Option<i64>,
    /// Why it says nothing, or nothing new.
    pub(crate) why: Option<String>,
    /// Whether it failed the last time.
    pub(crate) failing: bool,
    /// How often it was asked.
    pub(crate) tries: u64,
    /// How often it failed.
    pub(crate) failures: u64,
}

impl Heard {
    /// How many replicas or addresses it names.
    pub(crate) fn endpoints(&self) -> usize {
        self.said.as_ref().map_or(0, Said::len)
    }
}

/// A source that is asked.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) heard: watch::Receiver<Heard>,
    /// Has a name asked for soon, whatever its TTL.
    pub(super) hurry: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Has a source asked; `news` is told when it says something new.
    pub(super) fn start(source: Source, resolver: Arc<Resolver>, news: Arc<Notify>) -> Self {
        let (sender, heard) = watch::channel(Heard::default());
        let tell = Tell { source: source.clone(), heard: sender, news };
        let hurry = Arc::new(Notify::new());
        let task = match source {
            Source::Name(name) => {
                let ask = move |last: Option<String>| {
                    let (resolver, name) = (resolver.clone(), name.clone());
                    async move { resolver.ask(&name, last.as_deref()).await }
                };
                tokio::spawn(name_task(tell, hurry.clone(), ask))
            }
            Source::File(path) => tokio::spawn(file_task(tell, path)),
        };
        Self { heard, hurry, task }
    }
}

/// Where a task says what it heard.
struct Tell {
    source: Source,
    heard: watch::Sender<Heard>,
    news: Arc<Notify>,
}

/// What came of a try.
struct Try {
    /// `None`: nothing new.
    said: Option<Said>,
    left_out: usize,
    why: Option<String>,
    failed: bool,
}

impl Tell {
    fn tell(&self, tried: Try) {
        let Try { said, left_out, why, failed } = tried;
        let before = self.heard.borrow().clone();
        let mut now = Heard { left_out, failing: failed, tries: before.tries + 1, ..before.clone() };
        if failed {
            now.failures += 1;
        } else {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            now.at = i64::try_from(since.as_secs()).ok();
        }
        if left_out > 0 {
            limits::hit(Limit::Addresses);
        }
        now.said = said.or(now.said);
        now.why = why;
        self.log(&before, &now);
        let new = (&now.said, &now.why) != (&before.said, &before.why);
        self.heard.send_replace(now);
        if new {
            self.news.notify_one();
        }
    }

    /// Says once what changed, not each time that it is as it was.
    fn log(&self, before: &Heard, now: &Heard) {
        let (kind, name) = self.source.kind_and_name();
        let (endpoints, why) = (now.endpoints(), now.why.as_deref().unwrap_or_default());
        if now.failing && !before.failing {
            tracing::warn!(kind, name, endpoints, why, "discovery fails; what was known stays");
        } else if now.said != before.said || (before.failing && !now.failing) {
            tracing::info!(kind, name, endpoints, why, "discovery");
        }
        if now.left_out > 0 && before.left_out == 0 {
            tracing::warn!(kind, name, left_out = now.left_out, "more addresses than are taken");
        }
    }
}

/// Asks for a name again and again. `ask` gets the full name that answered the last time.
async fn name_task<F: Future<Output = Answer>>(tell: Tell, hurry: Arc<Notify>, ask: impl Fn(Option<String>) -> F) {
    let mut known = Known::default();
    loop {
        let outcome = known.on(ask(known.name.clone()).await);
        let said = outcome.addresses.map(|addresses| Said::Addresses(addresses.into()));
        tell.tell(Try { said, left_out: outcome.left_out, why: outcome.why, failed: outcome.failed });
        let hurried = async {
            tokio::time::sleep(SOONEST).await;
            hurry.notified().await;
        };
        tokio::select! {
            () = tokio::time::sleep(outcome.again) => {}
            () = hurried => {}
        }
    }
}

/// Follows a file.
async fn file_task(tell: Tell, path: PathBuf) {
    let open = move || Followed::open(path, list::MAX_BYTES);
    // On a thread of its own: a file system that does not answer holds up nothing else.
    let Ok((mut followed, mut text)) = tokio::task::spawn_blocking(open).await else { return };
    loop {
        tell.tell(match text.and_then(|text| list::parse(&text)) {
            Ok(urls) => Try { said: Some(Said::Urls(urls.into())), left_out: 0, why: None, failed: false },
            Err(why) => Try { said: None, left_out: 0, why: Some(why), failed: true },
        });
        text = followed.changed(std::future::pending).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::answer::Part;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn told(last: Option<u8>, ttl: u32) -> Answer {
        let none = Part::Nothing { exists: false, ttl: None };
        let found = |last| Part::Addresses { found: vec![IpAddr::from([10, 0, 0, last])], ttl: SECOND * ttl };
        Answer { name: "n.".to_owned(), v4: last.map_or(none.clone(), found), v6: none }
    }

    fn failed() -> Answer {
        Answer { name: String::new(), v4: Part::Failed("x".to_owned()), v6: Part::Failed("x".to_owned()) }
    }

    /// Gives these answers, and hurries at these times; yields when each was asked for and what was then known, and how often there was news.
    async fn run(answers: Vec<Answer>, hurries: Vec<Duration>) -> (Vec<(u64, usize, bool)>, usize) {
        let (sender, heard) = watch::channel(Heard::default());
        let news = Arc::new(Notify::new());
        let tell = Tell { source: Source::Name("n".into()), heard: sender, news: news.clone() };
        let (begun, mut told) = (Instant::now(), 0);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::new(Mutex::new(answers.into_iter()));
        let (seen, at) = (heard.clone(), asked.clone());
        let hurry = Arc::new(Notify::new());
        let task = name_task(tell, hurry.clone(), move |_| {
            let heard = seen.borrow();
            at.lock().unwrap().push((begun.elapsed().as_secs(), heard.endpoints(), heard.failing));
            let next = answers.lock().unwrap().next();
            async move {
                match next {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        });
        let count = async {
            loop {
                news.notified().await;
                told += 1;
            }
        };
        let hurried = async {
            for after in hurries {
                tokio::time::sleep_until(begun + after).await;
                hurry.notify_one();
            }
        };
        let _ = tokio::time::timeout(SECOND * 3600, async { tokio::join!(task, count, hurried) }).await;
        let asked = asked.lock().unwrap().clone();
        (asked, told)
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_again_when_its_ttl_ends_and_news_is_told_once() {
        let answers = vec![told(Some(1), 20), told(Some(1), 3600), told(Some(2), 0), failed(), failed(), told(None, 0)];
        let (asked, news) = run(answers, Vec::new()).await;
        let expected = [
            (0, 0, false),
            (20, 1, false),
            (50, 1, false),
            (51, 1, false),
            (52, 1, true),
            (54, 1, true),
            (59, 0, false),
        ];
        assert_eq!(asked, expected);
        assert_eq!(news, 4, "an address, another, that it fails, that it is gone");
    }
    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_reached_is_asked_for_soon_and_not_more_often_than_that() {
        let answers = vec![told(Some(1), 30), told(Some(1), 30), told(Some(1), 30)];
        let hurries = [10_000, 10_100, 10_200, 20_000].map(Duration::from_millis).into();
        let (asked, _) = run(answers, hurries).await;
        let at: Vec<u64> = asked.iter().map(|(at, ..)| *at).collect();
        assert_eq!(at, [0, 10, 11, 20]);
    }
}
