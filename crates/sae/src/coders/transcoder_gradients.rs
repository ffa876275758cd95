//! Gradients of transcoders, skip connection and all, against central differences of the same loss written anew in f64.
//! Input and output have other widths, so that nothing can be taken for the other.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::coder::{SKIP, SparseCoder, Weight};
use crate::coders::{Gradient, Learned, Now};
use crate::config::RunConfig;
use crate::ends::Batch;

const D_IN: usize = 5;
const D_OUT: usize = 7;
const F: usize = 16;
const N: usize = 9;
const K: usize = 3;
const STEP: f64 = 1e-5;

type Weights = BTreeMap<&'static str, Vec<f64>>;

struct World {
    config: RunConfig,
    weights: Weights,
    x: Vec<f64>,
    y: Vec<f64>,
    /// Widths of what stands side by side in y.
    parts: Vec<usize>,
}

impl World {
    fn new(architecture: &str, more: &str) -> Self {
        let text = format!(
            "hook_point = 'blocks.0.ln2.hook_normalized'
             hook_point_out = 'blocks.0.hook_mlp_out'
             coder.architecture = '{architecture}'
             coder.k = {K}
             coder.d_sae = {F}
             {more}"
        );
        let config = RunConfig::parse("test", &text, &[]).unwrap();
        let config = config.resolve(D_IN).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        // As f32 has them, so that both sides start from the same numbers.
        let mut numbers = |n: usize, size: f32| -> Vec<f64> {
            (0..n)
                .map(|_| f64::from((rng.random::<f32>() * 2.0 - 1.0) * size))
                .collect()
        };
        let shapes = shapes(&config).into_iter();
        let weights = shapes.map(|(name, shape)| (name, numbers(shape.iter().product(), 0.8)));
        let weights = weights.collect();
        let (x, y) = (numbers(N * D_IN, 2.0), numbers(N * D_OUT, 2.0));
        Self {
            config,
            weights,
            x,
            y,
            parts: vec![D_OUT],
        }
    }

    fn learn(&self) -> Learned {
        let device = Device::flex();
        let floats = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let matrix = |values: &[f64], shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(floats(values), shape), &device)
        };
        let weights = shapes(&self.config).into_iter().map(|(name, shape)| {
            let values = &self.weights[name];
            let weight: Weight = match shape[..] {
                [a, b] => matrix(values, [a, b]).into(),
                _ => Tensor::<1>::from_data(TensorData::new(floats(values), shape), &device).into(),
            };
            (name, weight)
        });
        let coder = SparseCoder {
            architecture: self.config.architecture(),
            k: K,
            apply_b_dec_to_input: false,
            weights: weights.collect(),
        };
        let batch = Batch {
            x: matrix(&self.x, [N, D_IN]),
            y: matrix(&self.y, [N, D_OUT]),
            parts: self.parts.clone(),
            pull: None,
        };
        let now = Now {
            config: &self.config,
            step: 1 << 40,
            dead: &[],
        };
        coder.architecture.method().learn(&coder, &batch, &now)
    }

    /// Pre-activations by the given bias, row by row.
    fn pre(&self, w: &Weights, bias: &str) -> Vec<Vec<f64>> {
        let row = |x: &[f64]| -> Vec<f64> {
            (0..F)
                .map(|i| dot(&w["w_enc"][i * D_IN..][..D_IN], x) + w[bias][i])
                .collect()
        };
        self.x.chunks(D_IN).map(row).collect()
    }

    /// Squared error of a token with a decoder, mean over the batch.
    fn mse(&self, w: &Weights, decoder: &Weights, codes: &[Vec<f64>]) -> f64 {
        let rows = codes
            .iter()
            .zip(self.x.chunks(D_IN))
            .zip(self.y.chunks(D_OUT));
        let error = |((z, x), y): ((&Vec<f64>, &[f64]), &[f64])| -> f64 {
            (0..D_OUT)
                .map(|j| {
                    let decoded: f64 = (0..F).map(|i| z[i] * decoder["w_dec"][i * D_OUT + j]).sum();
                    let skipped = w.get(SKIP).map_or(0.0, |s| dot(&s[j * D_IN..][..D_IN], x));
                    (decoded + decoder["b_dec"][j] + skipped - y[j]).powi(2)
                })
                .sum()
        };
        rows.map(error).sum::<f64>() / N as f64
    }

    fn variance(&self) -> f64 {
        let mean = |j: usize| self.y.iter().skip(j).step_by(D_OUT).sum::<f64>() / N as f64;
        let all = self.y.iter().enumerate();
        all.map(|(i, y)| (y - mean(i % D_OUT)).powi(2)).sum::<f64>() / N as f64
    }

    /// Holds every gradient against differences of `loss`, and the loss itself.
    fn check(&self, loss: impl Fn(&Weights) -> f64) {
        let learned = self.learn();
        let total = f64::from(learned.terms.total.clone().inner().into_scalar::<f32>());
        assert!((total - loss(&self.weights)).abs() < 1e-4 * total.abs().max(1.0));
        for (name, values) in &self.weights {
            let found = gradient(&learned, name);
            let mut w = self.weights.clone();
            let mut expected = vec![];
            for (i, value) in values.iter().enumerate() {
                let mut at = |v: f64| {
                    w.get_mut(name).unwrap()[i] = v;
                    loss(&w)
                };
                expected.push((at(value + STEP) - at(value - STEP)) / (2.0 * STEP));
                at(*value);
            }
            let largest = expected.iter().fold(0.0f64, |m, e| m.max(e.abs()));
            assert!(largest > 1e-3, "{name}: nothing to compare");
            assert_eq!(found.len(), expected.len(), "{name}");
            for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
                let good = (f - e).abs() <= 2e-4 * largest;
                assert!(good, "{name}[{i}]: gradient {f}, differences {e}");
            }
        }
    }
}

