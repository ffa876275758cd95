//! Greater-than (Hanna et al. 2023, arXiv 2305.00586).

use super::words::Words;
use crate::CircuitError;
use crate::task::{OneOrSeveral, Text};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

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

/// Prompts of years that are a century and two digits, each in as many tokens as the others.
pub(super) fn texts(
    words: &Words<'_>,
    n: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Text>, CircuitError> {
    let nouns = words.single("greater-than", "nouns", NOUNS, 4)?;
    let tokenizer = words.model.tokenizer()?;
    // What a year's last two digits are after its century: two digits in one token, or one digit
    // each.
    let ids = |text: &str| tokenizer.encode(text);
    let century = ids(" 17")?;
    let tails = |year: u32| -> Result<Option<Vec<u32>>, CircuitError> {
        let year = ids(&format!(" 17{year:02}"))?;
        Ok(year.strip_prefix(&century[..]).map(<[u32]>::to_vec))
    };
    let whole = (0..100).try_fold(true, |all, year| -> Result<bool, CircuitError> {
        Ok(all && tails(year)?.is_some_and(|tail| tail.len() == 1))
    })?;
    let digits = (0..10).try_fold(true, |all, digit| -> Result<bool, CircuitError> {
        Ok(all && tails(digit * 11)?.is_some_and(|tail| tail.len() == 2))
    })?;
    if !whole && !digits {
        return Err(CircuitError::Task {
            task: "greater-than".into(),
            problem: format!(
                "the tokenizer of {} does not cut years into a century and two digits",
                words.model.name()
            ),
        });
    }
    let text = |_| {
        let noun = nouns.choose(rng).expect("several");
        let century = rng.random_range(11..=17);
        // Of years in one digit each, only the tens are predicted: some must be larger and some
        // smaller, and the year's own may be right.
        let year = rng.random_range(if whole { 2..99 } else { 10..90 });
        let prompt = |year: u32| {
            format!("The {noun} lasted from the year {century}{year:02} to the year {century}")
        };
        let ends = |years: std::ops::Range<u32>| {
            let text = |year: u32| {
                if whole {
                    format!("{year:02}")
                } else {
                    year.to_string()
                }
            };
            OneOrSeveral::Several(years.map(text).collect())
        };
        let (right, wrong) = match whole {
            true => (year + 1..100, 0..year + 1),
            false => (year / 10 + 1..10, 0..year / 10),
        };
        Text {
            clean: prompt(year),
            corrupted: prompt(1),
            answer: ends(right),
            wrong: ends(wrong),
        }
    };
    Ok((0..n).map(text).collect())
}
