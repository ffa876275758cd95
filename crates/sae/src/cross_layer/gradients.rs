//! Gradients of cross-layer transcoders: against central differences of the same loss written anew in f64, and against the transcoder with dense
//! matrices that does the same. Layers, widths and latents all have other numbers, so that nothing can be taken for the other.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{shapes, whole_decoder};
use crate::coder::{SparseCoder, Weight, Weights};
use crate::coders::{Gradient, Learned, Now};
use crate::config::RunConfig;
use crate::ends::Batch;

const LAYERS: usize = 3;
const D_IN: usize = 4;
const D_OUT: usize = 5;
const F: usize = 7;
const N: usize = 9;
const K: usize = 2;
const STEP: f64 = 1e-5;
/// Dead latents of each layer.
const DEAD: [&[i32]; LAYERS] = [&[1, 4, 6], &[], &[0, 2]];

type Values = BTreeMap<&'static str, Vec<f64>>;

struct World {
    config: RunConfig,
    weights: Values,
    x: Vec<f64>,
    y: Vec<f64>,
}

impl World {
    fn new(architecture: &str, more: &str) -> Self {
        let text = format!(
            "hook_points = ['blocks.0.hook_resid_mid', 'blocks.1.hook_resid_mid', 'blocks.3.hook_resid_mid']
             hook_points_out = ['blocks.0.hook_mlp_out', 'blocks.1.hook_mlp_out', 'blocks.3.hook_mlp_out']
             coder.architecture = '{architecture}'
             coder.k = {K}
             coder.d_sae = {F}
             {more}"
        );
        let config = RunConfig::parse("test", &text, &[]).unwrap();
        let config = config.resolve(D_IN).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(23);
        // As f32 has them, so that both sides start from the same numbers.
        let mut numbers = |n: usize, size: f32| -> Vec<f64> {
            (0..n)
                .map(|_| f64::from((rng.random::<f32>() * 2.0 - 1.0) * size))
                .collect()
        };
        let all = shapes(config.architecture(), LAYERS, [D_IN, D_OUT, F]);
        let weights = all.into_iter().map(|(name, shape)| {
            let drawn = numbers(shape.iter().product(), 0.8);
            match name.starts_with("threshold") {
                true => (name, drawn.iter().map(|v| v.abs()).collect()),
                false => (name, drawn),
            }
        });
        let weights = weights.collect();
        Self {
            config,
            weights,
            x: numbers(N * LAYERS * D_IN, 2.0),
            y: numbers(N * LAYERS * D_OUT, 2.0),
        }
    }

    fn coder(&self) -> SparseCoder {
        let all = shapes(self.config.architecture(), LAYERS, [D_IN, D_OUT, F]);
        let weights = all.into_iter().map(|(name, shape)| {
            let values = floats(&self.weights[name]);
            let weight: Weight = match shape[..] {
                [a, b] => matrix(values, [a, b]).into(),
                _ => vector(values).into(),
            };
            (name, weight)
        });
        SparseCoder {
            architecture: self.config.architecture(),
            k: K,
            apply_b_dec_to_input: false,
            weights: weights.collect(),
        }
    }

    fn batch(&self) -> Batch {
        Batch {
            x: matrix(floats(&self.x), [N, LAYERS * D_IN]),
            y: matrix(floats(&self.y), [N, LAYERS * D_OUT]),
            parts: vec![D_OUT; LAYERS],
            pull: None,
        }
    }

    fn learn(
        &self,
        coder: &SparseCoder,
        batch: &Batch,
        dead: &[Option<Tensor<1, Int>>],
    ) -> Learned {
        let now = Now {
            config: &self.config,
            step: 1 << 40,
            dead,
        };
        coder.architecture.method().learn(coder, batch, &now)
    }

