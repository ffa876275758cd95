//! How much each edge and each sender matters, from gradients: one number for every edge of a graph
//! at the cost of a few passes.
//!
//! A score is an estimate of how far the metric falls, mean over prompts, if what the sender writes
//! is replaced by what it writes on the corrupted prompt: for the receiver alone (edges), or for
//! all (senders).

use crate::components::receivers_by_point;
use crate::components::{Streams, sender_points, sender_rows, sender_value};
use crate::{CircuitError, Components, Graph, PromptBatch, Task};
use burn::tensor::{Int, Tensor};
use lapidary_model::{
    BackwardRules, BlockHook, Gradients, HookPoint, HookedRun, Intervention, LanguageModel, Start,
};

/// How gradients are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Edge attribution patching (Syed et al. 2023, arXiv 2310.10348), of senders attribution
    /// patching (Nanda 2023): the gradient on the clean prompt.
    Eap,
    /// EAP with integrated gradients of inputs (Hanna et al. 2024, arXiv 2403.17806): the mean
    /// gradient while the embeddings go from corrupted to clean ones, a left Riemann sum.
    EapIgInputs {
        /// Of the sum, at least 1.
        steps: usize,
    },
    /// EAP with integrated gradients of activations: for the senders of each layer in turn, the
    /// mean gradient while what they write goes from clean to corrupted.
    EapIgActivations {
        /// Of the sum, at least 1.
        steps: usize,
    },
    /// Relevance patching (Rezaei Jafari et al. 2025, arXiv 2508.21258): as EAP, with the gradient
    /// by [`BackwardRules::RELP`] on the corrupted prompt.
    RelP,
}

/// The scores of a method.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribution {
    /// Of each edge, by its number in the graph.
    pub edges: Vec<f64>,
    /// Of each sender, by its number in the graph.
    pub senders: Vec<f64>,
    /// Of each sender, the mean over prompts and steps of the magnitude of its score there. By
    /// [`Method::Eap`], this is head importance (Michel et al. 2019, arXiv 1905.10650), before it
    /// is normalized in each layer.
    pub importance: Vec<f64>,
}

/// Scores all edges and senders of a graph on a task.
///
/// # Errors
/// The task does not fit the model.
pub fn attribute(
    model: &LanguageModel,
    graph: &Graph,
    task: &Task,
    method: Method,
) -> Result<Attribution, CircuitError> {
    let mut sums = Attribution {
        edges: vec![0.0; graph.edges()],
        senders: vec![0.0; graph.senders()],
        importance: vec![0.0; graph.senders()],
    };
    for batch in PromptBatch::of_task(task, model)? {
        let clean = Components::of(model, graph, &batch.clean)?;
        let corrupted = Components::of(model, graph, &batch.corrupted)?;
        let at = Pair {
            model,
            graph,
            batch: &batch,
            lost: clean.written.clone() - corrupted.written.clone(),
            shape: clean.shape,
        };
        let all = 0..graph.senders();
        let rules = BackwardRules::default();
        match method {
            Method::Eap => {
                let slopes = at.slopes(&batch.clean, None, &[], rules)?;
                at.add(&slopes, 1.0, all, &mut sums);
            }
            Method::RelP => {
                let slopes = at.slopes(&batch.corrupted, None, &[], BackwardRules::RELP)?;
                at.add(&slopes, 1.0, all, &mut sums);
            }
            Method::EapIgInputs { steps } => {
                for step in 0..steps {
                    let towards = step as f64 / steps as f64;
                    let input = at.between(&corrupted, 0..1, towards);
                    let set = Intervention::set(HookPoint::Block(0, BlockHook::ResidPre), input);
                    let slopes = at.slopes(&batch.clean, None, &[set], rules)?;
                    at.add(&slopes, 1.0 / steps as f64, all.clone(), &mut sums);
                }
            }
            Method::EapIgActivations { steps } => {
                let streams = Streams::of(model, graph, &batch.clean)?;
                let mut first = 0;
                for point in sender_points(graph) {
                    let several = matches!(point, HookPoint::Block(_, BlockHook::Result));
                    let group = first..first + if several { graph.heads } else { 1 };
                    first = group.end;
                    for step in 1..=steps {
                        let towards = 1.0 - step as f64 / steps as f64;
                        let value = at.between(&corrupted, group.clone(), towards);
                        let set = Intervention::set(point, value);
                        let start = match point {
                            HookPoint::Block(layer, _) => Some(streams.at(layer)),
                            _ => None,
                        };
                        let slopes = at.slopes(&batch.clean, start, &[set], rules)?;
                        at.add(&slopes, 1.0 / steps as f64, group.clone(), &mut sums);
                    }
                }
            }
        }
    }
    let n = task.prompts.len() as f64;
    let Attribution {
        edges,
        senders,
        importance,
    } = &mut sums;
    for score in edges.iter_mut().chain(senders).chain(importance) {
        *score /= n;
    }
    Ok(sums)
}

