//! Three layers of attention that say which of two names is not repeated, as in indirect object
//! identification. At the repeated name, a duplicate-token head writes which name it is; at the
//! end, an S-inhibition head copies that from there, and a name mover attends to the names but not
//! to that one, and writes what it sees. All other heads write noise.

use crate::weights::{self, Attention, Shape};
use lapidary_circuits::{Metric, Prompt, Task};
use lapidary_model::LanguageModel;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const NAMES: usize = 12;
const VOCABULARY: usize = NAMES + 2;
const SHAPE: Shape = Shape {
    heads: 3,
    d_head: 20,
    vocabulary: VOCABULARY,
    positions: 5,
};
/// The repeated name; the end comes after it.
const REPEATED: usize = 3;
/// Where tokens, positions, repeated and inhibited tokens are in the residual stream.
const TOKEN: usize = 0;
const POSITION: usize = TOKEN + VOCABULARY;
const DUPLICATE: usize = POSITION + SHAPE.positions;
const INHIBITED: usize = DUPLICATE + VOCABULARY;
/// Two dimensions that nobody changes: they make the norms nearly constant.
const CONSTANT: usize = INHIBITED + VOCABULARY;
/// Layer and head.
pub const HEADS: [(usize, usize); 3] = [(0, 1), (1, 0), (2, 2)];
pub const EDGES: [&str; 8] = [
    "input->a0.h1<q>",
    "input->a0.h1<k>",
    "input->a0.h1<v>",
    "a0.h1->a1.h0<v>",
    "a1.h0->a2.h2<q>",
    "input->a2.h2<k>",
    "input->a2.h2<v>",
    "a2.h2->logits",
];

pub fn model() -> LanguageModel {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let d = SHAPE.d_model();
    let mut embeddings = vec![0.0; VOCABULARY * d];
    for token in 0..VOCABULARY {
        embeddings[token * d + TOKEN + token] = 1.0;
    }
    let mut positions = vec![0.0; SHAPE.positions * d];
    for position in 0..SHAPE.positions {
        positions[position * d + POSITION + position] = 1.0;
        positions[position * d + CONSTANT] = 5.0;
        positions[position * d + CONSTANT + 1] = -5.0;
    }
    let mut layers: Vec<Attention> = (0..3)
        .map(|_| Attention::noise(&SHAPE, 0.1, &mut rng))
        .collect();
    // Coordinates of a head: first one for each token, then one for each position.
    let of_token = 0..VOCABULARY;
    let of_position = 0..SHAPE.positions;
    for (layer, head) in HEADS {
        (0..3).for_each(|part| layers[layer].clear(head, part));
    }
    let (layer, head) = HEADS[0];
    let duplicate = &mut layers[layer];
    for i in of_token.clone() {
        (0..2).for_each(|part| duplicate.link(head, part, TOKEN + i, i, 5.0));
        duplicate.link(head, 2, TOKEN + i, i, 1.0);
    }
    for i in of_position.clone() {
        // Not the token itself.
        duplicate.link(head, 0, POSITION + i, VOCABULARY + i, -8.0);
        duplicate.link(head, 1, POSITION + i, VOCABULARY + i, 8.0);
    }
    duplicate.write(head, DUPLICATE, VOCABULARY, 1.0);

    let (layer, head) = HEADS[1];
    let inhibition = &mut layers[layer];
    inhibition.link(head, 0, POSITION + REPEATED + 1, 0, 6.0);
    inhibition.link(head, 1, POSITION + REPEATED, 0, 6.0);
    for i in of_token.clone() {
        inhibition.link(head, 2, DUPLICATE + i, i, 1.0);
    }
    inhibition.write(head, INHIBITED, VOCABULARY, 1.0);

    let (layer, head) = HEADS[2];
    let mover = &mut layers[layer];
    for i in of_token {
        mover.link(head, 0, INHIBITED + i, i, -5.0);
        mover.link(head, 1, TOKEN + i, i, 5.0);
        mover.link(head, 2, TOKEN + i, i, 1.0);
    }
    for i in 0..2 {
        mover.link(head, 0, CONSTANT, VOCABULARY + i, 1.0);
        mover.link(head, 1, POSITION + i, VOCABULARY + i, 5.0);
    }
    mover.write(head, TOKEN, VOCABULARY, 4.0);
    weights::model(&SHAPE, embeddings, positions, layers, None)
}

/// "A B and B gives" → A, with the two names in either order; corrupted: three other names.
pub fn task(n: usize) -> Task {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut names: Vec<u32> = (0..NAMES as u32).collect();
    let (and, gives) = (NAMES as u32, NAMES as u32 + 1);
    let prompt = |_| {
        names.shuffle(&mut rng);
        let (io, subject) = (names[0], names[1]);
        let (first, second) = match rng.random() {
            true => (io, subject),
            false => (subject, io),
        };
        Prompt {
            clean: vec![first, second, and, subject, gives],
            corrupted: vec![names[2], names[3], and, names[4], gives],
            answers: vec![io],
            wrong: vec![subject],
        }
    };
    Task {
        name: "names".into(),
        prompts: (0..n).map(prompt).collect(),
        metric: Metric::LogitDifference,
    }
}