    /// Pre-activations of a layer, row by row.
    fn pre(&self, w: &Values, layer: usize) -> Vec<Vec<f64>> {
        let (rows, bias) = (&w[of("w_enc", layer)], &w[of("b_enc", layer)]);
        let row = |x: &[f64]| -> Vec<f64> {
            let x = &x[layer * D_IN..][..D_IN];
            (0..F)
                .map(|i| dot(&rows[i * D_IN..][..D_IN], x) + bias[i])
                .collect()
        };
        self.x.chunks(LAYERS * D_IN).map(row).collect()
    }

    /// What latent i of `from` writes at the hook point of `to`.
    fn row(w: &Values, from: usize, to: usize, i: usize) -> &[f64] {
        let width = (LAYERS - from) * D_OUT;
        &w[of("w_dec", from)][i * width + (to - from) * D_OUT..][..D_OUT]
    }

    /// What is missing of y at each layer, `[N][LAYERS][D_OUT]`.
    fn errors(&self, w: &Values, codes: &[Vec<Vec<f64>>]) -> Vec<Vec<Vec<f64>>> {
        let of_token = |n: usize| {
            let at = |to: usize| {
                let y = &self.y[n * LAYERS * D_OUT + to * D_OUT..][..D_OUT];
                let mut left: Vec<f64> = y.to_vec();
                for (j, left) in left.iter_mut().enumerate() {
                    *left -= w["b_dec"][to * D_OUT + j];
                    for (from, codes) in codes.iter().enumerate().take(to + 1) {
                        for (i, z) in codes[n].iter().enumerate() {
                            *left -= z * Self::row(w, from, to, i)[j];
                        }
                    }
                }
                left
            };
            (0..LAYERS).map(at).collect()
        };
        (0..N).map(of_token).collect()
    }

    fn mse(&self, w: &Values, codes: &[Vec<Vec<f64>>]) -> f64 {
        let errors = self.errors(w, codes);
        let all = errors.iter().flatten().flatten();
        all.map(|e| e * e).sum::<f64>() / N as f64
    }

    fn variance(&self) -> f64 {
        variance(
            &self
                .y
                .chunks(LAYERS * D_OUT)
                .map(<[f64]>::to_vec)
                .collect::<Vec<_>>(),
        )
    }

    /// The norm of all that a latent writes.
    fn norm(w: &Values, layer: usize, i: usize) -> f64 {
        let rows = (layer..LAYERS).map(|to| Self::row(w, layer, to, i));
        rows.map(|row| dot(row, row)).sum::<f64>().sqrt()
    }

    /// Holds every gradient against differences of `loss`, and the loss itself.
    fn check(&self, dead: &[Option<Tensor<1, Int>>], loss: impl Fn(&Values) -> f64) {
        let learned = self.learn(&self.coder(), &self.batch(), dead);
        let total = f64::from(learned.terms.total.clone().inner().into_scalar::<f32>());
        let here = loss(&self.weights);
        assert!(
            (total - here).abs() < 1e-4 * here.abs().max(1.0),
            "{total}, {here}"
        );
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
            close(name, &found, &expected);
        }
    }
}

fn of(weight: &str, layer: usize) -> &'static str {
    super::name(weight, layer).unwrap()
}

fn close(name: &str, found: &[f64], expected: &[f64]) {
    let largest = expected.iter().fold(0.0f64, |m, e| m.max(e.abs()));
    assert!(largest > 1e-3, "{name}: nothing to compare");
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let good = (f - e).abs() <= 2e-4 * largest;
        assert!(good, "{name}[{i}]: gradient {f}, expected {e}");
    }
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

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn floats(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
}

fn matrix(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn vector(values: Vec<f32>) -> Tensor<1> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), &Device::flex())
}

/// Squared distance from the mean, mean over rows.
fn variance(rows: &[Vec<f64>]) -> f64 {
    let n = rows.len() as f64;
    let column = |j: usize| {
        let mean = rows.iter().map(|row| row[j]).sum::<f64>() / n;
        rows.iter().map(|row| (row[j] - mean).powi(2)).sum::<f64>() / n
    };
    (0..rows[0].len()).map(column).sum()
}