/// A batch of prompts, clean and corrupted, whose difference is attributed.
struct Pair<'a> {
    model: &'a LanguageModel,
    graph: &'a Graph,
    batch: &'a PromptBatch,
    /// What senders write on the clean prompts less what they write on the corrupted ones,
    /// `[senders, batch * pos * d_model]`.
    lost: Tensor<2>,
    shape: [usize; 3],
}

impl Pair<'_> {
    /// The gradients of the metric where senders write and receivers read, from the start of the
    /// pass on.
    fn slopes(
        &self,
        tokens: &Tensor<2, Int>,
        start: Option<Start>,
        interventions: &[Intervention<'_>],
        rules: BackwardRules,
    ) -> Result<Gradients, CircuitError> {
        let first = start.as_ref().map_or(0, |start| start.layer);
        let first = HookPoint::Block(first, BlockHook::ResidPre);
        let mut points = sender_points(self.graph);
        let receivers = receivers_by_point(self.graph);
        points.extend(receivers.into_iter().map(|(point, _)| point));
        points.retain(|at| *at >= first);
        let run = HookedRun {
            interventions,
            last_logits: true,
            start,
            rules,
            ..Default::default()
        };
        let metric = |logits| self.batch.metric(logits);
        let tokens = tokens.clone();
        Ok(self.model.gradients(tokens, &run, &points, &metric)?)
    }

    /// What the senders of these numbers write, a part of the way from corrupted (0) to clean (1).
    fn between(
        &self,
        corrupted: &Components,
        senders: std::ops::Range<usize>,
        towards: f64,
    ) -> Tensor<3> {
        let of = |x: &Tensor<2>| x.clone().narrow(0, senders.start, senders.len());
        sender_value(
            of(&corrupted.written) + of(&self.lost) * towards,
            self.shape,
        )
    }

    /// Adds the scores of `senders` by these gradients, with a weight. There are gradients at all
    /// points from the first of these senders on.
    fn add(
        &self,
        slopes: &Gradients,
        weight: f64,
        senders: std::ops::Range<usize>,
        sums: &mut Attribution,
    ) {
        let (graph, d_model) = (self.graph, self.shape[2]);
        let rows = |at: HookPoint| sender_rows(slopes.at[&at].clone(), d_model);
        let lost = |range: std::ops::Range<usize>| {
            let start = range.start.max(senders.start);
            let end = range.end.min(senders.end);
            (start < end).then(|| (start, self.lost.clone().narrow(0, start, end - start)))
        };
        let mut first = 0;
        for point in sender_points(graph) {
            let several = matches!(point, HookPoint::Block(_, BlockHook::Result));
            let n = if several { graph.heads } else { 1 };
            if let Some((start, lost)) = lost(first..first + n) {
                let here = lost.dims()[0];
                let products = rows(point).narrow(0, start - first, here) * lost;
                let [batch, pos, _] = self.shape;
                let of_prompts = products.reshape([here, batch, pos * d_model]).sum_dim(2);
                let scores = numbers(of_prompts.clone().sum_dim(1));
                let magnitudes = numbers(of_prompts.abs().sum_dim(1));
                for (i, (score, magnitude)) in scores.into_iter().zip(magnitudes).enumerate() {
                    sums.senders[start + i] += weight * score;
                    sums.importance[start + i] += weight * magnitude;
                }
            }
            first += n;
        }
        for (point, receivers) in receivers_by_point(graph) {
            if let Some((start, lost)) = lost(0..graph.senders_before(receivers.start)) {
                let here = lost.dims()[0];
                let scores = numbers(rows(point).matmul(lost.transpose())); // [receivers, here]
                for (receiver, scores) in receivers.zip(scores.chunks(here)) {
                    let first = graph.edges_into(receiver).start + start;
                    for (sum, score) in sums.edges[first..].iter_mut().zip(scores) {
                        *sum += weight * score;
                    }
                }
            }
        }
    }
}

pub(crate) fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f32>().map(f64::from).collect()
}
