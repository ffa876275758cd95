//! Codes that stand for states of a machine, and what happens to the next state when the codes of
//! one state are put in place of another's.

use crate::data::{Data, generator, stream};
use crate::training::tokens;
use crate::{CodeEdit, CodebookError, Codebooks, TokFsm};
use burn::tensor::activation;
use lapidary_model::LanguageModel;
use rand::Rng;
use serde::Serialize;
use std::collections::BTreeMap;

/// Branches of next states with less probability are left out.
const NEGLIGIBLE: f64 = 1e-7;

/// A code as a classifier of a state: it is chosen where the state's last digit is, and nowhere
/// else.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StateCode {
    /// The state.
    pub state: usize,
    /// The hook point of the codebook.
    pub hook_point: String,
    /// The head.
    pub group: usize,
    /// The code.
    pub code: i32,
    /// Share of positions with the code where the state's last digit is.
    pub precision: f64,
    /// Share of the state's last digits with the code.
    pub recall: f64,
}

/// What the codes of a machine's held-out sequences are counted by: the state that is complete, and
/// the digits of the next one so far.
type Context = (usize, Vec<u32>);

/// How often each code was chosen in each context, for a codebook and group.
struct Counts {
    /// Codebook, group, code to context to count.
    codes: BTreeMap<(usize, usize, i32), BTreeMap<Context, u64>>,
    contexts: BTreeMap<Context, u64>,
}

impl Counts {
    fn of(
        model: &LanguageModel,
        codebooks: &Codebooks,
        fsm: &TokFsm,
        seed: u64,
        sequences: usize,
    ) -> Result<Self, CodebookError> {
        let (mut codes, mut contexts) = (BTreeMap::new(), BTreeMap::new());
        let batch = Data::TokFsm(fsm.clone()).held_out(seed, sequences);
        let digits = fsm.options().digits;
        let (_, chosen) = codebooks.run(model, tokens(model, &batch)?, &[])?;
        let ids: Vec<u32> = batch.inputs.iter().map(|t| *t as u32).collect();
        for (sequence, text) in ids.chunks(batch.length).enumerate() {
            for position in digits..batch.length {
                // Position 0 is BOS.
                let begun = position % digits;
                let last = position - begun;
                let state = fsm.state(&text[last + 1 - digits..=last]);
                let Some(state) = state else { continue };
                let context = (state, text[last + 1..=position].to_vec());
                *contexts.entry(context.clone()).or_default() += 1;
                for (codebook, groups) in chosen.iter().enumerate() {
                    for (group, all) in groups.iter().enumerate() {
                        let k = codebooks.placed()[codebook].codebook.options().k;
                        let row = sequence * batch.length + position;
                        for code in &all[row * k..][..k] {
                            let of_code: &mut BTreeMap<Context, u64> =
                                codes.entry((codebook, group, *code)).or_default();
                            *of_code.entry(context.clone()).or_default() += 1;
                        }
                    }
                }
            }
        }
        Ok(Self { codes, contexts })
    }

    /// The code that is chosen most often in a context; none if the context never occurs.
    fn usual(&self, codebook: usize, group: usize, context: &Context) -> Option<i32> {
        let all = self
            .codes
            .range((codebook, group, 0)..=(codebook, group, i32::MAX));
        let counted = all.filter_map(|((_, _, code), by)| Some((by.get(context)?, *code)));
        counted
            .max_by_key(|(count, code)| (**count, std::cmp::Reverse(*code)))
            .map(|(_, code)| code)
    }
}

/// For each state, the code that classifies it best: of those with a recall of at least
/// `least_recall` the one of highest precision, and without such a code the one of highest F1.
/// Counted at all positions of held-out sequences from the first state on.
///
/// # Errors
/// When the machine does not fit the model.
pub fn state_codes(
    model: &LanguageModel,
    codebooks: &Codebooks,
    fsm: &TokFsm,
    seed: u64,
    sequences: usize,
    least_recall: f64,
) -> Result<Vec<StateCode>, CodebookError> {
    let counts = Counts::of(model, codebooks, fsm, seed, sequences)?;
    let mut best: BTreeMap<usize, ((bool, f64), StateCode)> = BTreeMap::new();
    for ((codebook, group, code), contexts) in &counts.codes {
        let all: u64 = contexts.values().sum();
        for (context, count) in contexts.iter().filter(|((_, begun), _)| begun.is_empty()) {
            let precision = *count as f64 / all as f64;
            let recall = *count as f64 / counts.contexts[context] as f64;
            let enough = recall >= least_recall;
            let f1 = 2.0 * precision * recall / (precision + recall);
            let rank = (enough, if enough { precision } else { f1 });
            let (state, _) = context;
            if best.get(state).is_none_or(|(other, _)| rank > *other) {
                let found = StateCode {
                    state: *state,
                    hook_point: codebooks.placed()[*codebook].at.to_string(),
                    group: *group,
                    code: *code,
                    precision,
                    recall,
                };
                best.insert(*state, (rank, found));
            }
        }
    }
    Ok(best.into_values().map(|(_, code)| code).collect())
}

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
        let length = rng.random_range(2..fsm.options().sequence_states);
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
        if p < NEGLIGIBLE {
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
