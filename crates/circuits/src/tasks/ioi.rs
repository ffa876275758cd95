//! Indirect object identification (Wang et al. 2022, arXiv 2211.00593).

use super::words::Words;
use crate::CircuitError;
use crate::task::{OneOrSeveral, Text};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

const NAMES: &[&str] = &[
    "Mary", "John", "Tom", "James", "Anna", "Paul", "Peter", "Sarah", "David", "Mark", "Laura",
    "Simon", "Alice", "Henry", "Emma", "George", "Jack", "Robert", "Jane", "Charles", "William",
    "Thomas", "Martin", "Daniel", "Michael", "Richard", "Joseph", "Samuel", "Andrew", "Edward",
    "Frank", "Joe", "Sam", "Max", "Adam", "Kate", "Lisa", "Susan", "Helen", "Steve", "Matt",
    "Chris", "Alex", "Ben", "Dan", "Luke", "Jim", "Bill", "Scott", "Kevin",
];
const PLACES: &[&str] = &[
    "store",
    "garden",
    "restaurant",
    "school",
    "hospital",
    "office",
    "house",
    "station",
    "market",
    "park",
    "church",
    "city",
];
const OBJECTS: &[&str] = &[
    "ring", "kiss", "bone", "book", "computer", "drink", "letter", "ball", "flower", "gift",
];
/// A and B are the names of the first clause, S is the subject of the second.
const TEMPLATES: &[&str] = &[
    "Then, A and B went to the PLACE. S gave a OBJECT to",
    "When A and B got a OBJECT at the PLACE, S decided to give it to",
    "After A and B went to the PLACE, S gave a OBJECT to",
    "While A and B were working at the PLACE, S gave a OBJECT to",
    "Then, A and B had a long argument at the PLACE, and afterwards S said to",
];

/// Prompts in which the repeated name comes first as often as second.
pub(super) fn texts(
    words: &Words<'_>,
    n: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Text>, CircuitError> {
    let names = words.single("ioi", "names", NAMES, 8)?;
    let places = words.single("ioi", "places", PLACES, 1)?;
    let objects = words.single("ioi", "objects", OBJECTS, 1)?;
    let text = |_| {
        let template = TEMPLATES.choose(rng).expect("there are templates");
        let place = places.choose(rng).expect("at least one");
        let object = objects.choose(rng).expect("at least one");
        let chosen: Vec<&str> = names.choose_multiple(rng, 5).copied().collect();
        let [io, subject, other_a, other_b, other_s] = chosen[..] else {
            unreachable!("there are more names")
        };
        let (a, b) = if rng.random() {
            (io, subject)
        } else {
            (subject, io)
        };
        Text {
            clean: fill(template, [a, b, subject, place, object]),
            corrupted: fill(template, [other_a, other_b, other_s, place, object]),
            answer: OneOrSeveral::One(format!(" {io}")),
            wrong: OneOrSeveral::One(format!(" {subject}")),
        }
    };
    Ok((0..n).map(text).collect())
}

/// Puts words in place of A, B, S, PLACE and OBJECT.
fn fill(template: &str, [a, b, s, place, object]: [&str; 5]) -> String {
    let word = |word: &str| {
        let (stem, tail) = word.split_at(word.trim_end_matches(['.', ',']).len());
        let new = match stem {
            "A" => a,
            "B" => b,
            "S" => s,
            "PLACE" => place,
            "OBJECT" => object,
            other => other,
        };
        format!("{new}{tail}")
    };
    template.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_word_by_word() {
        let words = ["Anna", "Ben", "Ben", "park", "ring"];
        assert_eq!(
            fill(TEMPLATES[0], words),
            "Then, Anna and Ben went to the park. Ben gave a ring to"
        );
        assert!(
            TEMPLATES
                .iter()
                .all(|t| fill(t, words).matches("Ben").count() == 2)
        );
    }
}
