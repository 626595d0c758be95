//! A gateway among several: it keeps the newest word of the driver.

use tutti_api::TrafficWord;

use super::Disobeyed;

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
    /// This gateway drives itself.
    #[error("this gateway knows no others: it drives its releases itself")]
    Lone,
}

/// What a gateway was told.
#[derive(Debug, Default)]
pub(crate) struct Led {
    word: Option<TrafficWord>,
}

impl Led {
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

    /// Takes a word; whether it says something new.
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
                return Ok(false);
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
        assert_eq!(led.take(word("a", 1, 5)), Ok(false), "it is known");
        assert_eq!(led.take(word("a", 1, 6)), Ok(true));
        assert!(matches!(led.take(word("a", 1, 5)), Err(NotTaken::Older { age: (1, 6), .. })));
        assert!(matches!(led.take(word("b", 1, 9)), Err(NotTaken::Another { driver, .. }) if driver == "a"));
        assert_eq!(led.take(word("b", 2, 1)), Ok(true), "a later term");
        assert!(matches!(led.take(word("a", 1, 99)), Err(NotTaken::Older { driver, .. }) if driver == "b"));
        assert_eq!(led.word().map(TrafficWord::age), Some((2, 1)));
    }
}
