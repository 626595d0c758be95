//! Under which full names a name is asked for, as resolv.conf(5) says it.

use std::pin::pin;
use std::time::Duration;

use super::answer::{Answer, Part};

/// The longest name there is (RFC 1035, section 2.3.4), with its last dot. Unit: bytes.
const MAX_NAME: usize = 254;
/// How much longer than one family the other may take. Some name servers and networks never answer a question for AAAA,
/// and what is known of A must not wait until all of them have been asked in vain.
const OTHER_WITHIN: Duration = Duration::from_secs(1);

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// Who knows the addresses of full names.
pub(super) trait Dns: Sync {
    /// Asks for those of one family.
    fn ask(&self, name: &str, family: Family) -> impl Future<Output = Part> + Send;
}

/// The full names to ask for, in order. A name with a last dot is full already; one with fewer than `ndots` dots is
/// tried under the search domains first, one with more as it stands.
pub(super) fn candidates(name: &str, search: &[String], ndots: usize) -> Vec<String> {
    if name.ends_with('.') {
        return vec![name.to_owned()];
    }
    let itself = format!("{name}.");
    let under = search.iter().map(|domain| match domain.trim_matches('.') {
        "" => itself.clone(),
        domain => format!("{name}.{domain}."),
    });
    let dots = name.matches('.').count();
    let mut names: Vec<String> = if dots >= ndots {
        std::iter::once(itself.clone()).chain(under).collect()
    } else {
        under.chain([itself.clone()]).collect()
    };
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| name.len() <= MAX_NAME && seen.insert(name.clone()));
    names
}

/// Asks for one name after the other until one has addresses. Where none has, a failure is said before a name that has
/// none: it might have had some. What is not passed over is the name that had addresses the last time (`last`), whatever
/// becomes of it: the one that another search domain has, further down the list, is somebody else's.
pub(super) async fn resolve(names: Vec<String>, last: Option<&str>, dns: &impl Dns) -> Answer {
    let mut nothing = None;
    let mut failed = None;
    for name in names {
        let (v4, v6) = both(&name, dns).await;
        let answer = Answer { name, v4, v6 };
        if answer.has_addresses() || last == Some(&answer.name) {
            return answer;
        }
        match answer.failure() {
            Some(_) => _ = failed.get_or_insert(answer),
            None => _ = nothing.insert(answer),
        }
    }
    let none = || Part::Nothing { exists: false, ttl: None };
    failed.or(nothing).unwrap_or_else(|| Answer { name: String::new(), v4: none(), v6: none() })
}

/// Asks for both families at once.
async fn both(name: &str, dns: &impl Dns) -> (Part, Part) {
    let (mut v4, mut v6) = (pin!(dns.ask(name, Family::V4)), pin!(dns.ask(name, Family::V6)));
    tokio::select! {
        first = &mut v4 => {
            let v6 = other(&first, v6).await;
            (first, v6)
        }
        first = &mut v6 => (other(&first, v4).await, first),
    }
}

/// The second family's part, after the first.
async fn other(first: &Part, second: impl Future<Output = Part>) -> Part {
    if matches!(first, Part::Failed(_)) {
        return second.await; // all there may be
    }
    let late = || Part::Failed(format!("the other family was answered {OTHER_WITHIN:?} before"));
    tokio::time::timeout(OTHER_WITHIN, second).await.unwrap_or_else(|_| late())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(list: &[&str]) -> Vec<String> {
        list.iter().map(|domain| (*domain).to_owned()).collect()
    }

    #[test]
    fn a_name_is_looked_for_where_resolv_conf_says() {
        let kubernetes = domains(&["bank.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
        assert_eq!(
            candidates("ollama", &kubernetes, 5),
            ["ollama.bank.svc.cluster.local.", "ollama.svc.cluster.local.", "ollama.cluster.local.", "ollama."]
        );
        assert_eq!(candidates("ollama.ai.svc", &kubernetes, 5)[2], "ollama.ai.svc.cluster.local.");
        assert_eq!(
            candidates("gpu.example.com", &domains(&["corp"]), 1),
            ["gpu.example.com.", "gpu.example.com.corp."]
        );
        assert_eq!(candidates("gpu.example.com.", &kubernetes, 5), ["gpu.example.com."]);
        assert_eq!(candidates("gpu", &[], 1), ["gpu."]);
        assert_eq!(candidates("gpu", &domains(&[".", "corp.", "corp"]), 1), ["gpu.", "gpu.corp."]);
        let long = "x".repeat(63);
        assert_eq!(candidates("gpu", &domains(&[&[&*long; 4].join(".")]), 1), ["gpu."]);
    }

    /// Answers by what the name begins with.
    struct ByName;

    impl Dns for ByName {
        async fn ask(&self, name: &str, family: Family) -> Part {
            match (name.split('.').next(), family) {
                (Some("v6"), Family::V6) => {
                    Part::Addresses { found: vec!["::1".parse().unwrap()], ttl: Duration::from_secs(9) }
                }
                (Some("slow"), Family::V4) => {
                    tokio::time::sleep(Duration::from_secs(9)).await;
                    Part::Addresses { found: vec!["10.0.0.1".parse().unwrap()], ttl: Duration::from_secs(9) }
                }
                (Some("slow"), Family::V6) if name != "slow.fails." => Part::Nothing { exists: true, ttl: None },
                (Some("slow"), Family::V6) => Part::Failed(name.to_owned()),
                (Some("half"), Family::V6) | (Some("fails"), _) => Part::Failed(name.to_owned()),
                _ => Part::Nothing { exists: false, ttl: None },
            }
        }
    }

    async fn asked(names: &[&str], last: Option<&str>) -> Answer {
        resolve(names.iter().map(|name| (*name).to_owned()).collect(), last, &ByName).await
    }

    #[tokio::test]
    async fn the_first_with_addresses_is_it() {
        assert_eq!(asked(&["none.", "v6.a.", "v6.b."], None).await.name, "v6.a.");
        assert_eq!(
            asked(&["fails.", "half.", "v6."], None).await.name,
            "v6.",
            "a domain that cannot be asked is passed over"
        );
        assert_eq!(asked(&["none.a.", "none.b."], None).await.failure(), None);
        assert_eq!(asked(&["none.", "half.", "fails.", "none."], None).await.failure(), Some("half."));
        assert_eq!(asked(&[], None).await.failure(), None);
    }

    #[tokio::test]
    async fn who_answered_the_last_time_is_not_passed_over() {
        assert_eq!(asked(&["fails.", "v6."], Some("fails.")).await.failure(), Some("fails."));
        assert_eq!(asked(&["none.", "v6."], Some("none.")).await.name, "none.", "that it is gone is an answer");
        assert_eq!(asked(&["v6.a.", "v6.b."], Some("v6.b.")).await.name, "v6.a.", "it is not asked for first, though");
    }

    #[tokio::test(start_paused = true)]
    async fn one_family_waits_for_the_other_only_where_that_is_all_there_may_be() {
        let begun = tokio::time::Instant::now();
        assert_eq!(asked(&["slow.", "v6."], None).await.name, "v6.");
        assert_eq!(begun.elapsed(), OTHER_WITHIN);
        assert!(asked(&["slow."], None).await.failure().is_some(), "which is not that it has none");
        assert!(asked(&["slow.fails."], None).await.has_addresses());
    }
}
