//! What the components of a model write on prompts, and batches of prompts on a device.

use crate::{CircuitError, Graph, Metric, Prompt, Task};
use burn::tensor::{Bool, Int, Tensor};
use lapidary_model::{BlockHook, HookPoint, HookedRun, Intervention, LanguageModel, Start};
use std::ops::Range;

/// Prompts of one length.
pub struct PromptBatch {
    /// `[batch, pos]`.
    pub clean: Tensor<2, Int>,
    /// `[batch, pos]`.
    pub corrupted: Tensor<2, Int>,
    metric: Metric,
    /// What each token counts, `[batch, d_vocab]`.
    signs: Tensor<2>,
}

impl PromptBatch {
    /// Tokens of one batch: what components write takes this times `d_model` times their number.
    pub(crate) const TOKENS_AT_ONCE: usize = 256;

    /// All prompts of a task, in batches.
    ///
    /// # Errors
    /// A token id is outside the vocabulary, or a prompt and its corrupted version have different
    /// lengths.
    pub fn of_task(task: &Task, model: &LanguageModel) -> Result<Vec<Self>, CircuitError> {
        let groups = task.groups(Self::TOKENS_AT_ONCE);
        groups
            .iter()
            .map(|g| Self::new(&task.name, g, task.metric, model))
            .collect()
    }

    fn new(
        task: &str,
        prompts: &[&Prompt],
        metric: Metric,
        model: &LanguageModel,
    ) -> Result<Self, CircuitError> {
        let of = |ids: fn(&Prompt) -> &[u32]| -> Vec<&[u32]> {
            prompts.iter().map(|prompt| ids(prompt)).collect()
        };
        let d_vocab = model.config().d_vocab;
        for prompt in prompts {
            let problem = if prompt.corrupted.len() != prompt.clean.len() {
                format!(
                    "a corrupted prompt has {} tokens, expected {} as the clean one",
                    prompt.corrupted.len(),
                    prompt.clean.len()
                )
            } else if prompt.answers.is_empty() || prompt.wrong.is_empty() {
                "a prompt has no answer or no wrong answer".into()
            } else if let Some(id) =
                (prompt.answers.iter().chain(&prompt.wrong)).find(|id| **id as usize >= d_vocab)
            {
                format!("found answer {id}, expected a token below {d_vocab}")
            } else {
                continue;
            };
            return Err(CircuitError::Task {
                task: task.into(),
                problem,
            });
        }
        let pairs = prompts.iter().map(|p| (&p.answers[..], &p.wrong[..]));
        Ok(Self {
            clean: model.tokens(&of(|p| &p.clean))?,
            corrupted: model.tokens(&of(|p| &p.corrupted))?,
            metric,
            signs: metric.signs(pairs, d_vocab, model.device()),
        })
    }

