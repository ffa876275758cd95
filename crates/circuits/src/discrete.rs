//! Discrete sparse autoencoders (O'Neill and Bui 2024, arXiv 2405.12522): a small autoencoder over
//! what all heads write on a few prompts gives each head an integer code on each prompt. A head
//! that has other codes on the clean prompts than on the corrupted ones belongs to the circuit.

use crate::components::{sender_points, sender_rows};
use crate::{CircuitError, Graph, PromptBatch, Task};
use burn::tensor::{Int, Tensor, TensorData, activation};
use lapidary_kernels::{AdamStep, Moments, adam_step};
use lapidary_model::{BlockHook, HookPoint, HookedRun, LanguageModel};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// The code of a head that no latent explains: none is active.
pub const INACTIVE: i32 = -1;

/// How a head's outputs at all positions become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Positions {
    /// Their mean.
    #[default]
    Mean,
    /// The one at the last position.
    Last,
}

/// How the autoencoder is trained. The defaults are those of the paper's code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiscreteSettings {
    /// Latents, and so codes.
    pub latents: usize,
    /// Prompts to train on, clean or corrupted; the codes are of all prompts.
    pub examples: usize,
    /// Steps on all of them.
    pub epochs: usize,
    /// Adam's learning rate.
    pub lr: f64,
    /// Weight of the L1 penalty.
    pub l1_coefficient: f64,
    /// How positions are reduced.
    pub positions: Positions,
    /// Of the prompts to train on and the initial weights.
    pub seed: u64,
}

impl Default for DiscreteSettings {
    fn default() -> Self {
        Self {
            latents: 200,
            examples: 10,
            epochs: 500,
            lr: 1e-3,
            l1_coefficient: 0.02,
            positions: Positions::Mean,
            seed: 0,
        }
    }
}

/// How the codes of a head become a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CodeScore {
    /// The number of codes that only clean prompts have: the paper's.
    #[default]
    Unique,
    /// The same as a share of all codes of the head.
    UniqueShare,
    /// Total variation between the codes of clean and corrupted prompts:
    /// `½ Σ_c |p_clean(c) − p_corrupted(c)|`.
    TotalVariation,
}

/// The codes of every head on every prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadCodes {
    /// By head, layer by layer: the codes on the clean prompts.
    pub clean: Vec<Vec<i32>>,
    /// By head: the codes on the corrupted prompts.
    pub corrupted: Vec<Vec<i32>>,
}

impl HeadCodes {
    /// Trains an autoencoder on what the heads write on the prompts of a task.
    ///
    /// # Errors
    /// The task does not fit the model.
    pub fn of_task(
        model: &LanguageModel,
        graph: &Graph,
        task: &Task,
        settings: &DiscreteSettings,
    ) -> Result<Self, CircuitError> {
        let (mut clean, mut corrupted) = (vec![], vec![]);
        for batch in PromptBatch::of_task(task, model)? {
            for (tokens, outputs) in [
                (&batch.clean, &mut clean),
                (&batch.corrupted, &mut corrupted),
            ] {
                outputs.push(head_outputs(model, graph, tokens, settings.positions)?);
            }
        }
        let (clean, corrupted) = (Tensor::cat(clean, 0), Tensor::cat(corrupted, 0));
        Ok(Self::of_outputs(clean, corrupted, settings))
    }

    /// The same from outputs of heads, `[prompts, heads, width]`.
    #[must_use]
    pub fn of_outputs(clean: Tensor<3>, corrupted: Tensor<3>, settings: &DiscreteSettings) -> Self {
        let n = clean.dims()[0];
        let all = Tensor::cat(vec![clean, corrupted], 0);
        let [both, heads, width] = all.dims();
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        let mut order: Vec<i32> = (0..both as i32).collect();
        order.shuffle(&mut rng);
        order.truncate(settings.examples.max(1));
        let chosen = TensorData::new(order.clone(), [order.len()]);
        let chosen = Tensor::<1, Int>::from_data(chosen, &all.device());
        let examples = all.clone().select(0, chosen);
        let trained = Autoencoder::train(
            examples.reshape([order.len() * heads, width]),
            settings,
            &mut rng,
        );
        let codes = trained.codes(all.reshape([both * heads, width]));
        let of = |prompts: std::ops::Range<usize>, head: usize| -> Vec<i32> {
            prompts.map(|prompt| codes[prompt * heads + head]).collect()
        };
        Self {
            clean: (0..heads).map(|head| of(0..n, head)).collect(),
            corrupted: (0..heads).map(|head| of(n..both, head)).collect(),
        }
    }

