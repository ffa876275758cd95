//! Codes that stand for states of a machine, and how well neurons do in their place (Tamkin,
//! Taufeeque, Goodman 2023, section 4).

use crate::inputs::tokens;
use crate::memory::{product, too_large};
use crate::state_counts::{Counts, held_out};
use crate::{CodebookError, Codebooks, TokFsm, interventions};
use lapidary_model::{BlockHook, HookPoint, HookedRun, LanguageModel};
use serde::Serialize;
use std::collections::BTreeMap;

/// A code as a classifier of a state. All positions with the same number of digits after the last
/// complete state are compared: the code is chosen where that state is `state`, and at no other of
/// them.
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
    /// Digits of the next state at the positions compared; 0: the last digit of the state.
    pub digits_after: usize,
    /// Share of the positions with the code where the state is.
    pub precision: f64,
    /// Share of the state's positions with the code.
    pub recall: f64,
}

/// For each state, the code that classifies it best: of those with a recall of at least
/// `least_recall` the one of highest precision, and without such a code the one of highest F1.
/// Counted on held-out sequences from the first state on.
///
/// # Errors
/// When the machine or the codebooks do not fit the model.
pub fn state_codes(
    model: &LanguageModel,
    codebooks: &Codebooks,
    fsm: &TokFsm,
    seed: u64,
    sequences: usize,
    least_recall: f64,
) -> Result<Vec<StateCode>, CodebookError> {
    let counts = Counts::of(model, codebooks, fsm, seed, sequences)?;
    // Digits after the state, state.
    let by_state = |contexts: &BTreeMap<(usize, Vec<u32>), u64>| {
        let mut sums: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for ((state, begun), count) in contexts {
            *sums.entry((begun.len(), *state)).or_default() += count;
        }
        sums
    };
    let positions = by_state(&counts.contexts);
    let mut best: BTreeMap<usize, ((bool, f64, f64), StateCode)> = BTreeMap::new();
    for ((codebook, group, code), contexts) in &counts.codes {
        let chosen = by_state(contexts);
        for ((digits_after, state), count) in &chosen {
            let at = (*digits_after, 0)..=(*digits_after, usize::MAX);
            let all: u64 = chosen.range(at).map(|(_, count)| count).sum();
            let precision = *count as f64 / all as f64;
            let recall = *count as f64 / positions[&(*digits_after, *state)] as f64;
            let f1 = 2.0 * precision * recall / (precision + recall);
            let rank = match recall >= least_recall {
                true => (true, precision, recall),
                false => (false, f1, precision),
            };
            if best.get(state).is_none_or(|(other, _)| rank > *other) {
                let found = StateCode {
                    state: *state,
                    hook_point: codebooks.placed()[*codebook].at.to_string(),
                    group: *group,
                    code: *code,
                    digits_after: *digits_after,
                    precision,
                    recall,
                };
                best.insert(*state, (rank, found));
            }
        }
    }
    Ok(best.into_values().map(|(_, code)| code).collect())
}

/// For each code, the highest precision that one neuron of the MLPs has as a classifier of the same
/// state, at the same positions and with at least the same recall. A neuron fires where its
/// activation is above a threshold, or below one; thresholds are chosen on these positions, which
/// favours the neurons.
///
/// # Errors
/// When the machine or the codebooks do not fit the model, or the activations do not fit into
/// memory.
pub fn neuron_precisions(
    model: &LanguageModel,
    codebooks: &Codebooks,
    fsm: &TokFsm,
    seed: u64,
    sequences: usize,
    codes: &[StateCode],
) -> Result<Vec<f64>, CodebookError> {
    codebooks.check(model)?;
    let c = model.config();
    let numbers = product(&[c.n_layers(), c.d_mlp, sequences, fsm.length()]);
    if let Some(expected) = too_large(numbers) {
        return Err(CodebookError::value("sequences", sequences, expected));
    }
    let hooks: Vec<HookPoint> = (0..c.n_layers())
        .map(|layer| HookPoint::Block(layer, BlockHook::MlpPost))
        .collect();
    let digits = fsm.options().digits;
    // For each number of digits after a state: the states, and the activations of each neuron.
    let mut states: Vec<Vec<usize>> = vec![vec![]; digits];
    let mut neurons: Vec<Vec<Vec<f32>>> = vec![vec![vec![]; c.n_layers() * c.d_mlp]; digits];
    for (batch, contexts) in held_out(fsm, seed, sequences) {
        let functions = codebooks.functions(&[], None);
        let interventions = interventions(&functions);
        let run = HookedRun {
            capture: &hooks,
            interventions: &interventions,
            ..Default::default()
        };
        let captured = model.run(tokens(model, &batch)?, &run)?.captured;
        for (layer, hook) in hooks.iter().enumerate() {
            let values: Vec<f32> = captured[hook].to_data().iter::<f32>().collect();
            for (values, context) in values.chunks(c.d_mlp).zip(&contexts) {
                let Some((_, begun)) = context else { continue };
                let own = &mut neurons[begun.len()][layer * c.d_mlp..][..c.d_mlp];
                own.iter_mut().zip(values).for_each(|(n, v)| n.push(*v));
            }
        }
        for (state, begun) in contexts.into_iter().flatten() {
            states[begun.len()].push(state);
        }
    }
    let mut best = vec![0.0f64; codes.len()];
    for (digits_after, (states, neurons)) in states.iter().zip(neurons).enumerate() {
        for sign in [1.0, -1.0] {
            for values in &neurons {
                let values: Vec<f32> = values.iter().map(|v| sign * v).collect();
                let mut sorted = values.clone();
                sorted.sort_unstable_by(f32::total_cmp);
                let here = codes.iter().zip(&mut best);
                for (code, best) in here.filter(|(code, _)| code.digits_after == digits_after) {
                    let of_state = states.iter().zip(&values);
                    let of_state = of_state.filter(|(state, _)| **state == code.state);
                    let own: Vec<f32> = of_state.map(|(_, value)| *value).collect();
                    *best = best.max(precision(&sorted, own, code.recall));
                }
            }
        }
    }
    Ok(best)
}

/// The precision of "at least a threshold", the highest with which at least a share `recall` of
/// `own` is found. `sorted` has all values, `own` those of the state.
fn precision(sorted: &[f32], mut own: Vec<f32>, recall: f64) -> f64 {
    if own.is_empty() {
        return 0.0;
    }
    own.sort_unstable_by(|a, b| b.total_cmp(a));
    // A recall is a share of as many positions, so rounding up has to forgive the last bit.
    let least = (recall * own.len() as f64 - 1e-9).ceil().max(1.0) as usize;
    let mut best = 0.0f64;
    for found in least..=own.len() {
        let threshold = own[found - 1];
        let fires = sorted.len() - sorted.partition_point(|v| *v < threshold);
        let right = own.partition_point(|v| *v >= threshold);
        best = best.max(right as f64 / fires as f64);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neuron_has_the_precision_of_its_best_threshold_of_enough_recall() {
        // Of the state: 5, 4, 1; of others: 4.5, 2, 0.
        let sorted = [0.0, 1.0, 2.0, 4.0, 4.5, 5.0];
        let own = || vec![4.0, 5.0, 1.0];
        assert_eq!(precision(&sorted, own(), 0.3), 1.0);
        assert_eq!(precision(&sorted, own(), 2.0 / 3.0), 2.0 / 3.0);
        assert_eq!(precision(&sorted, own(), 1.0), 3.0 / 5.0);
        assert_eq!(precision(&sorted, vec![], 0.5), 0.0);
    }
}
