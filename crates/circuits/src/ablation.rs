//! What components outside of a circuit write.

use crate::components::{sender_points, sender_rows};
use crate::patching::heads_written;
use crate::{CircuitError, Components, Graph, PromptBatch};
use burn::tensor::{Int, Tensor};
use lapidary_model::{BlockHook, HookPoint, HookedRun, Intervention, LanguageModel};
use std::fmt;
use std::str::FromStr;

/// What components outside of a circuit write in place of what they would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ablation {
    /// What they write on the corrupted prompt.
    #[default]
    Corrupted,
    /// The mean of what they write on the corrupted prompts, over all prompts and positions.
    Mean,
    /// Nothing.
    Zero,
}

impl Ablation {
    /// All of them with their names.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::Corrupted, "corrupted"),
        (Self::Mean, "mean"),
        (Self::Zero, "zero"),
    ];
}

impl fmt::Display for Ablation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(ablation, _)| ablation == self);
        f.write_str(named.expect("all are named").1)
    }
}

impl FromStr for Ablation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.iter().find(|(_, name)| *name == text);
        named.map(|(ablation, _)| *ablation).ok_or_else(|| {
            let known = Self::ALL.map(|(_, name)| name).join(", ");
            format!("found {text}, expected one of {known}")
        })
    }
}

/// The interventions, one for each layer, that ablate all heads on a batch.
pub(crate) struct AblatedHeads {
    /// By layer; `None`: what heads write on the corrupted prompts.
    fixed: Option<Vec<Intervention<'static>>>,
}

impl AblatedHeads {
    pub(crate) fn of(
        model: &LanguageModel,
        graph: &Graph,
        batches: &[PromptBatch],
        ablation: Ablation,
    ) -> Result<Self, CircuitError> {
        let at: Vec<HookPoint> = (0..graph.layers)
            .map(|layer| HookPoint::Block(layer, BlockHook::Z))
            .collect();
        let fixed = match ablation {
            Ablation::Corrupted => None,
            Ablation::Zero => Some(at.into_iter().map(Intervention::zero).collect()),
            Ablation::Mean => {
                let rows = |tokens: &Tensor<2, Int>| {
                    let run = HookedRun {
                        capture: &at,
                        ..Default::default()
                    };
                    let output = model.run(tokens.clone(), &run)?;
                    // [layers, batch, pos, width]
                    let values: Vec<_> = at.iter().map(|at| output.captured[at].clone()).collect();
                    let values = Tensor::stack::<4>(values, 0);
                    Ok(values.mean_dim(1).mean_dim(2))
                };
                let mean = mean_over(batches, rows)?; // [layers, 1, 1, width]
                let of_layer = |(layer, at): (usize, &HookPoint)| {
                    let mean = mean.clone().narrow(0, layer, 1);
                    Intervention::set(*at, mean.squeeze_dim::<3>(0))
                };
                Some(at.iter().enumerate().map(of_layer).collect())
            }
        };
        Ok(Self { fixed })
    }

    /// Those of one batch.
    pub(crate) fn on(
        &self,
        model: &LanguageModel,
        graph: &Graph,
        batch: &PromptBatch,
    ) -> Result<Vec<Intervention<'static>>, CircuitError> {
        match &self.fixed {
            Some(fixed) => Ok(fixed.clone()),
            None => heads_written(model, graph, &batch.corrupted),
        }
    }
}

/// What ablated senders write.
pub(crate) struct AblatedSenders {
    /// `[senders, 1, d_model]`; `None`: what they write on the corrupted prompts.
    fixed: Option<Tensor<3>>,
}

impl AblatedSenders {
    pub(crate) fn of(
        model: &LanguageModel,
        graph: &Graph,
        batches: &[PromptBatch],
        ablation: Ablation,
    ) -> Result<Self, CircuitError> {
        let d_model = model.config().d_model;
        let points = sender_points(graph);
        let fixed = match ablation {
            Ablation::Corrupted => None,
            Ablation::Zero => {
                let shape = [graph.senders(), 1, d_model];
                Some(Tensor::zeros(shape, model.device()))
            }
            Ablation::Mean => {
                let means = |tokens: &Tensor<2, Int>| {
                    let run = HookedRun {
                        capture: &points,
                        ..Default::default()
                    };
                    let output = model.run(tokens.clone(), &run)?;
                    let [batch, pos] = tokens.dims();
                    let of_point = |at: &HookPoint| {
                        let rows = sender_rows(output.captured[at].clone(), d_model);
                        let senders = rows.dims()[0];
                        rows.reshape([senders, batch * pos, d_model]).mean_dim(1)
                    };
                    Ok(Tensor::cat(points.iter().map(of_point).collect(), 0))
                };
                Some(mean_over(batches, means)?)
            }
        };
        Ok(Self { fixed })
    }

    /// On one batch.
    pub(crate) fn on(
        &self,
        model: &LanguageModel,
        graph: &Graph,
        batch: &PromptBatch,
    ) -> Result<Components, CircuitError> {
        let Some(fixed) = &self.fixed else {
            return Components::of(model, graph, &batch.corrupted);
        };
        let [batch, pos] = batch.clean.dims();
        let [senders, _, d_model] = fixed.dims();
        let written = fixed.clone().expand([senders, batch * pos, d_model]);
        Ok(Components {
            written: written.reshape([senders, batch * pos * d_model]),
            shape: [batch, pos, d_model],
        })
    }
}

/// The mean over all corrupted prompts and positions, from the means over those of each batch.
fn mean_over<const D: usize>(
    batches: &[PromptBatch],
    of_batch: impl Fn(&Tensor<2, Int>) -> Result<Tensor<D>, CircuitError>,
) -> Result<Tensor<D>, CircuitError> {
    let tokens = |batch: &PromptBatch| batch.corrupted.dims().iter().product::<usize>() as f64;
    let all: f64 = batches.iter().map(tokens).sum();
    let parts = batches
        .iter()
        .map(|batch| Ok(of_batch(&batch.corrupted)? * (tokens(batch) / all)));
    let parts: Vec<Tensor<D>> = parts.collect::<Result<_, CircuitError>>()?;
    let sum = parts.into_iter().reduce(|a, b| a + b);
    Ok(sum.expect("a task has a prompt"))
}