    /// The share of outputs that no latent explains.
    #[must_use]
    pub fn inactive(&self) -> f64 {
        let codes = || self.clean.iter().chain(&self.corrupted).flatten();
        let inactive = codes().filter(|code| **code == INACTIVE).count();
        inactive as f64 / codes().count().max(1) as f64
    }

    /// A score for each head.
    #[must_use]
    pub fn scores(&self, score: CodeScore) -> Vec<f64> {
        let heads = self.clean.iter().zip(&self.corrupted);
        heads
            .map(|(clean, corrupted)| of_codes(clean, corrupted, score))
            .collect()
    }

    /// A score for each ordered pair of different heads, by its first and its second head, from the
    /// pairs of codes that they have on the same prompt.
    #[must_use]
    pub fn pair_scores(&self, score: CodeScore) -> BTreeMap<(usize, usize), f64> {
        let heads = self.clean.len();
        let pairs = |codes: &[Vec<i32>], a: usize, b: usize| -> Vec<(i32, i32)> {
            codes[a]
                .iter()
                .copied()
                .zip(codes[b].iter().copied())
                .collect()
        };
        let all = (0..heads).flat_map(|a| (0..heads).map(move |b| (a, b)));
        all.filter(|(a, b)| a != b)
            .map(|(a, b)| {
                let (clean, corrupted) = (pairs(&self.clean, a, b), pairs(&self.corrupted, a, b));
                ((a, b), of_codes(&clean, &corrupted, score))
            })
            .collect()
    }
}

fn of_codes<T: Ord + Copy>(clean: &[T], corrupted: &[T], score: CodeScore) -> f64 {
    let unique = |codes: &[T]| codes.iter().copied().collect::<BTreeSet<T>>();
    let (p, q) = (unique(clean), unique(corrupted));
    match score {
        CodeScore::Unique => p.difference(&q).count() as f64,
        CodeScore::UniqueShare => p.difference(&q).count() as f64 / p.union(&q).count() as f64,
        CodeScore::TotalVariation => {
            let share = |codes: &[T], code: T| {
                codes.iter().filter(|c| **c == code).count() as f64 / codes.len() as f64
            };
            let gaps = p
                .union(&q)
                .map(|code| (share(clean, *code) - share(corrupted, *code)).abs());
            gaps.sum::<f64>() / 2.0
        }
    }
}

/// What heads write, reduced over positions, `[prompts, layers * heads, d_model]`.
fn head_outputs(
    model: &LanguageModel,
    graph: &Graph,
    tokens: &Tensor<2, Int>,
    positions: Positions,
) -> Result<Tensor<3>, CircuitError> {
    let points: Vec<HookPoint> = sender_points(graph)
        .into_iter()
        .filter(|at| matches!(at, HookPoint::Block(_, BlockHook::Result)))
        .collect();
    let run = HookedRun {
        capture: &points,
        ..Default::default()
    };
    let output = model.run(tokens.clone(), &run)?;
    let ([batch, pos], d_model) = (tokens.dims(), model.config().d_model);
    let of_layer = |at: &HookPoint| {
        let rows = sender_rows(output.captured[at].clone(), d_model);
        let rows = rows.reshape([graph.heads, batch, pos, d_model]);
        let reduced = match positions {
            Positions::Mean => rows.mean_dim(2),
            Positions::Last => rows.narrow(2, pos - 1, 1),
        };
        reduced
            .reshape([graph.heads, batch, d_model])
            .swap_dims(0, 1)
    };
    Ok(Tensor::cat(points.iter().map(of_layer).collect(), 1))
}

/// `f = ReLU(W_enc (x − b) + b_enc)`, reconstruction `W_decᵀ f + b`. Rows of `w_enc` have
/// norm 1, those of `w_dec` at the start.
struct Autoencoder {
    /// `[latents, width]`.
    w_enc: Tensor<2>,
    /// `[latents]`.
    b_enc: Tensor<1>,
    /// `[latents, width]`.
    w_dec: Tensor<2>,
    /// `[width]`.
    b: Tensor<1>,
}

