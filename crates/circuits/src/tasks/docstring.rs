//! Docstrings of Python functions (Heimersheim and Janiak 2023): the arguments of the definition
//! come again in their order.

use super::words::Words;
use crate::CircuitError;
use crate::task::{OneOrSeveral, Text};
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

const ARGUMENTS: &[&str] = &[
    "page", "node", "user", "token", "event", "state", "order", "image", "label", "title", "value",
    "index", "model", "group", "table", "field", "limit", "color", "width", "error", "level",
    "source", "client", "parent", "result", "shape", "count", "size", "text", "path", "file",
    "code", "date", "time", "test", "line", "list", "item", "name", "key", "port", "host", "mode",
    "type", "data", "new", "old", "end",
];
const WORDS: &[&str] = &[
    "sea", "hand", "house", "water", "road", "letter", "book", "friend", "window", "paper",
    "story", "church", "market", "river", "garden", "winter", "summer", "world", "school",
    "doctor", "king", "horse", "tree", "wall", "door", "room", "war", "law", "land", "city",
];

/// Six arguments in the definition, three of which are those of the docstring. Corrupted: three
/// other names in the definition, and again other ones in the docstring, so that the definition
/// does not say what follows.
pub(super) fn texts(
    words: &Words<'_>,
    n: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Text>, CircuitError> {
    let arguments = words.single("docstring", "arguments", ARGUMENTS, 11)?;
    let nouns = words.single("docstring", "words", WORDS, 8)?;
    let text = |_| {
        let names: Vec<&str> = arguments.choose_multiple(rng, 11).copied().collect();
        let nouns: Vec<&str> = nouns.choose_multiple(rng, 8).copied().collect();
        let (fillers, right) = ([names[0], names[1], names[2]], &names[3..6]);
        let (others, unknown) = (&names[6..9], &names[9..11]);
        Text {
            clean: fill(&nouns, fillers, right, right),
            corrupted: fill(&nouns, fillers, others, unknown),
            answer: OneOrSeveral::One(format!(" {}", right[2])),
            wrong: OneOrSeveral::Several(
                fillers
                    .iter()
                    .chain(&right[..2])
                    .map(|name| format!(" {name}"))
                    .collect(),
            ),
        }
    };
    Ok((0..n).map(text).collect())
}

/// The definition with three fillers and three arguments, and a docstring of two of them.
fn fill(words: &[&str], fillers: [&str; 3], arguments: &[&str], documented: &[&str]) -> String {
    let [a, b, c] = fillers;
    let (method, about) = (words[0], words[1..4].join(" "));
    let (first, second) = (words[4..6].join(" "), words[6..8].join(" "));
    let arguments = arguments.join(", ");
    format!(
        "def {method}(self, {a}, {b}, {arguments}, {c}):\n    \"\"\"{about}\n\n    :param \
         {}: {first}\n    :param {}: {second}\n    :param",
        documented[0], documented[1]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_a_definition_are_documented_in_their_order() {
        let words = ["load", "a", "b", "c", "d", "e", "f", "g"];
        let arguments = ["files", "project", "names"];
        assert_eq!(
            fill(&words, ["x", "y", "z"], &arguments, &arguments),
            "def load(self, x, y, files, project, names, z):\n    \"\"\"a b c\n\n    :param \
             files: d e\n    :param project: f g\n    :param"
        );
    }
}
