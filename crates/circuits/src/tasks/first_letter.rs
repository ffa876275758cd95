//! The first letter of a word (Chanin et al. 2024, arXiv 2409.14507), after examples.

use super::words::Words;
use crate::CircuitError;
use crate::task::{OneOrSeveral, Text};
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

const WORDS: &[&str] = &[
    "apple", "army", "art", "ball", "book", "bread", "car", "city", "church", "door", "dog",
    "doctor", "earth", "east", "eye", "fire", "fish", "food", "garden", "girl", "gold", "hand",
    "house", "horse", "ice", "iron", "island", "job", "judge", "king", "key", "land", "law",
    "letter", "market", "money", "music", "name", "night", "north", "office", "order", "paper",
    "park", "party", "queen", "question", "river", "road", "room", "school", "sea", "story",
    "table", "tree", "town", "union", "voice", "war", "water", "winter", "year", "youth",
];
const LETTERS: &[&str] = &[
    "A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q", "R", "S",
    "T", "U", "V", "W", "Y",
];
/// Examples before the word.
const EXAMPLES: usize = 3;

/// Prompts of examples and one word; corrupted: another word with another first letter.
pub(super) fn texts(
    words: &Words<'_>,
    n: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Text>, CircuitError> {
    let letters = words.single("first-letter", "letters", LETTERS, 4)?;
    let words = words.single("first-letter", "words", WORDS, EXAMPLES + 2)?;
    let words: Vec<&str> = words
        .into_iter()
        .filter(|word| letters.contains(&letter(word).as_str()))
        .collect();
    let first = words.first().map(|word| letter(word));
    let another = words.iter().any(|word| Some(letter(word)) != first);
    if words.len() < EXAMPLES + 2 || !another {
        return Err(CircuitError::Task {
            task: "first-letter".into(),
            problem: format!(
                "found {} words whose first letters are single tokens, expected at least {} and \
                 several letters",
                words.len(),
                EXAMPLES + 2
            ),
        });
    }
    let text = |_| {
        let word = words.choose(rng).expect("several");
        let others: Vec<&str> = words
            .iter()
            .copied()
            .filter(|other| letter(other) != letter(word))
            .collect();
        let other = others.choose(rng).expect("several letters");
        let unused: Vec<&str> = words
            .iter()
            .copied()
            .filter(|w| w != word && w != other)
            .collect();
        let examples: Vec<&str> = unused.choose_multiple(rng, EXAMPLES).copied().collect();
        Text {
            clean: fill(&examples, word),
            corrupted: fill(&examples, other),
            answer: OneOrSeveral::One(format!(" {}", letter(word))),
            wrong: OneOrSeveral::One(format!(" {}", letter(other))),
        }
    };
    Ok((0..n).map(text).collect())
}

/// The first letter, as a capital.
fn letter(word: &str) -> String {
    word.chars().take(1).flat_map(char::to_uppercase).collect()
}

fn fill(examples: &[&str], word: &str) -> String {
    let question = |word: &str| format!("The word {word} has the first letter:");
    let examples = examples
        .iter()
        .map(|example| format!("{} {}\n", question(example), letter(example)));
    examples.collect::<String>() + &question(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_come_with_their_letters_and_the_word_without() {
        assert_eq!(
            fill(&["sea", "dog"], "war"),
            "The word sea has the first letter: S\nThe word dog has the first letter: D\nThe word \
             war has the first letter:"
        );
    }
}