/// The `k` largest of each row, of those that `may` be.
fn largest(pre: &[Vec<f64>], k: usize, may: impl Fn(usize) -> bool) -> Vec<Vec<f64>> {
    let row = |row: &Vec<f64>| {
        let mut order: Vec<usize> = (0..F).filter(|i| may(*i)).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        let mut out = vec![0.0; F];
        for i in order.iter().take(k) {
            out[*i] = row[*i];
        }
        out
    };
    pre.iter().map(row).collect()
}

fn relu(rows: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let row = |row: Vec<f64>| row.iter().map(|p| p.max(0.0)).collect();
    rows.into_iter().map(row).collect()
}

fn dead() -> Vec<Option<Tensor<1, Int>>> {
    let of = |list: &[i32]| {
        let data = TensorData::new(list.to_vec(), [list.len()]);
        (!list.is_empty()).then(|| Tensor::from_data(data, &Device::flex()))
    };
    DEAD.map(of).into()
}

#[test]
fn topk_layer_by_layer_with_and_without_dead_latents() {
    let world = World::new(
        "topk",
        "training.aux_k = 2\ntraining.aux_k_coefficient = 0.4",
    );
    let codes = |w: &Values| -> Vec<Vec<Vec<f64>>> {
        let layer = |l| relu(largest(&world.pre(w, l), K, |_| true));
        (0..LAYERS).map(layer).collect()
    };
    let fvu = |w: &Values| world.mse(w, &codes(w)) / world.variance();
    world.check(&[], fvu);
    // What the living leave is a constant to the dead.
    let left = world.errors(&world.weights, &codes(&world.weights));
    world.check(&dead(), |w| {
        let aux = (0..LAYERS).filter(|l| !DEAD[*l].is_empty()).map(|layer| {
            let among = |i: usize| DEAD[layer].contains(&(i as i32));
            let guesses = largest(&world.pre(w, layer), 2, among);
            let rows = left.iter().map(|at| at[layer..].concat());
            let rows: Vec<Vec<f64>> = rows.collect();
            let miss = rows.iter().zip(&guesses).map(|(row, codes)| -> f64 {
                let guess = |to: usize, j: usize| -> f64 {
                    (0..F)
                        .map(|i| codes[i] * World::row(w, layer, to, i)[j])
                        .sum()
                };
                let places = (layer..LAYERS).flat_map(|to| (0..D_OUT).map(move |j| (to, j)));
                let errors = places
                    .zip(row)
                    .map(|((to, j), r)| (guess(to, j) - r).powi(2));
                errors.sum()
            });
            miss.sum::<f64>() / N as f64 / variance(&rows)
        });
        fvu(w) + 0.4 * aux.sum::<f64>() / LAYERS as f64
    });
}

#[test]
fn relu_with_both_penalties_on_the_norm_of_all_that_a_latent_writes() {
    for (penalty, scale) in [("l1", 1.0), ("tanh", 1.7)] {
        let world = World::new(
            "standard",
            &format!(
                "training.l1_coefficient = 0.3
                 training.sparsity_penalty = '{penalty}'
                 training.tanh_scale = {scale}"
            ),
        );
        world.check(&[], |w| {
            let layer = |l| relu(world.pre(w, l));
            let codes: Vec<Vec<Vec<f64>>> = (0..LAYERS).map(layer).collect();
            let mut sum = 0.0;
            for (l, codes) in codes.iter().enumerate() {
                for i in 0..F {
                    let norm = World::norm(w, l, i);
                    let each = codes.iter().map(|row| scale * norm * row[i]);
                    sum += match penalty {
                        "l1" => each.sum::<f64>(),
                        _ => each.map(f64::tanh).sum::<f64>(),
                    };
                }
            }
            world.mse(w, &codes) + 0.3 * sum / N as f64
        });
    }
}

