//! What components outside of a circuit write.

use crate::components::heads_written;
use crate::{CircuitError, Components, Graph, PromptBatch};
use burn::tensor::{Int, Tensor};
use lapidary_model::{BlockHook, HookPoint, HookedRun, Intervention, LanguageModel};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What components outside of a circuit write in place of what they would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ablation {
    /// What they write on the corrupted prompt.
    #[default]
    Corrupted,
    /// The mean of what they write at the same position of the corrupted prompts of the same
    /// length.
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
            format!("found `{text}`, expected one of {known}")
        })
    }
}

/// The interventions, one for each layer, that ablate all heads on a batch.
pub(crate) struct AblatedHeads {
    ablation: Ablation,
    at: Vec<HookPoint>,
    /// By length of the prompts, `[layers, pos, width]`.
    means: BTreeMap<usize, Tensor<3>>,
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
        let written = |tokens: &Tensor<2, Int>| {
            let run = HookedRun {
                capture: &at,
                ..Default::default()
            };
            let output = model.run(tokens.clone(), &run)?;
            let values = at.iter().map(|at| output.captured[at].clone());
            // [layers, pos, width]
            Ok(Tensor::stack::<4>(values.collect(), 0)
                .sum_dim(1)
                .squeeze_dim(1))
        };
        let means = match ablation {
            Ablation::Mean => means_by_length(batches, written)?,
            Ablation::Corrupted | Ablation::Zero => BTreeMap::new(),
        };
        Ok(Self {
            ablation,
            at,
            means,
        })
    }

    /// Those of one batch.
    pub(crate) fn on(
        &self,
        model: &LanguageModel,
        graph: &Graph,
        batch: &PromptBatch,
    ) -> Result<Vec<Intervention<'static>>, CircuitError> {
        Ok(match self.ablation {
            Ablation::Corrupted => heads_written(model, graph, &batch.corrupted)?,
            Ablation::Zero => self.at.iter().map(|at| Intervention::zero(*at)).collect(),
            Ablation::Mean => {
                let means = &self.means[&batch.clean.dims()[1]];
                let of_layer = |(layer, at): (usize, &HookPoint)| {
                    Intervention::set(*at, means.clone().narrow(0, layer, 1))
                };
                self.at.iter().enumerate().map(of_layer).collect()
            }
        })
    }
}

/// What ablated senders write.
pub(crate) struct AblatedSenders {
    ablation: Ablation,
    /// By length of the prompts, `[senders, pos, d_model]`.
    means: BTreeMap<usize, Tensor<3>>,
}

impl AblatedSenders {
    pub(crate) fn of(
        model: &LanguageModel,
        graph: &Graph,
        batches: &[PromptBatch],
        ablation: Ablation,
    ) -> Result<Self, CircuitError> {
        let written = |tokens: &Tensor<2, Int>| {
            let Components {
                written,
                shape: [batch, pos, d_model],
            } = Components::of(model, graph, tokens)?;
            let written = written.reshape([graph.senders(), batch, pos, d_model]);
            Ok(written.sum_dim(1).squeeze_dim(1))
        };
        let means = match ablation {
            Ablation::Mean => means_by_length(batches, written)?,
            Ablation::Corrupted | Ablation::Zero => BTreeMap::new(),
        };
        Ok(Self { ablation, means })
    }

    /// On one batch.
    pub(crate) fn on(
        &self,
        model: &LanguageModel,
        graph: &Graph,
        batch: &PromptBatch,
    ) -> Result<Components, CircuitError> {
        let [n, pos] = batch.clean.dims();
        let shape = [n, pos, model.config().d_model];
        let width = shape.iter().product();
        let written = match self.ablation {
            Ablation::Corrupted => return Components::of(model, graph, &batch.corrupted),
            Ablation::Zero => Tensor::zeros([graph.senders(), width], model.device()),
            Ablation::Mean => {
                let mean = self.means[&pos].clone().unsqueeze_dim::<4>(1);
                let all = mean.expand([graph.senders(), n, pos, shape[2]]);
                all.reshape([graph.senders(), width])
            }
        };
        Ok(Components { written, shape })
    }
}

/// By length of the prompts, the mean over the corrupted ones, from sums over each batch.
fn means_by_length(
    batches: &[PromptBatch],
    sum: impl Fn(&Tensor<2, Int>) -> Result<Tensor<3>, CircuitError>,
) -> Result<BTreeMap<usize, Tensor<3>>, CircuitError> {
    let mut sums: BTreeMap<usize, (Tensor<3>, usize)> = BTreeMap::new();
    for batch in batches {
        let [n, pos] = batch.corrupted.dims();
        let here = sum(&batch.corrupted)?;
        let (sum, prompts) = match sums.remove(&pos) {
            Some((before, prompts)) => (before + here, prompts + n),
            None => (here, n),
        };
        sums.insert(pos, (sum, prompts));
    }
    let mean = |(pos, (sum, n)): (usize, (Tensor<3>, usize))| (pos, sum / n as f64);
    Ok(sums.into_iter().map(mean).collect())
}
