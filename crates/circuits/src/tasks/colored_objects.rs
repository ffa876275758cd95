//! Colored objects (Merullo et al. 2023, arXiv 2310.08744; Srivastava et al. 2022): which color has
//! one of three objects, after one example.

use super::words::Words;
use crate::CircuitError;
use crate::task::{OneOrSeveral, Text};
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

const OBJECTS: &[&str] = &[
    "pen", "cup", "ball", "book", "plate", "bottle", "bowl", "mug", "pencil", "notebook",
    "envelope", "bracelet", "necklace", "leash", "puzzle", "lighter", "key",
];
const COLORS: &[&str] = &[
    "red", "orange", "yellow", "green", "blue", "brown", "black", "purple",
];
const CAPITALIZED: &[&str] = &[
    "Red", "Orange", "Yellow", "Green", "Blue", "Brown", "Black", "Purple",
];
const PLACES: &[&str] = &["table", "desk", "floor"];
const SIGHTS: &[&str] = &["there is", "you see", "I see"];

/// Prompts of two questions; corrupted: the second question is about another object.
pub(super) fn texts(
    words: &Words<'_>,
    n: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Text>, CircuitError> {
    let objects = words.single("colored-objects", "objects", OBJECTS, 3)?;
    let answers = words.single("colored-objects", "colors", CAPITALIZED, 3)?;
    let colors: Vec<&str> = (COLORS.iter().zip(CAPITALIZED))
        .filter(|(_, answer)| answers.contains(answer))
        .map(|(color, _)| *color)
        .collect();
    let mut scene = || {
        let objects: Vec<&str> = objects.choose_multiple(rng, 3).copied().collect();
        let colors: Vec<&str> = colors.choose_multiple(rng, 3).copied().collect();
        let place = PLACES.choose(rng).expect("there are places");
        let sight = SIGHTS.choose(rng).expect("there are sights");
        let order = [0, 1, 2].choose_multiple(rng, 2).copied().collect();
        (
            Scene {
                place,
                sight,
                objects,
                colors,
            },
            order,
        )
    };
    let text = |_| {
        let (example, shown): (Scene<'_>, Vec<usize>) = scene();
        let (asked, chosen): (Scene<'_>, Vec<usize>) = scene();
        let prompt = |object: usize| {
            format!(
                "{}{}\n{}",
                example.question(shown[0]),
                example.answer(shown[0]),
                asked.question(object)
            )
        };
        Text {
            clean: prompt(chosen[0]),
            corrupted: prompt(chosen[1]),
            answer: OneOrSeveral::One(asked.answer(chosen[0])),
            wrong: OneOrSeveral::One(asked.answer(chosen[1])),
        }
    };
    Ok((0..n).map(text).collect())
}

/// Three objects and their colors.
struct Scene<'a> {
    place: &'a str,
    sight: &'a str,
    objects: Vec<&'a str>,
    colors: Vec<&'a str>,
}

impl Scene<'_> {
    fn question(&self, object: usize) -> String {
        let of = |i: usize| {
            let article = match self.colors[i].starts_with(['a', 'e', 'i', 'o', 'u']) {
                true => "an",
                false => "a",
            };
            format!("{article} {} {}", self.colors[i], self.objects[i])
        };
        format!(
            "Q: On the {}, {} {}, {}, and {}. What color is the {}?\nA:",
            self.place,
            self.sight,
            of(0),
            of(1),
            of(2),
            self.objects[object]
        )
    }

    /// With its space: ` Red`.
    fn answer(&self, object: usize) -> String {
        let place = COLORS.iter().position(|c| *c == self.colors[object]);
        format!(" {}", CAPITALIZED[place.expect("a color of the list")])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_three_objects_and_asks_for_one() {
        let scene = Scene {
            place: "desk",
            sight: "you see",
            objects: vec!["pen", "cup", "ball"],
            colors: vec!["red", "orange", "blue"],
        };
        assert_eq!(
            scene.question(1),
            "Q: On the desk, you see a red pen, an orange cup, and a blue ball. What color is the \
             cup?\nA:"
        );
        assert_eq!(scene.answer(1), " Orange");
        let capitals = COLORS.iter().zip(CAPITALIZED);
        capitals.for_each(|(color, capital)| assert_eq!(*color, capital.to_lowercase()));
    }
}
