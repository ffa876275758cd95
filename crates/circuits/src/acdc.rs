//! Automatic circuit discovery (Conmy et al. 2023, arXiv 2304.14997): edges are removed one after
//! the other, from the logits back to the input, if the predictions hardly change.

use crate::divergence::Predictions;
use crate::patching::patched_logits;
use crate::{CircuitError, Components, Graph, PromptBatch, Task};
use lapidary_model::LanguageModel;

/// Thresholds: this many of them, each [`RATIO`] times the one before, up to the divergence of the
/// model with all edges corrupted.
const THRESHOLDS: i32 = 9;
const RATIO: f64 = 3.162_277_660_168_379_5; // √10

/// What [`acdc`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Acdc {
    /// Of each edge: the largest threshold at which it stays, 0 if it goes at the smallest.
    pub edges: Vec<f64>,
    /// The thresholds, in nats, from the smallest to the largest.
    pub thresholds: Vec<f64>,
    /// How often an edge was tried.
    pub runs: usize,
}

/// Removes edges at growing thresholds τ. For each τ, receivers are visited from the logits back
/// and their edges from the last sender to the first: an edge is removed for good if
/// `KL(model ‖ circuit without it) − KL(model ‖ circuit) < τ`, mean over prompts. Removed edges
/// carry what their senders write on the corrupted prompt. Each τ starts with what the smaller one
/// left. Edges into components whose output nothing reads are removed without a run, and an edge
/// that cost at least τ when it was last tried stays without a run.
///
/// `thresholds`: in nats, growing; `None`: nine of them up to KL(model ‖ all edges removed), each
/// √10 times the one before.
///
/// # Errors
/// The task does not fit the model.
pub fn acdc(
    model: &LanguageModel,
    graph: &Graph,
    task: &Task,
    thresholds: Option<&[f64]>,
) -> Result<Acdc, CircuitError> {
    let mut batches = vec![];
    let mut divergence_without_all = 0.0;
    for batch in PromptBatch::of_task(task, model)? {
        let own = Predictions::of(batch.logits(model, false, &[])?);
        let corrupted = Components::of(model, graph, &batch.corrupted)?;
        let without_all = own.kl(batch.logits(model, true, &[])?);
        divergence_without_all += f64::from(without_all.into_scalar::<f32>());
        batches.push((batch, own, corrupted));
    }
    let n = task.prompts.len() as f64;
    let largest = divergence_without_all / n;
    let thresholds = match thresholds {
        Some(given) => given.to_vec(),
        None => thresholds_up_to(largest),
    };
    let divergence = |cut: &[bool]| -> Result<f64, CircuitError> {
        let mut sum = 0.0;
        for (batch, own, corrupted) in &batches {
            let logits = patched_logits(model, graph, batch, corrupted, &|edge| cut[edge])?;
            sum += f64::from(own.kl(logits).into_scalar::<f32>());
        }
        Ok(sum / n)
    };
    let mut found = Acdc {
        edges: vec![0.0; graph.edges()],
        thresholds,
        runs: 0,
    };
    let mut cut = vec![false; graph.edges()];
    // By edge: how far the divergence grew without it when it was last tried.
    let mut costs = vec![f64::NEG_INFINITY; graph.edges()];
    let mut now = 0.0;
    for threshold in &found.thresholds {
        for receiver in (0..graph.receivers()).rev() {
            let fed = graph.fed_by(receiver);
            let is_read = |sender: usize| {
                let readers = (0..graph.receivers()).filter(|r| sender < graph.senders_before(*r));
                let mut edges = readers.map(|r| graph.edges_into(r).start + sender);
                edges.any(|edge| !cut[edge])
            };
            if !fed.is_empty() && !fed.clone().any(is_read) {
                cut[graph.edges_into(receiver)].fill(true);
                continue;
            }
            for edge in graph.edges_into(receiver).rev() {
                if cut[edge] || costs[edge] >= *threshold {
                    continue;
                }
                cut[edge] = true;
                let without = divergence(&cut)?;
                costs[edge] = without - now;
                found.runs += 1;
                match costs[edge] < *threshold {
                    true => now = without,
                    false => cut[edge] = false,
                }
            }
        }
        for (score, cut) in found.edges.iter_mut().zip(&cut) {
            if !cut {
                *score = *threshold;
            }
        }
    }
    Ok(found)
}

/// [`THRESHOLDS`] of them, from the smallest to the largest.
pub(crate) fn thresholds_up_to(largest: f64) -> Vec<f64> {
    let each = (0..THRESHOLDS).rev().map(|k| largest / RATIO.powi(k));
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks;
    use burn::tensor::{Device, Tensor};

    fn probabilities(logits: Tensor<3>) -> Vec<f64> {
        let [_, pos, d_vocab] = logits.dims();
        let last = logits.narrow(1, pos - 1, 1).into_data();
        let values: Vec<f64> = last.iter::<f32>().map(f64::from).collect();
        let rows = values.chunks(d_vocab).flat_map(|row| {
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            row.iter().map(move |x| x.exp() / sum)
        });
        rows.collect()
    }

    /// As the paper's Algorithm 1 is written down: one threshold, one try for every edge.
    #[test]
    fn edges_go_as_in_the_plain_loop() {
        let folder = "/../../tests/fixtures/models/llama-gqa";
        let folder = format!("{}{folder}", env!("CARGO_MANIFEST_DIR"));
        let model = LanguageModel::load(&folder, &Device::flex()).unwrap();
        let graph = Graph::of(&model).unwrap();
        let task = tasks::generate("induction", &model, 2, 1, false).unwrap();
        let batches = PromptBatch::of_task(&task, &model).unwrap();
        let divergence = |cut: &[bool]| -> f64 {
            let of_batch = |batch: &PromptBatch| {
                let corrupted = Components::of(&model, &graph, &batch.corrupted).unwrap();
                let run = |cut: &dyn Fn(usize) -> bool| {
                    probabilities(patched_logits(&model, &graph, batch, &corrupted, cut).unwrap())
                };
                let (p, q) = (run(&|_| false), run(&|edge| cut[edge]));
                let terms = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln());
                terms.sum::<f64>()
            };
            batches.iter().map(of_batch).sum::<f64>() / task.prompts.len() as f64
        };
        let threshold = divergence(&vec![true; graph.edges()]) / 20.0;
        let mut cut = vec![false; graph.edges()];
        let mut now = 0.0;
        for receiver in (0..graph.receivers()).rev() {
            for edge in graph.edges_into(receiver).rev() {
                cut[edge] = true;
                let without = divergence(&cut);
                match without - now < threshold {
                    true => now = without,
                    false => cut[edge] = false,
                }
            }
        }
        let found = acdc(&model, &graph, &task, Some(&[threshold])).unwrap();
        let kept = cut.iter().filter(|cut| !**cut).count();
        assert!(
            kept > 2 && kept < graph.edges() / 2,
            "{kept} of {}",
            cut.len()
        );
        for (edge, (score, cut)) in found.edges.iter().zip(&cut).enumerate() {
            assert_eq!(*score == 0.0, *cut, "{:?}: {score}", graph.edge(edge));
        }
        // What nothing reads is not tried.
        assert!(found.runs < graph.edges(), "{}", found.runs);
        let twice = acdc(&model, &graph, &task, Some(&[threshold, 2.0 * threshold])).unwrap();
        for (once, twice) in found.edges.iter().zip(&twice.edges) {
            assert!(*once == *twice || *twice == 2.0 * threshold);
        }
    }
}
