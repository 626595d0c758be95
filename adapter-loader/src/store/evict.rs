//! What goes when the disk's budget is used up.

use tutti_api::AdapterPath;

/// What somebody has on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Whose it is.
    pub(crate) path: AdapterPath,
    /// Unit: bytes.
    pub(crate) bytes: u64,
    /// What it is worth.
    pub(crate) worth: Worth,
    /// When it was last of use. Unit: seconds since 1970.
    pub(crate) used: u64,
}

/// What an adapter is worth, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Worth {
    /// No model wants it.
    Unwanted,
    /// A model refers to it.
    Wanted,
    /// It is the newest of its model.
    Newest,
    /// A gateway may still send requests for it.
    Leased,
    /// A model's traffic goes there.
    Pinned,
}

/// There is no room, whatever goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom {
    /// What would be free at most. Unit: bytes.
    pub(crate) at_most: u64,
}

/// Who has to go so that `need` bytes more fit into `budget`: the least worth first, and of those the least recently used.
/// Nobody goes for one that is worth no more than himself, or they would take turns; whoever is leased, pinned or the newest
/// of its model never goes.
pub(crate) fn evict(held: &[Held], need: u64, budget: u64, newcomer: Worth) -> Result<Vec<AdapterPath>, NoRoom> {
    let taken: u64 = held.iter().map(|held| held.bytes).sum();
    let mut over = taken.saturating_add(need).saturating_sub(budget);
    let spared =
        |held: &&Held| held.worth < newcomer.max(Worth::Wanted) && held.worth < Worth::Newest && held.bytes > 0;
    let mut may_go: Vec<&Held> = held.iter().filter(spared).collect();
    may_go.sort_by_key(|held| (held.worth, held.used));
    let mut gone = Vec::new();
    for held in &may_go {
        if over == 0 {
            break;
        }
        over = over.saturating_sub(held.bytes);
        gone.push(held.path.clone());
    }
    if over == 0 {
        return Ok(gone);
    }
    let stays = taken - may_go.iter().map(|held| held.bytes).sum::<u64>();
    Err(NoRoom { at_most: budget.saturating_sub(stays) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(path: &str, bytes: u64, worth: Worth, used: u64) -> Held {
        Held { path: path.parse().unwrap(), bytes, worth, used }
    }

    #[test]
    fn who_was_of_use_longest_ago_goes_first_and_nobody_more_than_must() {
        let all = [
            held("a/1", 10, Worth::Unwanted, 5),
            held("a/2", 10, Worth::Unwanted, 3),
            held("a/3", 10, Worth::Wanted, 1),
            held("a/4", 10, Worth::Pinned, 0),
        ];
        let gone = |need, newcomer| {
            evict(&all, need, 40, newcomer).map(|gone| gone.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(gone(0, Worth::Wanted).unwrap(), [""; 0]);
        assert_eq!(gone(10, Worth::Wanted).unwrap(), ["a/2"]);
        assert_eq!(gone(20, Worth::Wanted).unwrap(), ["a/2", "a/1"]);
        assert_eq!(gone(30, Worth::Wanted), Err(NoRoom { at_most: 20 }), "wanted ones do not take turns");
        assert_eq!(gone(30, Worth::Pinned).unwrap(), ["a/2", "a/1", "a/3"]);
        assert_eq!(gone(31, Worth::Pinned), Err(NoRoom { at_most: 30 }));
    }

    fn anyone() -> impl Strategy<Value = Vec<Held>> {
        let worth = prop_oneof![
            Just(Worth::Unwanted),
            Just(Worth::Wanted),
            Just(Worth::Newest),
            Just(Worth::Leased),
            Just(Worth::Pinned)
        ];
        let one = (0..1000_u64, worth, 0..50_u64);
        proptest::collection::vec(one, 0..12).prop_map(|all| {
            let one = |(number, (bytes, worth, used))| held(&format!("m/{number}"), bytes, worth, used);
            all.into_iter().enumerate().map(one).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_evicted_makes_room_spares_whom_it_must_and_is_no_more_than_needed(
            all in anyone(), need in 0..2000_u64, budget in 0..6000_u64, pinned: bool,
        ) {
            let newcomer = if pinned { Worth::Pinned } else { Worth::Wanted };
            let of = |gone: &[AdapterPath]| all.iter().filter(|h| gone.contains(&h.path)).cloned().collect::<Vec<_>>();
            let sum = |held: &[Held]| held.iter().map(|held| held.bytes).sum::<u64>();
            match evict(&all, need, budget, newcomer) {
                Ok(gone) => {
                    let (went, total) = (of(&gone), sum(&all));
                    prop_assert!(went.iter().all(|held| held.worth < Worth::Newest && held.worth < newcomer));
                    prop_assert!(total - sum(&went) + need <= budget || (went.is_empty() && total + need <= budget));
                    // Without the last one to go it would not have been enough.
                    if let Some((_, but_last)) = gone.split_last() {
                        prop_assert!(total - sum(&of(but_last)) + need > budget);
                    }
                    // Whoever stays though he might have gone is worth more, or was of use later.
                    let latest = went.iter().map(|held| (held.worth, held.used)).max();
                    for stays in all.iter().filter(|h| h.bytes > 0 && h.worth < newcomer && h.worth < Worth::Newest && !gone.contains(&h.path)) {
                        prop_assert!(latest.is_none_or(|latest| latest <= (stays.worth, stays.used)));
                    }
                }
                Err(NoRoom { at_most }) => {
                    prop_assert!(at_most < need || sum(&all) + need > budget);
                    let stays: u64 = all.iter().filter(|h| h.worth >= Worth::Newest || h.worth >= newcomer).map(|h| h.bytes).sum();
                    prop_assert!(stays + need > budget);
                    prop_assert_eq!(at_most, budget.saturating_sub(stays));
                }
            }
        }
    }
}
