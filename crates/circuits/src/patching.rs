//! Running a model with some of its edges or heads corrupted: the effects that attributions
//! estimate, and how much of a behaviour a circuit keeps.

use crate::ablation::AblatedHeads;
use crate::circuit_metric::circuit_metrics;
use crate::components::{
    Streams, heads_written, receivers_by_point, sender_points, sender_rows, sender_value,
};
use crate::{Ablation, CircuitError, CircuitMetric, Components, Graph, PromptBatch, Task};
use burn::tensor::{Tensor, TensorData};
use lapidary_model::{BlockHook, HookPoint, Intervention, LanguageModel};
use std::cell::RefCell;
use std::ops::Range;

/// The sum of the metric over the clean prompts of a batch, in a run in which receivers read from
/// the senders of the edges that `is_cut` names what those write in `replacement`, and from all
/// others what they write in this run.
///
/// # Errors
/// `replacement` is not of this batch.
pub fn patched(
    model: &LanguageModel,
    graph: &Graph,
    batch: &PromptBatch,
    replacement: &Components,
    is_cut: &dyn Fn(usize) -> bool,
) -> Result<f64, CircuitError> {
    let logits = patched_logits(model, graph, batch, replacement, is_cut)?;
    Ok(f64::from(batch.metric(logits).into_scalar::<f32>()))
}

/// The logits of that run after the last position, `[batch, 1, d_vocab]`.
pub(crate) fn patched_logits(
    model: &LanguageModel,
    graph: &Graph,
    batch: &PromptBatch,
    replacement: &Components,
    is_cut: &dyn Fn(usize) -> bool,
) -> Result<Tensor<3>, CircuitError> {
    let d_model = model.config().d_model;
    let shape = replacement.shape;
    let mut cuts: Vec<(HookPoint, Cut)> = vec![];
    for (point, receivers) in receivers_by_point(graph) {
        let cut = Cut::of(graph, receivers, is_cut);
        cuts.extend(cut.map(|cut| (point, cut)));
    }
    let mut needed = vec![false; graph.senders()];
    for sender in cuts.iter().flat_map(|(_, cut)| &cut.senders) {
        needed[*sender] = true;
    }
    // By sender: what it writes in `replacement` less what it writes in this run.
    let changes: RefCell<Vec<Option<Tensor<2>>>> = RefCell::new(vec![None; graph.senders()]);
    let mut first = 0;
    let mut senders = vec![];
    for point in sender_points(graph) {
        let several = matches!(point, HookPoint::Block(_, BlockHook::Result));
        let here = first..first + if several { graph.heads } else { 1 };
        first = here.end;
        if !here.clone().any(|sender| needed[sender]) {
            continue;
        }
        let (needed, changes) = (&needed, &changes);
        let keep = move |value: Tensor<3>| {
            let rows = sender_rows(value.clone(), d_model);
            for (row, sender) in here.clone().enumerate().filter(|(_, s)| needed[*s]) {
                let new = replacement.written.clone().narrow(0, sender, 1);
                changes.borrow_mut()[sender] = Some(new - rows.clone().narrow(0, row, 1));
            }
            value
        };
        senders.push((point, keep));
    }
    let readers: Vec<_> = cuts
        .iter()
        .map(|(_, cut)| {
            |value: Tensor<3>| value + sender_value(cut.apply(&changes.borrow()), shape)
        })
        .collect();
    let mut interventions: Vec<Intervention<'_>> = senders
        .iter()
        .map(|(at, keep)| Intervention::function(*at, keep))
        .collect();
    let readers = cuts.iter().zip(&readers);
    interventions.extend(readers.map(|((at, _), reader)| Intervention::function(*at, reader)));
    batch.logits(model, false, &interventions)
}

/// The edges that are cut into the receivers at one hook point.
struct Cut {
    /// The senders of any of them.
    senders: Vec<usize>,
    /// 1 where the edge is cut, `[receivers, senders]`.
    mask: Vec<f32>,
}

impl Cut {
    fn of(graph: &Graph, receivers: Range<usize>, is_cut: &dyn Fn(usize) -> bool) -> Option<Self> {
        let before = graph.senders_before(receivers.start);
        let cut =
            |receiver: usize, sender: usize| is_cut(graph.edges_into(receiver).start + sender);
        let senders: Vec<usize> = (0..before)
            .filter(|sender| receivers.clone().any(|receiver| cut(receiver, *sender)))
            .collect();
        let mask = receivers.clone().flat_map(|receiver| {
            let senders = senders.iter();
            senders.map(move |sender| f32::from(u8::from(cut(receiver, *sender))))
        });
        let mask = mask.collect();
        (!senders.is_empty()).then_some(Self { senders, mask })
    }

