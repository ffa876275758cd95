//! Agreement of subject and verb across a prepositional phrase (Linzen et al. 2016, arXiv
//! 1611.01368; Marks et al. 2024, arXiv 2403.19647).

use super::words::Words;
use crate::CircuitError;
use crate::task::{OneOrSeveral, Text};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

const SINGULAR: &[&str] = &[
    "boy", "girl", "king", "doctor", "teacher", "student", "friend", "farmer", "soldier", "car",
    "tree", "house", "book", "table", "road", "ship", "river", "letter", "door", "garden",
];
const PLURAL: &[&str] = &[
    "boys", "girls", "kings", "doctors", "teachers", "students", "friends", "farmers", "soldiers",
    "cars", "trees", "houses", "books", "tables", "roads", "ships", "rivers", "letters", "doors",
    "gardens",
];
const PREPOSITIONS: &[&str] = &["near", "behind", "beside", "in front of"];
const VERBS: [&[&str]; 2] = [&["is", "was", "has"], &["are", "were", "have"]];

/// "The boy near the cars" → " is", not " are"; corrupted: the subject in the other number.
pub(super) fn texts(
    words: &Words<'_>,
    n: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Text>, CircuitError> {
    let task = "subject-verb";
    let nouns = words.pairs(task, "nouns", [SINGULAR, PLURAL], 2)?;
    let verbs = words.pairs(task, "verbs", VERBS, 1)?;
    let text = |_| {
        let chosen: Vec<[&str; 2]> = nouns.choose_multiple(rng, 2).copied().collect();
        let (subject, attractor) = (chosen[0], chosen[1]);
        let preposition = PREPOSITIONS.choose(rng).expect("there are prepositions");
        let (number, other) = (usize::from(rng.random::<bool>()), rng.random::<bool>());
        let attractor = attractor[usize::from(other)];
        let prompt =
            |number: usize| format!("The {} {preposition} the {attractor}", subject[number]);
        let verbs = |number: usize| {
            let verbs = verbs.iter().map(|pair| format!(" {}", pair[number]));
            OneOrSeveral::Several(verbs.collect())
        };
        Text {
            clean: prompt(number),
            corrupted: prompt(1 - number),
            answer: verbs(number),
            wrong: verbs(1 - number),
        }
    };
    Ok((0..n).map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_noun_and_verb_has_its_other_number() {
        let pairs = SINGULAR.iter().zip(PLURAL);
        pairs.for_each(|(one, several)| assert_eq!(format!("{one}s"), *several));
        assert_eq!(SINGULAR.len(), PLURAL.len());
        assert_eq!(VERBS[0].len(), VERBS[1].len());
    }
}
