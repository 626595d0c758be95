//! Rendezvous hashing (Thaler, Ravishankar 1998): of several places the one that something is meant for. Whoever knows the
//! names finds the same, in every process and after every restart; where a place goes, that alone moves which was meant
//! for it.

/// The number that a name stands for: FNV-1a.
pub(crate) fn key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// How much a place is meant for something, both by their keys. No two places are meant for it as much.
pub(crate) fn weight(what: u64, place: u64) -> u64 {
    mixed(mixed(what) ^ place)
}

/// The last steps of SplitMix64: FNV's high bits hardly move with the last byte.
fn mixed(hash: u64) -> u64 {
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(what: &str, places: &[String]) -> usize {
        (0..places.len()).max_by_key(|at| weight(key(what), key(&places[*at]))).unwrap()
    }

    #[test]
    fn each_place_is_meant_for_as_much_and_one_that_goes_moves_only_its_own() {
        let mut places: Vec<String> = (0..10).map(|at| format!("http://10.0.0.{at}:11434")).collect();
        let names: Vec<String> = (0..10_000).map(|at| format!("risk:v{at}")).collect();
        let before: Vec<usize> = names.iter().map(|name| meant(name, &places)).collect();
        for place in 0..places.len() {
            let share = before.iter().filter(|at| **at == place).count();
            assert!((850..1150).contains(&share), "{share} of 10,000");
        }
        places.pop();
        for (name, before) in names.iter().zip(before).filter(|(_, before)| *before < 9) {
            assert_eq!(meant(name, &places), before);
        }
    }

    #[test]
    fn the_same_in_every_process() {
        assert_eq!(key("risk"), 0xb21b_481f_f869_bd4a);
        assert_eq!(weight(key("risk"), key("http://10.0.0.1:11434")), 0xdbad_32e8_ad5f_30e4);
    }
}
