//! Which heads two tasks have in common (Merullo et al. 2023, arXiv 2310.08744): the strongest
//! heads at each stage of path patching, back from the logits.

use crate::{CircuitError, Graph, Receiver, Task, path_effects};
use lapidary_model::LanguageModel;
use serde::Serialize;

/// The strongest heads of a task at one stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// What the heads send to: `logits`, or the queries, values or keys of the heads of the stage
    /// before.
    pub receivers: Vec<String>,
    /// Layer, head and effect, the largest magnitude first.
    pub heads: Vec<(usize, usize, f64)>,
}

/// How many heads two sets share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overlap {
    /// Layer and head.
    pub shared: Vec<(usize, usize)>,
    /// |A ∩ B| / |A|; `None` if A is empty.
    pub of_first: Option<f64>,
    /// |A ∩ B| / |B|; `None` if B is empty.
    pub of_second: Option<f64>,
    /// |A ∩ B| / |A ∪ B|; `None` if both are empty.
    pub jaccard: Option<f64>,
}

/// Effects as small as this, as a part of the whole effect, may be rounding.
const ROUNDING: f64 = 1e-5;

/// The part of the heads that each stage keeps.
pub const STRONGEST: f64 = 0.02;

/// The heads of the largest magnitude: a part of all heads, rounded, but at least one. Heads that
/// are as strong as the last of them belong to them; heads without an effect beyond rounding do
/// not.
#[must_use]
pub fn strongest(effects: &[f64], part: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..effects.len())
        .filter(|head| effects[*head].abs() > ROUNDING)
        .collect();
    order.sort_by(|a, b| effects[*b].abs().total_cmp(&effects[*a].abs()));
    let n = ((part * effects.len() as f64).round() as usize).max(1);
    if let Some(last) = order.get(n - 1) {
        let least = effects[*last].abs();
        order.retain(|head| effects[*head].abs() >= least);
    }
    order
}

/// The stages of a task: the strongest heads by their paths to the logits, then by those to the
/// queries of these heads, to the values of the next, and to the keys of the last. Ends early if a
/// stage finds no head.
///
/// # Errors
/// The task does not fit the model.
pub fn stages(
    model: &LanguageModel,
    graph: &Graph,
    task: &Task,
    part: f64,
) -> Result<Vec<Stage>, CircuitError> {
    let mut stages: Vec<Stage> = vec![];
    let mut receivers = vec![Receiver::Logits];
    for next in ["queries", "values", "keys", ""] {
        let effects = path_effects(model, graph, task, &receivers)?;
        let found = strongest(&effects, part);
        let place = |head: usize| (head / graph.heads, head % graph.heads);
        stages.push(Stage {
            receivers: receivers.iter().map(Receiver::to_string).collect(),
            heads: found
                .iter()
                .map(|head| (place(*head).0, place(*head).1, effects[*head]))
                .collect(),
        });
        let group = graph.heads / graph.kv_heads;
        let receiver = |head: usize| {
            let (layer, head) = place(head);
            match next {
                "queries" => Receiver::Query { layer, head },
                "values" => Receiver::Value {
                    layer,
                    head: head / group,
                },
                _ => Receiver::Key {
                    layer,
                    head: head / group,
                },
            }
        };
        receivers = found.into_iter().map(receiver).collect();
        receivers.sort_unstable();
        receivers.dedup();
        if receivers.is_empty() {
            break;
        }
    }
    Ok(stages)
}

/// How many heads two sets share.
#[must_use]
pub fn overlap(first: &[(usize, usize)], second: &[(usize, usize)]) -> Overlap {
    let shared: Vec<(usize, usize)> = first
        .iter()
        .copied()
        .filter(|head| second.contains(head))
        .collect();
    let all = first.len() + second.len() - shared.len();
    let share = |of: usize| (of > 0).then(|| shared.len() as f64 / of as f64);
    Overlap {
        of_first: share(first.len()),
        of_second: share(second.len()),
        jaccard: share(all),
        shared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_as_strong_as_the_last_belong_to_the_strongest() {
        let effects = [0.0, -0.9, 0.5, 0.1, 0.5, 0.0];
        assert_eq!(strongest(&effects, 0.02), [1]);
        assert_eq!(strongest(&effects, 2.0 / 6.0), [1, 2, 4]);
        assert_eq!(strongest(&effects, 1.0), [1, 2, 4, 3]);
        assert!(strongest(&[0.0, 0.0], 0.5).is_empty());
    }

    /// By hand: two of three and four heads.
    #[test]
    fn the_overlap_is_a_share_of_either_set_and_of_both() {
        let first = [(0, 1), (2, 3), (4, 5)];
        let second = [(2, 3), (9, 9), (0, 1), (8, 8)];
        let found = overlap(&first, &second);
        assert_eq!(found.shared, [(0, 1), (2, 3)]);
        assert_eq!(found.of_first, Some(2.0 / 3.0));
        assert_eq!(found.of_second, Some(0.5));
        assert_eq!(found.jaccard, Some(0.4));
        assert_eq!(overlap(&[], &second).of_first, None);
        assert_eq!(overlap(&[], &[]).jaccard, None);
    }
}
