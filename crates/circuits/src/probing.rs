//! Subnetwork probing (Cao et al. 2021, arXiv 2104.03514), with the gates of Louizos et al. 2018
//! (arXiv 1712.01312): for each head, a gate between what it writes on the clean and on the
//! corrupted prompt is learned.

use crate::components::heads_written;
use crate::divergence::Predictions;
use crate::{CircuitError, Graph, PromptBatch, Task};
use burn::tensor::{Tensor, TensorData};
use lapidary_model::{BlockHook, Edit, HookPoint, HookedRun, Intervention, LanguageModel};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;

/// Temperature and stretched ends of the hard-concrete distribution.
const BETA: f64 = 2.0 / 3.0;
const GAMMA: f64 = -0.1;
const ZETA: f64 = 1.1;

/// How gates are learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbingSettings {
    /// Of Adam, on one batch of prompts each.
    pub steps: usize,
    /// Adam's learning rate.
    pub lr: f64,
    /// Weight of the mean probability that a gate is open, as a part of the divergence of the model
    /// with all heads corrupted.
    pub lambda: f64,
    /// σ(α) of every gate at the start.
    pub initial: f64,
    /// Of the noise of gates.
    pub seed: u64,
}

impl Default for ProbingSettings {
    fn default() -> Self {
        Self {
            steps: 200,
            lr: 0.1,
            lambda: 1.0,
            initial: 0.9,
            seed: 0,
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The gate of α and a uniform number u, `clamp(s (ζ − γ) + γ, 0, 1)` with
/// `s = σ((ln u − ln(1 − u) + α) / β)`, and its derivative with respect to α.
fn gate(alpha: f64, u: f64) -> (f64, f64) {
    let s = sigmoid((u.ln() - (1.0 - u).ln() + alpha) / BETA);
    let stretched = s * (ZETA - GAMMA) + GAMMA;
    let slope = match (0.0..=1.0).contains(&stretched) {
        true => (ZETA - GAMMA) * s * (1.0 - s) / BETA,
        false => 0.0,
    };
    (stretched.clamp(0.0, 1.0), slope)
}

/// The probability that a gate is not 0, `σ(α − β ln(−γ / ζ))`, and its derivative.
fn open(alpha: f64) -> (f64, f64) {
    let p = sigmoid(alpha - BETA * (-GAMMA / ZETA).ln());
    (p, p * (1.0 - p))
}

/// A score for each head, layer by layer, between 0 and 1: σ(α) of its gate. The gates minimize
/// `KL(model ‖ gated model) + λ D · mean_h P(gate h > 0)` by Adam; D is the divergence of the model
/// with all heads corrupted. KL is the mean over prompts, after the last token. A gate m gives
/// `m · z + (1 − m) · z_corrupted` to the rest of the model, z what the head computes there.
///
/// # Errors
/// The task does not fit the model.
pub fn subnetwork_probing(
    model: &LanguageModel,
    graph: &Graph,
    task: &Task,
    settings: &ProbingSettings,
) -> Result<Vec<f64>, CircuitError> {
    let batches = PromptBatch::of_task(task, model)?;
    let batches = batches
        .into_iter()
        .map(|batch| Gated::new(model, graph, batch));
    let batches: Vec<Gated<'_>> = batches.collect::<Result<_, _>>()?;
    let heads = graph.layers * graph.heads;
    let mut divergence = 0.0;
    for batch in &batches {
        divergence += batch.loss(&vec![0.0; heads])?.0;
    }
    let weight = settings.lambda * divergence / task.prompts.len() as f64;
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let start = (settings.initial / (1.0 - settings.initial)).ln();
    let mut alphas = vec![start; heads];
    let mut moments = vec![[0.0_f64; 2]; heads];
    for step in 0..settings.steps {
        let batch = &batches[step % batches.len()];
        // Not 0, whose logarithm is infinite.
        let gates: Vec<(f64, f64)> = alphas
            .iter()
            .map(|alpha| gate(*alpha, rng.random_range(1e-6..1.0 - 1e-6)))
            .collect();
        let values: Vec<f64> = gates.iter().map(|(gate, _)| *gate).collect();
        let (_, slopes) = batch.loss(&values)?;
        let n = batch.batch.len() as f64;
        for (head, alpha) in alphas.iter_mut().enumerate() {
            let penalty = weight * open(*alpha).1 / heads as f64;
            let slope = slopes[head] / n * gates[head].1 + penalty;
            let [m, v] = &mut moments[head];
            *m = 0.9 * *m + 0.1 * slope;
            *v = 0.999 * *v + 0.001 * slope * slope;
            let unbiased = |moment: f64, beta: f64| moment / (1.0 - beta.powi(step as i32 + 1));
            *alpha -= settings.lr * unbiased(*m, 0.9) / (unbiased(*v, 0.999).sqrt() + 1e-8);
        }
    }
    Ok(alphas.into_iter().map(sigmoid).collect())
}

/// A batch of prompts on a model whose heads have gates.
struct Gated<'a> {
    model: &'a LanguageModel,
    graph: &'a Graph,
    batch: PromptBatch,
    own: Predictions,
    /// Of each layer, what heads compute on the corrupted prompts, `[batch, pos, heads * d_head]`.
    corrupted: Vec<Tensor<3>>,
}

impl<'a> Gated<'a> {
    fn new(
        model: &'a LanguageModel,
        graph: &'a Graph,
        batch: PromptBatch,
    ) -> Result<Self, CircuitError> {
        let own = Predictions::of(batch.logits(model, false, &[])?);
        let corrupted = heads_written(model, graph, &batch.corrupted)?;
        let corrupted = corrupted.into_iter().filter_map(|set| match set.edit {
            Edit::Set(value) => Some(value),
            _ => None,
        });
        Ok(Self {
            corrupted: corrupted.collect(),
            model,
            graph,
            own,
            batch,
        })
    }

    /// The sum of the divergences of prompts with these gates, and its derivatives with respect to
    /// the gates.
    fn loss(&self, gates: &[f64]) -> Result<(f64, Vec<f64>), CircuitError> {
        let heads = self.graph.heads;
        // Of each layer, what a gate moves per unit: what its head computes less what it computes
        // on the corrupted prompt.
        let moved: RefCell<Vec<Tensor<3>>> = RefCell::new(vec![]);
        let mixers: Vec<_> = self
            .corrupted
            .iter()
            .zip(gates.chunks(heads))
            .map(|(corrupted, gates)| {
                let moved = &moved;
                move |value: Tensor<3>| {
                    let [_, _, width] = value.dims();
                    let d_head = width / heads;
                    let factors: Vec<f32> = (0..width).map(|i| gates[i / d_head] as f32).collect();
                    let factors = TensorData::new(factors, [1, 1, width]);
                    let factors = Tensor::<3>::from_data(factors, &corrupted.device());
                    // In a run without gradients, this is the value itself.
                    let plain = match value.is_autodiff() {
                        true => value.clone().inner(),
                        false => value.clone(),
                    };
                    moved.borrow_mut().push(plain - corrupted.clone());
                    let rest = corrupted.clone() * (factors.clone().neg() + 1.0);
                    match value.is_autodiff() {
                        true => value * factors.autodiff() + rest.autodiff(),
                        false => value * factors + rest,
                    }
                }
            })
            .collect();
        let points: Vec<HookPoint> = (0..self.graph.layers)
            .map(|layer| HookPoint::Block(layer, BlockHook::Z))
            .collect();
        let pairs = points.iter().zip(&mixers);
        let interventions: Vec<Intervention<'_>> = pairs
            .map(|(at, mix)| Intervention::function(*at, mix))
            .collect();
        let run = HookedRun {
            interventions: &interventions,
            last_logits: true,
            ..Default::default()
        };
        let kl = |logits| self.own.kl(logits);
        let tokens = self.batch.clean.clone();
        let found = self.model.gradients(tokens, &run, &points, &kl)?;
        let moved = moved.into_inner();
        let mut slopes = vec![];
        for (at, moved) in points.iter().zip(moved) {
            let [batch, pos, width] = moved.dims();
            let products = found.at[at].clone() * moved;
            let of_heads = products.reshape([batch * pos, heads, width / heads]);
            let of_heads = of_heads
                .swap_dims(0, 1)
                .reshape([heads, batch * pos * width / heads]);
            slopes.extend(crate::attribution::numbers(of_heads.sum_dim(1)));
        }
        Ok((f64::from(found.value), slopes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks;
    use burn::tensor::Device;

    #[test]
    fn derivatives_of_gates_are_their_slopes() {
        let near = |f: &dyn Fn(f64) -> (f64, f64), alpha: f64| {
            let slope = (f(alpha + 1e-5).0 - f(alpha - 1e-5).0) / 2e-5;
            assert!((slope - f(alpha).1).abs() < 1e-6, "{alpha}");
        };
        for alpha in [-3.0, -0.4, 0.3, 2.0, 9.0] {
            near(&|alpha| gate(alpha, 0.3), alpha);
            near(&open, alpha);
        }
        assert_eq!(gate(9.0, 0.3).0, 1.0);
        assert_eq!(gate(-9.0, 0.3).0, 0.0);
        // P(gate > 0) is the share of noise that leaves the gate open.
        let n = 10_000;
        let share = (0..n).filter(|i| gate(-1.0, (*i as f64 + 0.5) / n as f64).0 > 0.0);
        assert!((share.count() as f64 / n as f64 - open(-1.0).0).abs() < 1e-3);
    }

    /// With all gates open nothing diverges; with any gates, derivatives are finite differences.
    #[test]
    fn gates_change_the_divergence_by_their_derivatives() {
        for name in ["gpt2", "llama-gqa"] {
            let folder = format!(
                "{}/../../tests/fixtures/models/{name}",
                env!("CARGO_MANIFEST_DIR")
            );
            let model = LanguageModel::load(&folder, &Device::flex()).unwrap();
            let graph = Graph::of(&model).unwrap();
            let task = tasks::generate("induction", &model, 2, 1, false).unwrap();
            let batch = PromptBatch::of_task(&task, &model).unwrap().remove(0);
            let gated = Gated::new(&model, &graph, batch).unwrap();
            let heads = graph.layers * graph.heads;
            assert!(gated.loss(&vec![1.0; heads]).unwrap().0.abs() < 1e-6);
            let gates: Vec<f64> = (0..heads)
                .map(|i| 0.1 + 0.7 * i as f64 / heads as f64)
                .collect();
            let (value, slopes) = gated.loss(&gates).unwrap();
            assert!(value > 0.0);
            let largest = slopes.iter().fold(0.0_f64, |m, s| m.max(s.abs()));
            for head in 0..heads {
                let moved = |by: f64| {
                    let mut gates = gates.clone();
                    gates[head] += by;
                    gated.loss(&gates).unwrap().0
                };
                let slope = (moved(0.05) - moved(-0.05)) / 0.1;
                let gap = (slope - slopes[head]).abs();
                assert!(
                    gap < 0.03 * largest,
                    "{name} {head}: {slope}, {}",
                    slopes[head]
                );
            }
        }
    }
}
