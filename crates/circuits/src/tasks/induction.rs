//! Induction (Olsson et al. 2022, arXiv 2209.11895): random tokens that come twice.

use crate::{CircuitError, Prompt};
use lapidary_model::LanguageModel;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Tokens before the repetition begins.
const LENGTH: usize = 10;

/// `x₁ … x₁₀ x₁ … x_m`, which `x_{m+1}` follows. Corrupted: another token in place of the first
/// `x_m`, so that nothing says what follows the second one. The wrong answer is another token of
/// the sequence.
pub(super) fn prompts(
    model: &LanguageModel,
    n: usize,
    rng: &mut ChaCha8Rng,
    prepend_bos: bool,
) -> Result<Vec<Prompt>, CircuitError> {
    let c = model.config();
    let bos = c.bos.filter(|_| prepend_bos);
    let mut tokens: Vec<u32> = (0..c.d_vocab as u32)
        .filter(|token| !model.is_special(*token))
        .collect();
    if tokens.len() <= LENGTH || c.n_ctx < 2 * LENGTH + 1 {
        return Err(CircuitError::Task {
            task: "induction".into(),
            problem: format!(
                "{} has {} tokens and a context of {}, expected more than {LENGTH} and at least {}",
                model.name(),
                tokens.len(),
                c.n_ctx,
                2 * LENGTH + 1
            ),
        });
    }
    let prompt = |_| {
        let (chosen, _) = tokens.partial_shuffle(rng, LENGTH + 1);
        let (first, other) = (chosen[..LENGTH].to_vec(), chosen[LENGTH]);
        let m = rng.random_range(LENGTH / 2..LENGTH);
        let with = |token: u32| {
            let mut sequence: Vec<u32> = bos.into_iter().collect();
            sequence.extend(&first[..m - 1]);
            sequence.push(token);
            sequence.extend(&first[m..]);
            sequence.extend(&first[..m]);
            sequence
        };
        // Neither the answer nor the last token.
        let wrong = (m + rng.random_range(1..LENGTH - 1)) % LENGTH;
        Prompt {
            clean: with(first[m - 1]),
            corrupted: with(other),
            answers: vec![first[m]],
            wrong: vec![first[wrong]],
        }
    };
    Ok((0..n).map(prompt).collect())
}