fn shapes(config: &RunConfig) -> Vec<(&'static str, Vec<usize>)> {
    let mut shapes = config.architecture().method().shapes(D_IN, D_OUT, F);
    if config.coder.skip_connection {
        shapes.push((SKIP, vec![D_OUT, D_IN]));
    }
    shapes
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A gradient, entry by entry.
fn gradient(learned: &Learned, name: &str) -> Vec<f64> {
    let found = learned.gradients.iter().find(|(n, _)| *n == name);
    match &found.unwrap().1 {
        Gradient::Vector(t) => t.to_data().iter().collect(),
        Gradient::Matrix(t) => t.to_data().iter().collect(),
        Gradient::Rows(rows) => {
            let values: Vec<f64> = rows.codes.values.to_data().iter().collect();
            let indices: Vec<i64> = rows.codes.indices.to_data().iter().collect();
            let vectors: Vec<f64> = rows.rows.to_data().iter().collect();
            let (k, d) = (rows.codes.values.dims()[1], rows.rows.dims()[1]);
            let mut out = vec![0.0; F * d];
            for (at, (value, latent)) in values.iter().zip(indices).enumerate() {
                for j in 0..d {
                    out[latent as usize * d + j] += value * vectors[at / k * d + j];
                }
            }
            out
        }
    }
}

/// The `k` largest of each row, if positive.
fn largest(pre: &[Vec<f64>], k: usize) -> Vec<Vec<f64>> {
    let row = |row: &Vec<f64>| {
        let mut order: Vec<usize> = (0..F).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        let mut out = vec![0.0; F];
        for i in &order[..k] {
            out[*i] = row[*i].max(0.0);
        }
        out
    };
    pre.iter().map(row).collect()
}

fn relu(pre: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let row = |row: &Vec<f64>| row.iter().map(|p| p.max(0.0)).collect();
    pre.iter().map(row).collect()
}

const SKIPS: &str = "coder.skip_connection = true";

#[test]
fn topk_transcoders_with_and_without_a_skip_connection() {
    for skip in ["", SKIPS] {
        let world = World::new("topk", skip);
        world.check(|w| {
            let codes = largest(&world.pre(w, "b_enc"), K);
            world.mse(w, w, &codes) / world.variance()
        });
    }
    let world = World::new("topk", &format!("{SKIPS}\ncoder.multi_topk = true"));
    world.check(|w| {
        let pre = world.pre(w, "b_enc");
        let part = |k| world.mse(w, w, &largest(&pre, k)) / world.variance();
        part(K) + part(4 * K) / 8.0
    });
}

#[test]
fn relu_transcoder_with_a_skip_connection() {
    let mut world = World::new(
        "standard",
        &format!("{SKIPS}\ntraining.l1_coefficient = 0.3"),
    );
    relu_equals_its_loss(&world);
    // A crosscoder's penalty sums the norms at its hook points.
    world.parts = vec![3, 4];
    relu_equals_its_loss(&world);
}

fn relu_equals_its_loss(world: &World) {
    world.check(|w| {
        let codes = relu(&world.pre(w, "b_enc"));
        let norm = |i: usize| {
            let row = &w["w_dec"][i * D_OUT..][..D_OUT];
            let mut start = 0;
            let norms = world.parts.iter().map(|width| {
                start += width;
                let part = &row[start - width..start];
                dot(part, part).sqrt()
            });
            norms.sum::<f64>()
        };
        let l1 = |z: &Vec<f64>| (0..F).map(|i| z[i] * norm(i)).sum::<f64>();
        let penalty = codes.iter().map(l1).sum::<f64>() / N as f64;
        world.mse(w, w, &codes) + 0.3 * penalty
    });
}

#[test]
fn gated_transcoder_with_a_skip_connection_that_its_gates_do_not_move() {
    let world = World::new("gated", &format!("{SKIPS}\ntraining.l1_coefficient = 0.3"));
    let frozen = &world.weights;
    world.check(|w| {
        let gates = relu(&world.pre(w, "b_gate"));
        let none = vec![0.0; F];
        let zero = BTreeMap::from([("w_enc", w["w_enc"].clone()), ("none", none)]);
        let products = world.pre(&zero, "none");
        let value = |(h, gates): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
            (0..F)
                .map(|i| match gates[i] > 0.0 {
                    true => (w["r_mag"][i].exp() * h[i] + w["b_mag"][i]).max(0.0),
                    false => 0.0,
                })
                .collect()
        };
        let codes: Vec<Vec<f64>> = products.iter().zip(&gates).map(value).collect();
        let penalty = gates.iter().flatten().sum::<f64>() / N as f64;
        world.mse(w, w, &codes) + 0.3 * penalty + world.mse(frozen, frozen, &gates)
    });
}
