//! Automatic circuit discovery on heads as wholes: as [`crate::acdc()`], with far fewer runs.

use crate::acdc::thresholds_up_to;
use crate::components::Streams;
use crate::components::heads_written;
use crate::divergence::Predictions;
use crate::patching::heads_outside;
use crate::{CircuitError, Graph, PromptBatch, Task};
use lapidary_model::LanguageModel;

/// What [`acdc_heads`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct AcdcHeads {
    /// By layer and head: the largest threshold at which the head stays, 0 if it goes at the
    /// smallest.
    pub heads: Vec<f64>,
    /// The thresholds, in nats, from the smallest to the largest.
    pub thresholds: Vec<f64>,
    /// How often a head was tried.
    pub runs: usize,
}

/// Removes heads at growing thresholds τ. For each τ, heads are visited from the last to the first:
/// a head is removed for good if `KL(model ‖ circuit without it) − KL(model ‖ circuit) < τ`, mean
/// over prompts. A removed head writes what it writes on the corrupted prompt; MLPs compute with
/// what they then read. Each τ starts with what the smaller one left, and a head that cost at least
/// τ when it was last tried stays without a run.
///
/// `thresholds`: in nats, growing; `None`: nine of them up to KL(model ‖ all heads removed), each
/// √10 times the one before.
///
/// # Errors
/// The task does not fit the model.
pub fn acdc_heads(
    model: &LanguageModel,
    graph: &Graph,
    task: &Task,
    thresholds: Option<&[f64]>,
) -> Result<AcdcHeads, CircuitError> {
    let n_heads = graph.layers * graph.heads;
    let mut batches = vec![];
    let mut divergence_without_all = 0.0;
    for batch in PromptBatch::of_task(task, model)? {
        let own = Predictions::of(batch.logits(model, false, &[])?);
        let corrupted = heads_written(model, graph, &batch.corrupted)?;
        let without_all = own.kl(batch.logits(model, false, &corrupted)?);
        divergence_without_all += f64::from(without_all.into_scalar::<f32>());
        batches.push((batch, own, corrupted));
    }
    let n = task.prompts.len() as f64;
    let thresholds = match thresholds {
        Some(given) => given.to_vec(),
        None => thresholds_up_to(divergence_without_all / n),
    };
    let mut found = AcdcHeads {
        heads: vec![0.0; n_heads],
        thresholds,
        runs: 0,
    };
    let mut kept = vec![true; n_heads];
    // By head: how far the divergence grew without it when it was last tried.
    let mut costs = vec![f64::NEG_INFINITY; n_heads];
    let mut now = 0.0;
    for threshold in &found.thresholds {
        // Heads are visited from the last to the first, so the streams into the layers that are
        // still to come do not change meanwhile.
        let mut streams = vec![];
        for (batch, _, corrupted) in &batches {
            let removed = heads_outside(graph, corrupted, &kept, 0);
            streams.push(Streams::with(model, graph, &batch.clean, &removed)?);
        }
        for head in (0..n_heads).rev() {
            if !kept[head] || costs[head] >= *threshold {
                continue;
            }
            kept[head] = false;
            let layer = head / graph.heads;
            let mut sum = 0.0;
            for ((batch, own, corrupted), streams) in batches.iter().zip(&streams) {
                let removed = heads_outside(graph, corrupted, &kept, layer);
                let logits = batch.logits_from(model, streams.at(layer), &removed)?;
                sum += f64::from(own.kl(logits).into_scalar::<f32>());
            }
            let without = sum / n;
            costs[head] = without - now;
            found.runs += 1;
            match costs[head] < *threshold {
                true => now = without,
                false => kept[head] = true,
            }
        }
        for (score, kept) in found.heads.iter_mut().zip(&kept) {
            if *kept {
                *score = *threshold;
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks;
    use burn::tensor::Device;

    /// One threshold, one try for every head, whole runs.
    #[test]
    fn heads_go_as_in_the_plain_loop() {
        let folder = "/../../tests/fixtures/models/llama-gqa";
        let folder = format!("{}{folder}", env!("CARGO_MANIFEST_DIR"));
        let model = LanguageModel::load(&folder, &Device::flex()).unwrap();
        let graph = Graph::of(&model).unwrap();
        let task = tasks::generate("induction", &model, 4, 1, false).unwrap();
        let batches = PromptBatch::of_task(&task, &model).unwrap();
        let heads: Vec<(usize, usize)> = graph.all_heads().collect();
        let divergence = |kept: &[bool]| -> f64 {
            let of_batch = |batch: &PromptBatch| {
                let corrupted = heads_written(&model, &graph, &batch.corrupted).unwrap();
                let cut = heads.iter().zip(kept).filter(|(_, kept)| !**kept);
                let cut: Vec<_> = cut
                    .map(|((layer, head), _)| corrupted[*layer].clone().in_heads(&[*head]))
                    .collect();
                let own = Predictions::of(batch.logits(&model, false, &[]).unwrap());
                let kl = own.kl(batch.logits(&model, false, &cut).unwrap());
                f64::from(kl.into_scalar::<f32>())
            };
            batches.iter().map(of_batch).sum::<f64>() / task.prompts.len() as f64
        };
        let largest = divergence(&vec![false; heads.len()]);
        let threshold = largest / 6.0;
        let mut kept = vec![true; heads.len()];
        let mut now = 0.0;
        for head in (0..heads.len()).rev() {
            kept[head] = false;
            let without = divergence(&kept);
            match without - now < threshold {
                true => now = without,
                false => kept[head] = true,
            }
        }
        let n_kept = kept.iter().filter(|kept| **kept).count();
        assert!(n_kept > 1 && n_kept < heads.len() - 1, "{kept:?}");
        let once = acdc_heads(&model, &graph, &task, Some(&[threshold])).unwrap();
        let expected = kept.iter().map(|kept| if *kept { threshold } else { 0.0 });
        assert_eq!(once.heads, expected.collect::<Vec<_>>());
        assert_eq!(once.runs, heads.len());
        // The second threshold goes on from there, and tries only what cost less than it.
        let twice =
            acdc_heads(&model, &graph, &task, Some(&[threshold, 1.05 * threshold])).unwrap();
        for (once, twice) in once.heads.iter().zip(&twice.heads) {
            assert!(once == twice || (*once > 0.0 && *twice == 1.05 * threshold));
        }
        assert!(twice.runs < once.runs + n_kept, "{}", twice.runs);
        let own = acdc_heads(&model, &graph, &task, None).unwrap();
        assert!((own.thresholds[8] - largest).abs() < 1e-5 * largest);
    }
}