    /// What the receivers read too much or too little, `[receivers, batch * pos * d_model]`.
    fn apply(&self, changes: &[Option<Tensor<2>>]) -> Tensor<2> {
        let senders = self.senders.iter();
        let rows = senders.filter_map(|sender| changes[*sender].clone());
        let rows = Tensor::cat(rows.collect(), 0);
        let shape = [self.mask.len() / self.senders.len(), self.senders.len()];
        let mask = TensorData::new(self.mask.clone(), shape);
        Tensor::<2>::from_data(mask, &rows.device()).matmul(rows)
    }
}

/// The exact effect of every head.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadEffects {
    /// Mean of the metric over the clean prompts.
    pub clean: f64,
    /// Mean of the metric over the corrupted prompts.
    pub corrupted: f64,
    /// By layer and head, `layers × heads`: how far the metric falls if what the head writes is
    /// replaced by what it writes on the corrupted prompt.
    pub effects: Vec<f64>,
}

/// Patches each head in turn.
///
/// # Errors
/// The task does not fit the model.
pub fn head_effects(
    model: &LanguageModel,
    graph: &Graph,
    task: &Task,
) -> Result<HeadEffects, CircuitError> {
    let mut found = HeadEffects {
        clean: 0.0,
        corrupted: 0.0,
        effects: vec![0.0; graph.layers * graph.heads],
    };
    for batch in PromptBatch::of_task(task, model)? {
        let clean = batch.measure(model, false, &[])?;
        found.clean += clean;
        found.corrupted += batch.measure(model, true, &[])?;
        let corrupted = heads_written(model, graph, &batch.corrupted)?;
        let streams = Streams::of(model, graph, &batch.clean)?;
        for (number, (layer, head)) in graph.all_heads().enumerate() {
            let patch = corrupted[layer].clone().in_heads(&[head]);
            let patched = batch.measure_from(model, streams.at(layer), &[patch])?;
            found.effects[number] += clean - patched;
        }
    }
    let n = task.prompts.len() as f64;
    let HeadEffects {
        clean,
        corrupted,
        effects,
    } = &mut found;
    for value in effects.iter_mut().chain([clean, corrupted]) {
        *value /= n;
    }
    Ok(found)
}

/// What circuits of heads keep of a task's metric on the clean prompts, with all heads outside of
/// the circuit ablated; MLPs compute with what they then read. `circuits` are lists of layer and
/// head.
///
/// # Errors
/// The task does not fit the model, or its metric is the same with and without all heads.
pub fn faithfulness(
    model: &LanguageModel,
    graph: &Graph,
    task: &Task,
    circuits: &[Vec<(usize, usize)>],
    ablation: Ablation,
) -> Result<Vec<CircuitMetric>, CircuitError> {
    // Whether a head belongs to a circuit. Equal circuits are measured once.
    let mut measured: Vec<Vec<bool>> = [false, true]
        .map(|kept| vec![kept; graph.layers * graph.heads])
        .to_vec();
    let mut numbers = vec![];
    for circuit in circuits {
        let kept: Vec<bool> = graph.all_heads().map(|h| circuit.contains(&h)).collect();
        let known = measured.iter().position(|other| *other == kept);
        numbers.push(known.unwrap_or(measured.len()));
        if known.is_none() {
            measured.push(kept);
        }
    }
    let mut sums = vec![0.0; measured.len()];
    let batches = PromptBatch::of_task(task, model)?;
    let ablated = AblatedHeads::of(model, graph, &batches, ablation)?;
    for batch in &batches {
        let ablated = ablated.on(model, graph, batch)?;
        for (sum, kept) in sums.iter_mut().zip(&measured) {
            let outside = heads_outside(graph, &ablated, kept, 0);
            *sum += batch.measure(model, false, &outside)?;
        }
    }
    let of_circuits = numbers.iter().map(|number| sums[*number]);
    circuit_metrics(task, of_circuits, [sums[0], sums[1]], "heads")
}

/// Of interventions that change all heads, one for each layer, those that change the heads that are
/// not kept, from a layer on.
pub(crate) fn heads_outside(
    graph: &Graph,
    all: &[Intervention<'static>],
    kept: &[bool],
    first: usize,
) -> Vec<Intervention<'static>> {
    let layers = (first..graph.layers).filter_map(|layer| {
        let heads = (0..graph.heads).filter(|head| !kept[layer * graph.heads + head]);
        let heads: Vec<usize> = heads.collect();
        (!heads.is_empty()).then(|| all[layer].clone().in_heads(&heads))
    });
    layers.collect()
}