/// A transcoder that reads all hook points with rows that are 0 outside a latent's own, and writes with rows that are 0 before it.
#[test]
fn relu_and_jumprelu_have_the_gradients_of_the_dense_transcoder_that_they_are() {
    let jumps = "coder.jumprelu.bandwidth = 0.8\ncoder.jumprelu.l0_coefficient = 0.2\ncoder.jumprelu.pre_act_coefficient = 0.6\n";
    for (architecture, more) in [
        ("standard", "training.l1_coefficient = 0.3".to_owned()),
        (
            "jumprelu",
            format!("{jumps}coder.jumprelu.penalty = 'tanh'"),
        ),
        (
            "jumprelu",
            format!("{jumps}coder.jumprelu.ste_to_input = true"),
        ),
    ] {
        let world = World::new(architecture, &more);
        let coder = world.coder();
        let layers = coder.each_layer().unwrap();
        let encoders = layers.iter().enumerate().map(|(l, layer)| {
            let zeros = |n| Tensor::<2>::zeros([F, n * D_IN], &Device::flex());
            match l {
                0 => Tensor::cat(vec![layer.w_enc(), zeros(LAYERS - 1)], 1),
                _ if l == LAYERS - 1 => Tensor::cat(vec![zeros(l), layer.w_enc()], 1),
                _ => Tensor::cat(vec![zeros(l), layer.w_enc(), zeros(LAYERS - 1 - l)], 1),
            }
        });
        let mut weights = Weights::new([
            ("w_enc", Tensor::cat(encoders.collect(), 0).into()),
            ("b_enc", coder.b_enc().into()),
            ("w_dec", whole_decoder(&layers).into()),
            ("b_dec", coder.b_dec().into()),
        ]);
        if let Some(threshold) = coder.threshold() {
            weights = weights.with("threshold", threshold);
        }
        let dense = SparseCoder {
            weights,
            ..coder.clone()
        };
        let numbered = DEAD.iter().enumerate();
        let all = numbered.flat_map(|(l, list)| list.iter().map(move |i| (l * F) as i32 + i));
        let all: Vec<i32> = all.collect();
        let all = Tensor::from_data(TensorData::new(all.clone(), [all.len()]), &Device::flex());
        let whole = Batch {
            parts: vec![LAYERS * D_OUT],
            ..world.batch()
        };
        let expected = world.learn(&dense, &whole, &[Some(all)]);
        let found = world.learn(&coder, &world.batch(), &dead());
        let total = |l: &Learned| l.terms.total.clone().inner().into_scalar::<f32>();
        assert!((total(&found) - total(&expected)).abs() < 1e-5 * total(&expected));
        for (name, weight, d) in [
            ("w_enc", "w_enc", D_IN),
            ("b_enc", "b_enc", 0),
            ("w_dec", "w_dec", D_OUT),
            ("threshold", "threshold", 0),
        ] {
            if name == "threshold" && architecture != "jumprelu" {
                continue;
            }
            let all = gradient_of(&expected, weight);
            for l in 0..LAYERS {
                let (first, columns) = match name {
                    "w_enc" => (l * d, D_IN),
                    "w_dec" => (l * d, (LAYERS - l) * D_OUT),
                    _ => (0, 1),
                };
                let width = all.len() / (LAYERS * F);
                let rows = all[l * F * width..(l + 1) * F * width].chunks(width);
                let expected: Vec<f64> = rows
                    .flat_map(|row| row[first..first + columns].to_vec())
                    .collect();
                close(of(name, l), &gradient(&found, of(name, l)), &expected);
            }
        }
        close(
            "b_dec",
            &gradient(&found, "b_dec"),
            &gradient_of(&expected, "b_dec"),
        );
    }
}

fn gradient_of(learned: &Learned, name: &str) -> Vec<f64> {
    let found = learned.gradients.iter().find(|(n, _)| *n == name);
    match &found.unwrap().1 {
        Gradient::Vector(t) => t.to_data().iter().collect(),
        Gradient::Matrix(t) => t.to_data().iter().collect(),
        Gradient::Rows(_) => panic!("{name} is sparse"),
    }
}
