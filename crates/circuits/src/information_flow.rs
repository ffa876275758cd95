//! Information flow routes (Ferrando and Voita 2024, arXiv 2403.00824): how near what a sender
//! writes is to what a receiver reads, on clean prompts alone.

use crate::attribution::numbers;
use crate::components::last_stream;
use crate::{CircuitError, Components, Graph, PromptBatch, Receiver, Task};
use burn::tensor::Tensor;
use lapidary_model::{BlockHook, HookPoint, HookedRun, LanguageModel};

/// A score for each edge, by its number: `p(u, v) / Σ_u p(u, v)` with
/// `p(u, v) = max(0, ‖in_v‖₁ − ‖in_v − out_u‖₁)`, mean over positions, then over prompts. `out_u`
/// is what the sender writes, `in_v` the residual stream before the receiver. The query, key and
/// value of all heads of a layer read the same stream, so their scores are the same.
///
/// # Errors
/// The task does not fit the model.
pub fn information_flow(
    model: &LanguageModel,
    graph: &Graph,
    task: &Task,
) -> Result<Vec<f64>, CircuitError> {
    let mut scores = vec![0.0; graph.edges()];
    for batch in PromptBatch::of_task(task, model)? {
        let written = Components::of(model, graph, &batch.clean)?;
        let points: Vec<HookPoint> = (0..graph.layers)
            .flat_map(|layer| [BlockHook::ResidPre, BlockHook::MlpIn].map(|at| (layer, at)))
            .map(|(layer, at)| HookPoint::Block(layer, at))
            .chain([last_stream(graph)])
            .collect();
        let run = HookedRun {
            capture: &points,
            ..Default::default()
        };
        let streams = model.run(batch.clean.clone(), &run)?.captured;
        let mut known: Option<(HookPoint, Vec<f64>)> = None;
        for receiver in 0..graph.receivers() {
            let at = match graph.receiver(receiver) {
                Receiver::Query { layer, .. }
                | Receiver::Key { layer, .. }
                | Receiver::Value { layer, .. } => HookPoint::Block(layer, BlockHook::ResidPre),
                Receiver::Mlp(layer) => HookPoint::Block(layer, BlockHook::MlpIn),
                Receiver::Logits => last_stream(graph),
            };
            let shares = match known.take() {
                Some((point, shares)) if point == at => shares,
                _ => {
                    let before = graph.senders_before(receiver);
                    shares(&written, before, streams[&at].clone())
                }
            };
            let edges = graph.edges_into(receiver);
            for (score, share) in scores[edges].iter_mut().zip(&shares) {
                *score += share;
            }
            known = Some((at, shares));
        }
    }
    let n = task.prompts.len() as f64;
    scores.iter_mut().for_each(|score| *score /= n);
    Ok(scores)
}

/// The share of each of the first `before` senders in a stream, `[batch, pos, d_model]`: sums over
/// prompts of means over positions.
fn shares(written: &Components, before: usize, stream: Tensor<3>) -> Vec<f64> {
    let [batch, pos, d_model] = written.shape;
    let stream = stream.reshape([1, batch * pos, d_model]);
    let norm = stream.clone().abs().sum_dim(2); // [1, batch * pos, 1]
    let rows = (0..before).map(|sender| {
        let out = written.written.clone().narrow(0, sender, 1);
        let rest = stream.clone() - out.reshape([1, batch * pos, d_model]);
        let near = norm.clone() - rest.abs().sum_dim(2);
        near.clamp_min(0.0).reshape([1, batch * pos])
    });
    let near = Tensor::cat(rows.collect(), 0); // [before, batch * pos]
    let sum = near.clone().sum_dim(0).clamp_min(f32::MIN_POSITIVE);
    numbers((near / sum).sum_dim(1) / pos as f32)
}
