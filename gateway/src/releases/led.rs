//! A gateway among several: it keeps the newest word of the driver.

use std::path::PathBuf;

use tutti_api::TrafficWord;

use super::Disobeyed;
use super::kept::Kept;

/// Why a word is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTaken {
    /// A newer one is known.
    #[error("{driver} has said something newer (term {}, generation {})", .age.0, .age.1)]
    Older {
        /// Who said it.
        driver: String,
        /// Its term and generation.
        age: (u64, u64),
    },
    /// Somebody else drives.
    #[error("{driver} drives here in this term ({term}): there is one driver at a time")]
    Another {
        /// Who does.
        driver: String,
        /// The term.
        term: u64,
    },
    /// It names what this gateway's configuration does not have; the rest is taken.
    #[error("its configuration does not have {0}")]
    Lacking(String),
    /// The table for it cannot be built: it goes by what it went by before.
    #[error("its table cannot be built ({why}): it goes by {}", at(.in_force))]
    Unbuilt {
        /// Why.
        why: String,
        /// Term and generation of what it goes by; `None`: its configuration.
        in_force: Option<(u64, u64)>,
    },
    /// This gateway drives itself.
    #[error("this gateway knows no others: it drives its releases itself")]
    Lone,
}

/// A word by its age, for people.
fn at(age: &Option<(u64, u64)>) -> String {
    age.as_ref()
        .map_or("its configuration".to_owned(), |(term, generation)| format!("term {term}, generation {generation}"))
}

/// What a gateway was told.
#[derive(Debug, Default)]
pub(crate) struct Led {
    /// The newest word.
    word: Option<TrafficWord>,
    /// Term and generation of the one that every queue goes by: an older one where no table can be built for the newest.
    in_force: Option<(u64, u64)>,
    /// Where it is kept for the next start; `None`: nowhere.
    kept: Option<Kept>,
}

impl Led {
    /// Of a gateway that keeps what it goes by in this file, and begins with what it went by last, or with what the one before
    /// it has told: with the newer one. On the current runtime.
    pub(crate) fn open(file: Option<PathBuf>, told: Option<TrafficWord>) -> Self {
        let (kept, known) = file.map(Kept::open).unzip();
        let word = [told, known.flatten()].into_iter().flatten().max_by_key(TrafficWord::age);
        Self { word, in_force: None, kept }
    }

    /// What it goes by; `None` where nobody has said anything: then by its configuration.
    pub(crate) fn word(&self) -> Option<&TrafficWord> {
        self.word.as_ref()
    }

    /// Who is to be asked in its place.
    pub(crate) fn whose(&self) -> Disobeyed {
        Disobeyed::Another(match &self.word {
            Some(word) => format!("ask {}", word.driver),
            None => {
                "this gateway knows others, and nobody drives them: start `tutti scaler-metrics --drive`".to_owned()
            }
        })
    }

    /// Every queue goes by the newest word.
    pub(crate) fn in_force(&mut self) {
        let age = self.word.as_ref().map(TrafficWord::age);
        if let (Some(kept), Some(word)) = (&self.kept, &self.word)
            && self.in_force != age
        {
            kept.keep(word);
        }
        self.in_force = age;
    }

    /// Term and generation of what every queue goes by; `None`: the configuration.
    pub(crate) fn goes_by(&self) -> Option<(u64, u64)> {
        self.in_force
    }

    /// Takes a word; whether there is something to do for it: it says something new, or no queue goes by it yet.
    ///
    /// # Errors
    /// A newer one is known, or one of another driver in the same term.
    pub(crate) fn take(&mut self, word: TrafficWord) -> Result<bool, NotTaken> {
        if let Some(known) = &self.word {
            if word.age() < known.age() {
                return Err(NotTaken::Older { driver: known.driver.clone(), age: known.age() });
            }
            if word.term == known.term && word.driver != known.driver {
                return Err(NotTaken::Another { driver: known.driver.clone(), term: known.term });
            }
            if *known == word {
                return Ok(self.in_force != Some(word.age()));
            }
        }
        self.word = Some(word);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(driver: &str, term: u64, generation: u64) -> TrafficWord {
        TrafficWord { driver: driver.to_owned(), term, generation, models: Vec::new() }
    }

    #[test]
    fn the_newest_word_is_kept_and_older_ones_are_refused() {
        let mut led = Led::default();
        assert_eq!(led.take(word("a", 1, 5)), Ok(true));
        assert_eq!(led.take(word("a", 1, 5)), Ok(true), "no queue goes by it yet");
        assert_eq!(led.goes_by(), None);
        led.in_force();
        assert_eq!((led.take(word("a", 1, 5)), led.goes_by()), (Ok(false), Some((1, 5))), "it is known");
        assert_eq!(led.take(word("a", 1, 6)), Ok(true));
        assert!(matches!(led.take(word("a", 1, 5)), Err(NotTaken::Older { age: (1, 6), .. })));
        assert!(matches!(led.take(word("b", 1, 9)), Err(NotTaken::Another { driver, .. }) if driver == "a"));
        assert_eq!(led.take(word("b", 2, 1)), Ok(true), "a later term");
        assert!(matches!(led.take(word("a", 1, 99)), Err(NotTaken::Older { driver, .. }) if driver == "b"));
        assert_eq!(led.word().map(TrafficWord::age), Some((2, 1)));
    }
}
