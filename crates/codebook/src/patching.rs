//! What happens to the next state when the codes of one state are put in place of another's.

use crate::data::{generator, stream};
use crate::state_counts::Counts;
use crate::{CodeEdit, CodebookError, Codebooks, TokFsm};
use burn::tensor::activation;
use lapidary_model::LanguageModel;
use rand::Rng;
use serde::Serialize;

/// Branches of next states with less probability are left out.
const NEGLIGIBLE: f64 = 1e-7;

/// What patching the codes of one state over another's came to, as means over patches.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Patched {
    /// Patches.
    pub patches: usize,
    /// Probability of the successors of the state whose codes are put in.
    pub mass: f64,
    /// The same before the patch.
    pub mass_before: f64,
    /// Jensen-Shannon divergence, in bits (0 to 1), between the prediction of the next state after
    /// the patch and the successors of the state whose codes are put in, equally likely.
    pub jensen_shannon: f64,
    /// The same before the patch.
    pub jensen_shannon_before: f64,
}

/// Puts the codes of a random state B in place of those of the state A that a held-out sequence has
/// reached, in all codebooks and groups, and predicts the next state.
///
/// The codes of B are those most often chosen at its last digit, and after it at the digits of the
/// next state so far: the model decides on the second digit of the next state at its first. Digits
/// that never follow B leave the codes as they are.
///
/// # Errors
/// When `k` is not 1, or the machine does not fit the model.
pub fn patch_state(
    model: &LanguageModel,
    codebooks: &Codebooks,
    fsm: &TokFsm,
    seed: u64,
    sequences: usize,
    patches: usize,
) -> Result<Patched, CodebookError> {
    let several = codebooks
        .placed()
        .iter()
        .find(|p| p.codebook.options().k != 1);
    if let Some(placed) = several {
        let found = placed.codebook.options().k;
        return Err(CodebookError::value(
            "codebook.k",
            found,
            "1, to patch states",
        ));
    }
    let counts = Counts::of(model, codebooks, fsm, seed, sequences)?;
    let mut rng = generator(seed, stream::HELD_OUT, 1);
    let states = fsm.options().states;
    let mut sums = [0.0; 4];
    for _ in 0..patches {
        // The first state of a sequence has none before it: it is patched only in sequences of two.
        let longest = fsm.options().sequence_states - 1;
        let length = rng.random_range(longest.min(2)..=longest);
        let walk = fsm.walk(length, &mut rng);
        let a = walk[length - 1];
        let b = (a + rng.random_range(1..states.max(2))) % states;
        let mut text = vec![fsm.bos()];
        text.extend(walk.iter().flat_map(|state| fsm.tokens(*state)));
        let mut truth = vec![0.0; states + 1];
        let next = fsm.successors(b);
        next.iter()
            .for_each(|s| truth[*s] = 1.0 / next.len() as f64);
        let mass = |p: &[f64]| next.iter().map(|s| p[*s]).sum::<f64>();
        let before = next_state(model, codebooks, fsm, &text, None)?;
        let after = next_state(model, codebooks, fsm, &text, Some((&counts, b)))?;
        sums[0] += mass(&after);
        sums[1] += mass(&before);
        sums[2] += jensen_shannon(&after, &truth);
        sums[3] += jensen_shannon(&before, &truth);
    }
    let [mass, mass_before, jensen_shannon, jensen_shannon_before] =
        sums.map(|sum| sum / patches.max(1) as f64);
    Ok(Patched {
        patches,
        mass,
        mass_before,
        jensen_shannon,
        jensen_shannon_before,
    })
}

/// The probability of each next state after `text`, and last that of no state.
fn next_state(
    model: &LanguageModel,
    codebooks: &Codebooks,
    fsm: &TokFsm,
    text: &[u32],
    patch: Option<(&Counts, usize)>,
) -> Result<Vec<f64>, CodebookError> {
    let states = fsm.options().states;
    let mut out = vec![0.0; states + 1];
    let mut open: Vec<(Vec<u32>, f64)> = vec![(vec![], 1.0)];
    while let Some((begun, p)) = open.pop() {
        if begun.len() == fsm.options().digits {
            out[fsm.state(&begun).unwrap_or(states)] += p;
            continue;
        }
        if p < NEGLIGIBLE || begun.contains(&fsm.bos()) {
            out[states] += p;
            continue;
        }
        let mut edits = vec![];
        if let Some((counts, state)) = patch {
            for digits in 0..=begun.len() {
                let context = (state, begun[..digits].to_vec());
                for (number, placed) in codebooks.placed().iter().enumerate() {
                    for group in 0..placed.codebook.groups() {
                        let Some(code) = counts.usual(number, group, &context) else {
                            continue;
                        };
                        edits.push(CodeEdit {
                            codebook: number,
                            group,
                            slot: Some(0),
                            code,
                            position: Some(text.len() - 1 + digits),
                        });
                    }
                }
            }
        }
        let tokens = [text, &begun].concat();
        let (last, d_vocab) = (tokens.len() - 1, model.config().d_vocab);
        let (logits, _) = codebooks.run(model, model.tokens(&[tokens])?, &edits)?;
        let logits = logits.narrow(1, last, 1).reshape([1, d_vocab]);
        let next: Vec<f32> = activation::softmax(logits, 1)
            .into_data()
            .iter::<f32>()
            .collect();
        for (token, q) in next.into_iter().enumerate() {
            let begun = [&begun[..], &[token as u32]].concat();
            open.push((begun, p * f64::from(q)));
        }
    }
    Ok(out)
}

/// The Jensen-Shannon divergence of two distributions, in bits.
fn jensen_shannon(p: &[f64], q: &[f64]) -> f64 {
    let half = |p: &[f64], q: &[f64]| -> f64 {
        let terms = p.iter().zip(q).filter(|(p, _)| **p > 0.0);
        terms.map(|(p, q)| p * (2.0 * p / (p + q)).log2()).sum()
    };
    0.5 * (half(p, q) + half(q, p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_zero_for_equals_and_one_bit_for_disjoint() {
        let (p, q) = ([0.25, 0.75, 0.0], [0.0, 0.0, 1.0]);
        assert_eq!(jensen_shannon(&p, &p), 0.0);
        assert!((jensen_shannon(&p, &q) - 1.0).abs() < 1e-12);
    }
}