impl Autoencoder {
    /// On rows, `[n, width]`, all of them in each step.
    fn train(x: Tensor<2>, settings: &DiscreteSettings, rng: &mut ChaCha8Rng) -> Self {
        let (device, width) = (x.device(), x.dims()[1]);
        let latents = settings.latents;
        let mut matrix = || {
            // Sums of twelve uniform numbers are nearly normal; only directions matter.
            let normal = (0..latents * width)
                .map(|_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0);
            let values = TensorData::new(normal.collect::<Vec<f32>>(), [latents, width]);
            unit_rows(Tensor::<2>::from_data(values, &device))
        };
        let (mut w_enc, mut w_dec) = (matrix(), matrix());
        let bound = 1.0 / (width as f32).sqrt();
        let b_enc: Vec<f32> = (0..latents)
            .map(|_| rng.random_range(-bound..bound))
            .collect();
        let mut b_enc = Tensor::<1>::from_data(TensorData::new(b_enc, [latents]), &device);
        let mut b = Tensor::<1>::zeros([width], &device);
        let mut moments = (
            Moments {
                m: w_enc.zeros_like(),
                v: w_enc.zeros_like(),
            },
            Moments {
                m: b_enc.zeros_like(),
                v: b_enc.zeros_like(),
            },
            Moments {
                m: w_dec.zeros_like(),
                v: w_dec.zeros_like(),
            },
            Moments {
                m: b.zeros_like(),
                v: b.zeros_like(),
            },
        );
        for epoch in 0..settings.epochs {
            let leaf = |t: &Tensor<2>| t.clone().autodiff().require_grad();
            let leaf1 = |t: &Tensor<1>| t.clone().autodiff().require_grad();
            let tracked = Self {
                w_enc: leaf(&w_enc),
                b_enc: leaf1(&b_enc),
                w_dec: leaf(&w_dec),
                b: leaf1(&b),
            };
            let input = x.clone().autodiff();
            let f = tracked.encode(input.clone());
            let reconstruction =
                f.clone().matmul(tracked.w_dec.clone()) + tracked.b.clone().unsqueeze();
            let l1 = f.sum_dim(1).mean();
            let loss = (reconstruction - input).square().mean() + l1 * settings.l1_coefficient;
            let mut gradients = loss.backward();
            let step = AdamStep {
                lr: settings.lr as f32,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.0,
                step: epoch as u64 + 1,
            };
            let gradient = |w: &Tensor<2>, leaf: &Tensor<2>, gradients: &mut _| {
                leaf.grad_remove(gradients)
                    .unwrap_or_else(|| w.zeros_like())
            };
            let g = gradient(&w_enc, &tracked.w_enc, &mut gradients);
            let along = (g.clone() * w_enc.clone()).sum_dim(1);
            let g = g - w_enc.clone() * along;
            let (moved, moved_moments) = adam_step(w_enc, g, moments.0, &step);
            (w_enc, moments.0) = (unit_rows(moved), moved_moments);
            let g = gradient(&w_dec, &tracked.w_dec, &mut gradients);
            (w_dec, moments.2) = adam_step(w_dec, g, moments.2, &step);
            let mut vector = |v: Tensor<1>, leaf: &Tensor<1>, moments: Moments<1>| {
                let g = leaf
                    .grad_remove(&mut gradients)
                    .unwrap_or_else(|| v.zeros_like());
                adam_step(v, g, moments, &step)
            };
            (b_enc, moments.1) = vector(b_enc, &tracked.b_enc, moments.1);
            (b, moments.3) = vector(b, &tracked.b, moments.3);
        }
        Self {
            w_enc,
            b_enc,
            w_dec,
            b,
        }
    }

    fn encode(&self, x: Tensor<2>) -> Tensor<2> {
        let x = x - self.b.clone().unsqueeze();
        let z = x.matmul(self.w_enc.clone().transpose()) + self.b_enc.clone().unsqueeze();
        activation::relu(z)
    }

    /// The strongest latent of each row.
    fn codes(&self, x: Tensor<2>) -> Vec<i32> {
        let (values, indices) = self.encode(x).max_dim_with_indices(1);
        let values = values.into_data();
        let indices = indices.into_data();
        let pairs = values.iter::<f32>().zip(indices.iter::<i32>());
        pairs
            .map(|(value, index)| if value > 0.0 { index } else { INACTIVE })
            .collect()
    }
}

