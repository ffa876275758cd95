//! Two layers of attention that continue repeated sequences. A head of the first layer writes at
//! each position which token comes before it; a head of the second looks for the position after an
//! earlier copy of the current token, and writes the token there. All other heads write noise.

use crate::weights::{self, Attention, Shape};
use lapidary_model::LanguageModel;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const N: usize = 24;
const SHAPE: Shape = Shape {
    heads: 4,
    d_head: N,
    vocabulary: N,
    positions: N,
};
/// Where tokens, positions and previous tokens are in the residual stream.
const TOKEN: usize = 0;
const POSITION: usize = N;
const PREVIOUS: usize = 2 * N;
/// Two dimensions that nobody changes: they make the norms nearly constant.
const CONSTANT: usize = 3 * N;
/// Layer and head.
pub const HEADS: [(usize, usize); 2] = [(0, 1), (1, 2)];
/// Those that carry something else on corrupted prompts: the first copy of the last token is
/// another one there, and only the previous-token head sees it.
pub const EDGES: [&str; 3] = ["input->a0.h1<v>", "a0.h1->a1.h2<k>", "a1.h2->logits"];

/// `noise`: how much the other heads write.
pub fn model(noise: f32) -> LanguageModel {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let d = SHAPE.d_model();
    let mut embeddings = vec![0.0; N * d];
    let mut positions = vec![0.0; N * d];
    for i in 0..N {
        embeddings[i * d + TOKEN + i] = 1.0;
        positions[i * d + POSITION + i] = 1.0;
        positions[i * d + CONSTANT] = 5.0;
        positions[i * d + CONSTANT + 1] = -5.0;
    }
    let mut layers = vec![
        Attention::noise(&SHAPE, noise, &mut rng),
        Attention::noise(&SHAPE, noise, &mut rng),
    ];
    let (layer, head) = HEADS[0];
    layers[layer].read(head, 0, POSITION, 1, 6.0); // position p asks for p − 1
    layers[layer].read(head, 1, POSITION, 0, 6.0);
    layers[layer].read(head, 2, TOKEN, 0, 1.0);
    layers[layer].write(head, PREVIOUS, N, 1.0);
    let (layer, head) = HEADS[1];
    layers[layer].read(head, 0, TOKEN, 0, 5.0);
    layers[layer].read(head, 1, PREVIOUS, 0, 5.0);
    layers[layer].read(head, 2, TOKEN, 0, 1.0);
    layers[layer].write(head, TOKEN, N, 4.0);
    weights::model(&SHAPE, embeddings, positions, layers, None)
}