    /// How many prompts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clean.dims()[0]
    }

    /// Never: a batch has a prompt.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sum of the metric over the prompts, from `logits`, `[batch, pos, d_vocab]`, of which the
    /// last position counts.
    pub fn metric(&self, logits: Tensor<3>) -> Tensor<1> {
        let [batch, pos, d_vocab] = logits.dims();
        let last = logits.narrow(1, pos - 1, 1).reshape([batch, d_vocab]);
        let signs = match last.is_autodiff() {
            true => self.signs.clone().autodiff(),
            false => self.signs.clone(),
        };
        self.metric.sum(last, signs)
    }

    /// After how many prompts an answer has a larger logit than every wrong answer.
    pub(crate) fn right(&self, logits: Tensor<3>) -> usize {
        let [batch, pos, d_vocab] = logits.dims();
        let last = logits.narrow(1, pos - 1, 1).reshape([batch, d_vocab]);
        let largest = |others: Tensor<2, Bool>| last.clone().mask_fill(others, f32::MIN).max_dim(1);
        let answer = largest(self.signs.clone().lower_equal_elem(0.0));
        let wrong = largest(self.signs.clone().greater_equal_elem(0.0));
        let right = answer.greater(wrong).int().sum();
        right.into_scalar::<i32>() as usize
    }

    /// The sum of the metric over the prompts, the clean ones or the corrupted ones, in a pass with
    /// interventions.
    ///
    /// # Errors
    /// An intervention does not fit the model.
    pub fn measure(
        &self,
        model: &LanguageModel,
        corrupted: bool,
        interventions: &[Intervention<'_>],
    ) -> Result<f64, CircuitError> {
        let logits = self.logits(model, corrupted, interventions)?;
        Ok(f64::from(self.metric(logits).into_scalar::<f32>()))
    }

    /// The same on the clean prompts in a pass that starts at a block.
    pub(crate) fn measure_from(
        &self,
        model: &LanguageModel,
        start: Start,
        interventions: &[Intervention<'_>],
    ) -> Result<f64, CircuitError> {
        let logits = self.logits_from(model, start, interventions)?;
        Ok(f64::from(self.metric(logits).into_scalar::<f32>()))
    }

    /// The logits of such a pass after the last position, `[batch, 1, d_vocab]`.
    pub(crate) fn logits_from(
        &self,
        model: &LanguageModel,
        start: Start,
        interventions: &[Intervention<'_>],
    ) -> Result<Tensor<3>, CircuitError> {
        let run = HookedRun {
            interventions,
            logits: true,
            last_logits: true,
            start: Some(start),
            ..Default::default()
        };
        let logits = model.run(self.clean.clone(), &run)?.logits;
        Ok(logits.expect("the run was asked for logits"))
    }

    /// The logits of such a pass after the last position, `[batch, 1, d_vocab]`.
    pub(crate) fn logits(
        &self,
        model: &LanguageModel,
        corrupted: bool,
        interventions: &[Intervention<'_>],
    ) -> Result<Tensor<3>, CircuitError> {
        let tokens = match corrupted {
            true => &self.corrupted,
            false => &self.clean,
        };
        let run = HookedRun {
            interventions,
            logits: true,
            last_logits: true,
            ..Default::default()
        };
        let logits = model.run(tokens.clone(), &run)?.logits;
        Ok(logits.expect("the run was asked for logits"))
    }
}

/// The residual stream that enters each layer, so that passes over the same tokens can start there.
pub(crate) struct Streams(Vec<Tensor<3>>);

impl Streams {
    /// On `tokens`, `[batch, pos]`.
    pub(crate) fn of(
        model: &LanguageModel,
        graph: &Graph,
        tokens: &Tensor<2, Int>,
    ) -> Result<Self, CircuitError> {
        Self::with(model, graph, tokens, &[])
    }

    /// The same in a pass with interventions.
    pub(crate) fn with(
        model: &LanguageModel,
        graph: &Graph,
        tokens: &Tensor<2, Int>,
        interventions: &[Intervention<'_>],
    ) -> Result<Self, CircuitError> {
        let at: Vec<HookPoint> = (0..graph.layers)
            .map(|layer| HookPoint::Block(layer, BlockHook::ResidPre))
            .collect();
        let run = HookedRun {
            capture: &at,
            interventions,
            ..Default::default()
        };
        let mut output = model.run(tokens.clone(), &run)?;
        let streams = at.iter().map(|at| output.captured.remove(at));
        Ok(Self(streams.map(|s| s.expect("captured")).collect()))
    }

    /// A start at this layer.
    pub(crate) fn at(&self, layer: usize) -> Start {
        Start {
            layer,
            resid_pre: self.0[layer].clone(),
        }
    }
}

/// What every sender of a graph writes on a batch.
pub struct Components {
    /// `[senders, batch * pos * d_model]`.
    pub written: Tensor<2>,
    /// Batch, pos, d_model.
    pub shape: [usize; 3],
}

/// Where senders write: the embeddings, then of each layer the heads and the MLP.
pub(crate) fn sender_points(graph: &Graph) -> Vec<HookPoint> {
    let mut points = vec![HookPoint::Block(0, BlockHook::ResidPre)];
    for layer in 0..graph.layers {
        points.push(HookPoint::Block(layer, BlockHook::Result));
        points.push(HookPoint::Block(layer, BlockHook::MlpOut));
    }
    points
}

/// Rows of senders, `[1 | heads, batch * pos * d_model]`, of a value where they write.
pub(crate) fn sender_rows(value: Tensor<3>, d_model: usize) -> Tensor<2> {
    let [batch, pos, width] = value.dims();
    let heads = width / d_model;
    let rows = value.reshape([batch * pos, heads, d_model]);
    rows.swap_dims(0, 1).reshape([heads, batch * pos * d_model])
}

/// The value where senders write, `[batch, pos, width]`, of their rows.
pub(crate) fn sender_value(rows: Tensor<2>, [batch, pos, d_model]: [usize; 3]) -> Tensor<3> {
    let heads = rows.dims()[0];
    let value = rows.reshape([heads, batch * pos, d_model]);
    value.swap_dims(0, 1).reshape([batch, pos, heads * d_model])
}

impl Components {
    /// Runs the model over `tokens`, `[batch, pos]`.
    ///
    /// # Errors
    /// The tokens do not fit the model.
    pub fn of(
        model: &LanguageModel,
        graph: &Graph,
        tokens: &Tensor<2, Int>,
    ) -> Result<Self, CircuitError> {
        let points = sender_points(graph);
        let run = HookedRun {
            capture: &points,
            ..Default::default()
        };
        let output = model.run(tokens.clone(), &run)?;
        let [batch, pos] = tokens.dims();
        let d_model = model.config().d_model;
        let rows = points
            .iter()
            .map(|at| sender_rows(output.captured[at].clone(), d_model));
        Ok(Self {
            written: Tensor::cat(rows.collect(), 0),
            shape: [batch, pos, d_model],
        })
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

/// The hook points where receivers read, each with the numbers of those that read there.
pub(crate) fn receivers_by_point(graph: &Graph) -> Vec<(HookPoint, Range<usize>)> {
    let layers = (0..graph.layers).flat_map(receiver_points);
    let mut first = 0;
    let points = layers.chain([last_stream(graph)]).map(|point| {
        let n = match point {
            HookPoint::Block(_, BlockHook::QInput) => graph.heads,
            HookPoint::Block(_, BlockHook::KInput | BlockHook::VInput) => graph.kv_heads,
            _ => 1,
        };
        first += n;
        (point, first - n..first)
    });
    points.collect()
}

/// Interventions, one for each layer, that put the outputs of heads on these tokens,
/// `[batch, pos]`, in place of those of the run.
pub(crate) fn heads_written(
    model: &LanguageModel,
    graph: &Graph,
    tokens: &Tensor<2, Int>,
) -> Result<Vec<Intervention<'static>>, CircuitError> {
    let at: Vec<HookPoint> = (0..graph.layers)
        .map(|layer| HookPoint::Block(layer, BlockHook::Z))
        .collect();
    let run = HookedRun {
        capture: &at,
        ..Default::default()
    };
    let output = model.run(tokens.clone(), &run)?;
    Ok(output.freeze(|_| true))
}