fn unit_rows(w: Tensor<2>) -> Tensor<2> {
    let norms = w.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    w / norms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking::auc;
    use burn::tensor::Device;

    /// What heads of a made-up model write: some of them, the circuit, in other directions on clean
    /// prompts than on corrupted ones.
    fn planted_outputs(seed: u64, noise: f32, device: &Device) -> ([Tensor<3>; 2], Vec<bool>) {
        const HEADS: usize = 48;
        const CIRCUIT: usize = 12;
        const WIDTH: usize = 32;
        const PROMPTS: usize = 100;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let normal = |rng: &mut ChaCha8Rng| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        let direction = |rng: &mut ChaCha8Rng| -> Vec<f32> {
            let v: Vec<f32> = (0..WIDTH).map(|_| normal(rng)).collect();
            let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
            v.iter().map(|x| x / norm).collect()
        };
        let mut heads: Vec<usize> = (0..HEADS).collect();
        heads.shuffle(&mut rng);
        let truth: Vec<bool> = (0..HEADS)
            .map(|head| heads[..CIRCUIT].contains(&head))
            .collect();
        let directions: Vec<[Vec<Vec<f32>>; 2]> = (0..HEADS)
            .map(|head| {
                let mut some = |n: usize| (0..n).map(|_| direction(&mut rng)).collect::<Vec<_>>();
                if truth[head] {
                    return [some(6), some(6)];
                }
                let shared = some(8);
                [shared.clone(), shared]
            })
            .collect();
        let outputs = [0, 1].map(|class| {
            let mut values = Vec::with_capacity(PROMPTS * HEADS * WIDTH);
            for _ in 0..PROMPTS {
                for head in &directions {
                    let of_class = &head[class];
                    let chosen = &of_class[rng.random_range(0..of_class.len())];
                    let size = 1.0 + 0.1 * normal(&mut rng);
                    let spread = 3.0 * noise / (WIDTH as f32).sqrt();
                    values.extend(chosen.iter().map(|x| size * x + spread * normal(&mut rng)));
                }
            }
            Tensor::from_data(TensorData::new(values, [PROMPTS, HEADS, WIDTH]), device)
        });
        (outputs, truth)
    }

    /// By hand: codes 1 and −1 are of both, 2 and 3 of clean prompts alone, 4 of corrupted ones.
    #[test]
    fn scores_are_those_of_sets_and_shares() {
        let (clean, corrupted) = ([1, 2, 2, 3, INACTIVE], [1, 1, 1, 4, INACTIVE]);
        let score = |how| of_codes(&clean, &corrupted, how);
        assert_eq!(score(CodeScore::Unique), 2.0);
        assert_eq!(score(CodeScore::UniqueShare), 2.0 / 5.0);
        assert!((score(CodeScore::TotalVariation) - 0.6).abs() < 1e-12);
        let codes = HeadCodes {
            clean: vec![vec![1, 2], vec![1, 1]],
            corrupted: vec![vec![2, 1], vec![1, 2]],
        };
        assert_eq!(codes.scores(CodeScore::Unique), [0.0, 0.0]);
        // Pairs: clean (1, 1), (2, 1); corrupted (2, 1), (1, 2).
        assert_eq!(codes.pair_scores(CodeScore::Unique)[&(0, 1)], 1.0);
        assert_eq!(codes.inactive(), 0.0);
    }

    #[test]
    fn planted_heads_are_found() {
        let (mut unique, mut variation) = (0.0, 0.0);
        for seed in 0..12 {
            let ([clean, corrupted], truth) = planted_outputs(seed + 100, 0.1, &Device::flex());
            let settings = DiscreteSettings {
                seed,
                ..Default::default()
            };
            let codes = HeadCodes::of_outputs(clean, corrupted, &settings);
            let of = |score| auc(&codes.scores(score), &truth).unwrap() / 12.0;
            unique += of(CodeScore::Unique);
            variation += of(CodeScore::TotalVariation);
        }
        println!("unique {unique}, total variation {variation}");
        assert!(unique >= 0.9 && variation >= 0.97, "{unique}, {variation}");
    }
}
