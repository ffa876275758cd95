//! How much each edge and each sender matters, from gradients: one number for every edge of a graph
//! at the cost of a few passes.
//!
//! A score is an estimate of how far the metric falls, mean over prompts, if what the sender writes
//! is replaced by what it writes on the corrupted prompt: for the receiver alone (edges), or for
//! all (senders).

use crate::components::{sender_points, sender_rows, sender_value};
use crate::{CircuitError, Components, Graph, PromptBatch, Task};
use burn::tensor::{Int, Tensor};
use lapidary_model::{
    BackwardRules, BlockHook, Gradients, HookPoint, HookedRun, Intervention, LanguageModel,
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
        match method {
            Method::Eap => {
                let slopes = at.slopes(&batch.clean, &[], BackwardRules::default())?;
                at.add(&slopes, 1.0, all, &mut sums);
            }
            Method::RelP => {
                let slopes = at.slopes(&batch.corrupted, &[], BackwardRules::RELP)?;
                at.add(&slopes, 1.0, all, &mut sums);
            }
            Method::EapIgInputs { steps } => {
                for step in 0..steps {
                    let towards = step as f64 / steps as f64;
                    let input = at.between(&corrupted, 0..1, towards);
                    let set = Intervention::set(HookPoint::Block(0, BlockHook::ResidPre), input);
                    let slopes = at.slopes(&batch.clean, &[set], BackwardRules::default())?;
                    at.add(&slopes, 1.0 / steps as f64, all.clone(), &mut sums);
                }
            }
            Method::EapIgActivations { steps } => {
                let mut first = 0;
                for point in sender_points(graph) {
                    let several = matches!(point, HookPoint::Block(_, BlockHook::Result));
                    let group = first..first + if several { graph.heads } else { 1 };
                    first = group.end;
                    for step in 1..=steps {
                        let towards = 1.0 - step as f64 / steps as f64;
                        let value = at.between(&corrupted, group.clone(), towards);
                        let set = Intervention::set(point, value);
                        let slopes = at.slopes(&batch.clean, &[set], BackwardRules::default())?;
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
    /// The gradients of the metric where senders write and receivers read.
    fn slopes(
        &self,
        tokens: &Tensor<2, Int>,
        interventions: &[Intervention<'_>],
        rules: BackwardRules,
    ) -> Result<Gradients, CircuitError> {
        let mut at = sender_points(self.graph);
        at.extend((0..self.graph.layers).flat_map(receiver_points));
        at.push(last_stream(self.graph));
        let run = HookedRun {
            interventions,
            rules,
            ..Default::default()
        };
        let metric = |logits| self.batch.metric(logits);
        Ok(self.model.gradients(tokens.clone(), &run, &at, &metric)?)
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

    /// Adds the scores of `senders` by these gradients, with a weight.
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
            let rows = rows(point);
            let n = rows.dims()[0];
            if let Some((start, lost)) = lost(first..first + n) {
                let here = lost.dims()[0];
                let products = rows.narrow(0, start - first, here) * lost;
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
        let layers = (0..graph.layers).flat_map(receiver_points);
        let mut receiver = 0;
        for point in layers.chain([last_stream(graph)]) {
            let rows = rows(point);
            let n = rows.dims()[0];
            if let Some((start, lost)) = lost(0..graph.senders_before(receiver)) {
                let here = lost.dims()[0];
                let scores = numbers(rows.matmul(lost.transpose())); // [n, here]
                for (i, scores) in scores.chunks(here).enumerate() {
                    let first = graph.edges_into(receiver + i).start + start;
                    for (sum, score) in sums.edges[first..].iter_mut().zip(scores) {
                        *sum += weight * score;
                    }
                }
            }
            receiver += n;
        }
    }
}

/// Where the receivers of a layer read, in the order of their numbers.
pub(crate) fn receiver_points(layer: usize) -> [HookPoint; 4] {
    use BlockHook as B;
    [B::QInput, B::KInput, B::VInput, B::MlpIn].map(|hook| HookPoint::Block(layer, hook))
}

/// Where the logits read.
pub(crate) fn last_stream(graph: &Graph) -> HookPoint {
    HookPoint::Block(graph.layers - 1, BlockHook::ResidPost)
}

pub(crate) fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f32>().map(f64::from).collect()
}
