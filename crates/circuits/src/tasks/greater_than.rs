//! Greater-than (Hanna et al. 2023, arXiv 2305.00586).

use super::words::Words;
use crate::CircuitError;
use crate::task::{OneOrSeveral, Text};
use lapidary_model::{ModelError, Tokenizer};
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

const NOUNS: &[&str] = &[
    "war",
    "siege",
    "campaign",
    "dispute",
    "strike",
    "journey",
    "project",
    "reign",
    "voyage",
    "treaty",
    "expedition",
    "conflict",
    "trial",
    "famine",
    "plague",
    "mission",
    "study",
    "program",
    "contract",
    "construction",
    "negotiations",
    "struggle",
    "tour",
    "rule",
];
const CENTURIES: std::ops::RangeInclusive<u32> = 11..=17;
/// So many years must be left, or prompts would be much the same.
const FEWEST_YEARS: usize = 20;

/// How the tokenizer cuts the years of a century.
struct Century {
    century: u32,
    /// Years, 0 to 99, that are the century and one token for both digits.
    whole: BTreeSet<u32>,
    /// Whether every year is the century and one token for each of two digits.
    digits: bool,
}

impl Century {
    fn of(century: u32, tokenizer: &Tokenizer) -> Result<Self, ModelError> {
        let alone = tokenizer.encode(&format!(" {century}"))?;
        // The number of tokens after those of the century; 0 if the year is cut otherwise.
        let tail = |year: u32| -> Result<usize, ModelError> {
            let ids = tokenizer.encode(&format!(" {century}{year:02}"))?;
            Ok(ids.strip_prefix(&alone[..]).map_or(0, <[u32]>::len))
        };
        let (mut whole, mut digits) = (BTreeSet::new(), true);
        for year in 0..100 {
            match tail(year)? {
                1 => {
                    whole.insert(year);
                    digits = false;
                }
                2 => {}
                _ => digits = false,
            }
        }
        Ok(Self {
            century,
            whole,
            digits,
        })
    }

    /// The years that prompts may name: those that are cut as the corrupted year, 01, is.
    fn years(&self) -> Vec<u32> {
        if self.digits {
            // Only the tens are predicted: some must be larger and some smaller.
            return (10..90).collect();
        }
        match self.whole.contains(&1) {
            true => self.whole.range(2..99).copied().collect(),
            false => vec![],
        }
    }

    /// What is right and what is wrong after the century, if the year was this one. A year's own
    /// tens may be right.
    fn answers(&self, year: u32) -> [OneOrSeveral; 2] {
        let texts =
            |years: &mut dyn Iterator<Item = String>| OneOrSeveral::Several(years.collect());
        if self.digits {
            let tens = year / 10;
            return [
                texts(&mut (tens + 1..10).map(|digit| digit.to_string())),
                texts(&mut (0..tens).map(|digit| digit.to_string())),
            ];
        }
        let ends = |range: std::ops::Range<u32>| {
            texts(&mut self.whole.range(range).map(|year| format!("{year:02}")))
        };
        [ends(year + 1..100), ends(0..year + 1)]
    }
}

/// Prompts of years that the tokenizer cuts into a century and two digits.
pub(super) fn texts(
    words: &Words<'_>,
    n: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Text>, CircuitError> {
    let nouns = words.single("greater-than", "nouns", NOUNS, 4)?;
    let tokenizer = words.model.tokenizer()?;
    let centuries = CENTURIES.map(|century| Century::of(century, tokenizer));
    let centuries: Vec<Century> = centuries.collect::<Result<_, _>>()?;
    let years: Vec<(&Century, u32)> = centuries
        .iter()
        .flat_map(|century| century.years().into_iter().map(move |year| (century, year)))
        .filter(|(century, year)| {
            let several =
                |texts: &OneOrSeveral| matches!(texts, OneOrSeveral::Several(t) if !t.is_empty());
            century.answers(*year).iter().all(several)
        })
        .collect();
    if years.len() < FEWEST_YEARS {
        return Err(CircuitError::Task {
            task: "greater-than".into(),
            problem: format!(
                "the tokenizer of {} cuts {} years of {} to {} into a century and two digits, \
                 expected at least {FEWEST_YEARS}",
                words.model.name(),
                years.len(),
                CENTURIES.start() * 100,
                CENTURIES.end() * 100 + 99
            ),
        });
    }
    let text = |_| {
        let noun = nouns.choose(rng).expect("several");
        let (century, year) = years.choose(rng).expect("several");
        let prompt = |year: u32| {
            let century = century.century;
            format!("The {noun} lasted from the year {century}{year:02} to the year {century}")
        };
        let [answer, wrong] = century.answers(*year);
        Text {
            clean: prompt(*year),
            corrupted: prompt(1),
            answer,
            wrong,
        }
    };
    Ok((0..n).map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(answers: &OneOrSeveral) -> Vec<&str> {
        match answers {
            OneOrSeveral::Several(texts) => texts.iter().map(String::as_str).collect(),
            OneOrSeveral::One(text) => vec![text],
        }
    }

    #[test]
    fn only_years_that_are_cut_as_the_corrupted_one_are_named() {
        // GPT-2 has " 1700" and " 1711" in one token.
        let mut century = Century {
            century: 17,
            whole: (1..100).filter(|year| *year != 11).collect(),
            digits: false,
        };
        let years = century.years();
        assert!(!years.contains(&11) && !years.contains(&1) && !years.contains(&99));
        assert_eq!(years.len(), 96);
        let [right, wrong] = century.answers(97);
        assert_eq!(texts(&right), ["98", "99"]);
        assert_eq!(texts(&wrong)[..2], ["01", "02"]);
        assert_eq!(texts(&wrong).last(), Some(&"97"));
        century.whole.remove(&1);
        assert!(century.years().is_empty());
    }

    #[test]
    fn of_single_digits_the_tens_are_compared_and_their_own_is_neither_right_nor_wrong() {
        let century = Century {
            century: 17,
            whole: BTreeSet::new(),
            digits: true,
        };
        assert_eq!(century.years(), (10..90).collect::<Vec<u32>>());
        let [right, wrong] = century.answers(74);
        assert_eq!(texts(&right), ["8", "9"]);
        assert_eq!(texts(&wrong), ["0", "1", "2", "3", "4", "5", "6"]);
    }
}
