//! Path patching (Wang et al. 2022, arXiv 2211.00593; Goldowsky-Dill et al. 2023, arXiv
//! 2304.05969): the effect of a head through what chosen receivers read, and through no other head.

use crate::components::Streams;
use crate::components::heads_written;
use crate::components::last_stream;
use crate::{CircuitError, Graph, PromptBatch, Receiver, Task};
use lapidary_model::{BlockHook, HookPoint, HookedRun, Intervention, LanguageModel};

/// Of each head, layer by layer, the effect on receivers,
/// `(m(patched) − m(clean)) / (m(corrupted) − m(clean))` with m the mean metric. First, a run on
/// the clean prompts in which the head gives its output on the corrupted prompts and all other
/// heads give theirs on the clean ones; MLPs compute with what they then read. Then, a clean run in
/// which the receivers alone read what they read in the first run. An effect of 1 is that of
/// corrupting the whole prompt.
///
/// # Errors
/// The task does not fit the model, a receiver does not exist, or the metric is the same on clean
/// and on corrupted prompts.
pub fn path_effects(
    model: &LanguageModel,
    graph: &Graph,
    task: &Task,
    receivers: &[Receiver],
) -> Result<Vec<f64>, CircuitError> {
    if let Some(unknown) = receivers.iter().find(|receiver| !exists(graph, **receiver)) {
        return Err(CircuitError::Unsupported {
            model: model.name().into(),
            problem: format!(
                "found the receiver {unknown}, expected {} layers, {} heads, and {} key and value \
                 heads",
                graph.layers, graph.heads, graph.kv_heads
            ),
        });
    }
    let mut read: Vec<HookPoint> = receivers.iter().map(|r| place(graph, *r).0).collect();
    read.sort_unstable();
    read.dedup();
    let (mut clean, mut corrupted) = (0.0, 0.0);
    let mut patched = vec![0.0; graph.layers * graph.heads];
    for batch in PromptBatch::of_task(task, model)? {
        let of_batch = batch.measure(model, false, &[])?;
        clean += of_batch;
        corrupted += batch.measure(model, true, &[])?;
        let on_clean = heads_written(model, graph, &batch.clean)?;
        let on_corrupted = heads_written(model, graph, &batch.corrupted)?;
        let streams = Streams::of(model, graph, &batch.clean)?;
        for (sum, (layer, head)) in patched.iter_mut().zip(graph.all_heads()) {
            if !receivers.iter().any(|receiver| is_before(layer, *receiver)) {
                *sum += of_batch;
                continue;
            }
            // What comes before the head reads and writes what it does without the patch.
            let start = HookPoint::Block(layer, BlockHook::ResidPre);
            let (before, later): (Vec<HookPoint>, _) = read.iter().partition(|at| **at < start);
            let unchanged = |at: &HookPoint| before.contains(at);
            let mut frozen = on_clean[layer..].to_vec();
            frozen.push(on_corrupted[layer].clone().in_heads(&[head]));
            let run = HookedRun {
                interventions: &frozen,
                capture: &later,
                start: Some(streams.at(layer)),
                ..Default::default()
            };
            let found = model.run(batch.clean.clone(), &run)?.captured;
            let places = receivers.iter().map(|receiver| place(graph, *receiver));
            let given: Vec<Intervention<'_>> = places
                .filter(|(at, _)| !unchanged(at))
                .map(|(at, head)| {
                    let set = Intervention::set(at, found[&at].clone());
                    match head {
                        Some(head) => set.in_heads(&[head]),
                        None => set,
                    }
                })
                .collect();
            *sum += batch.measure_from(model, streams.at(layer), &given)?;
        }
    }
    let span = corrupted - clean;
    // Rounding alone may leave a little.
    if span.abs() <= 1e-5 * (clean.abs() + corrupted.abs()) {
        return Err(CircuitError::Task {
            task: task.name.clone(),
            problem: "its metric is the same on clean and on corrupted prompts, so no path can be \
                      measured"
                .into(),
        });
    }
    Ok(patched.iter().map(|sum| (sum - clean) / span).collect())
}

fn exists(graph: &Graph, receiver: Receiver) -> bool {
    (0..graph.receivers()).any(|number| graph.receiver(number) == receiver)
}

/// Whether what a receiver reads may depend on the heads of a layer.
fn is_before(layer: usize, receiver: Receiver) -> bool {
    match receiver {
        Receiver::Query { layer: reads, .. }
        | Receiver::Key { layer: reads, .. }
        | Receiver::Value { layer: reads, .. } => layer < reads,
        Receiver::Mlp(reads) => layer <= reads,
        Receiver::Logits => true,
    }
}

/// Where a receiver's input is set, and in which head.
fn place(graph: &Graph, receiver: Receiver) -> (HookPoint, Option<usize>) {
    let of_head = |layer: usize, at: BlockHook, head: usize| {
        let point = HookPoint::Block(layer, at);
        (point, Some(head))
    };
    match receiver {
        Receiver::Query { layer, head } => of_head(layer, BlockHook::Q, head),
        Receiver::Key { layer, head } => of_head(layer, BlockHook::K, head),
        Receiver::Value { layer, head } => of_head(layer, BlockHook::V, head),
        Receiver::Mlp(layer) => (HookPoint::Block(layer, BlockHook::MlpIn), None),
        Receiver::Logits => (last_stream(graph), None),
    }
}
