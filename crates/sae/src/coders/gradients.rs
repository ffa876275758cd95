//! Gradients of whole losses against central differences of the same loss written anew in f64, a scalar at a time.
//! Differences in f64 take so small a step that no choice of latents flips.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::coder::{Architecture, SparseCoder, Weight};
use crate::coders::{Gradient, Learned, Now};
use crate::config::RunConfig;
use crate::ends::Batch;
use crate::penalty::{Penalty, Shape};

const D: usize = 5;
const F: usize = 16;
const N: usize = 7;
const K: usize = 3;
const STEP: f64 = 1e-5;

type Matrix = Vec<Vec<f64>>;

/// Weights and a batch.
#[derive(Clone)]
struct World {
    architecture: Architecture,
    weights: BTreeMap<&'static str, Vec<f64>>,
    x: Matrix,
}

impl World {
    fn new(architecture: Architecture, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // As f32 has them, so that both sides start from the same numbers.
        let mut numbers = |n: usize, size: f32| -> Vec<f64> {
            (0..n)
                .map(|_| f64::from((rng.random::<f32>() * 2.0 - 1.0) * size))
                .collect()
        };
        let weights = architecture.method().shapes(D, D, F);
        let weights = weights.into_iter().map(|(name, shape)| {
            let drawn = numbers(shape.iter().product(), 0.8);
            match name {
                "threshold" => (name, drawn.iter().map(|v| v.abs()).collect()),
                _ => (name, drawn),
            }
        });
        let weights = weights.collect();
        let x = (0..N).map(|_| numbers(D, 2.0)).collect();
        Self {
            architecture,
            weights,
            x,
        }
    }

    fn coder(&self) -> SparseCoder {
        let device = Device::flex();
        let shapes = self.architecture.method().shapes(D, D, F);
        let weights = shapes.into_iter().map(|(name, shape)| {
            let values: Vec<f32> = self.weights[name].iter().map(|v| *v as f32).collect();
            let weight: Weight = match shape[..] {
                [a, b] => Tensor::<2>::from_data(TensorData::new(values, [a, b]), &device).into(),
                _ => Tensor::<1>::from_data(TensorData::new(values, shape), &device).into(),
            };
            (name, weight)
        });
        SparseCoder {
            architecture: self.architecture,
            k: K,
            apply_b_dec_to_input: true,
            weights: weights.collect(),
        }
    }

    /// What the trainer would do; the penalty's weight has risen.
    fn learn(&self, recipe: &str) -> Learned {
        let name = self.architecture.name();
        let text =
            format!("coder.architecture = '{name}'\ncoder.k = {K}\ncoder.d_sae = {F}\n{recipe}");
        let config = RunConfig::parse("test", &text, &[]).unwrap().resolve(D);
        let now = Now {
            config: &config.unwrap(),
            step: 1 << 40,
            dead: &[],
        };
        let x: Vec<f32> = self.x.iter().flatten().map(|v| *v as f32).collect();
        let x = Tensor::from_data(TensorData::new(x, [N, D]), &Device::flex());
        let coder = self.coder();
        coder
            .architecture
            .method()
            .learn(&coder, &Batch::of(x), &now)
    }

    /// `⟨w_enc, x − b_dec⟩`, `[n, F]`.
    fn products(&self) -> Matrix {
        let (w, b) = (&self.weights["w_enc"], &self.weights["b_dec"]);
        let product = |x: &Vec<f64>, i: usize| (0..D).map(|j| w[i * D + j] * (x[j] - b[j])).sum();
        let row = |x| (0..F).map(|i| product(x, i)).collect();
        self.x.iter().map(row).collect()
    }

    /// The same plus a bias.
    fn pre(&self, bias: &str) -> Matrix {
        let mut pre = self.products();
        for row in &mut pre {
            for (p, b) in row.iter_mut().zip(&self.weights[bias]) {
                *p += b;
            }
        }
        pre
    }

    /// Squared error of a token, mean over the batch.
    fn mse(&self, codes: &Matrix) -> f64 {
        let (w, b) = (&self.weights["w_dec"], &self.weights["b_dec"]);
        let error = |z: &Vec<f64>, x: &Vec<f64>, j: usize| {
            let x_hat: f64 = b[j] + (0..F).map(|i| z[i] * w[i * D + j]).sum::<f64>();
            (x_hat - x[j]).powi(2)
        };
        let rows = codes.iter().zip(&self.x);
        let all = rows.map(|(z, x)| (0..D).map(|j| error(z, x, j)).sum::<f64>());
        all.sum::<f64>() / N as f64
    }

    fn variance(&self) -> f64 {
        let mean = |j: usize| self.x.iter().map(|x| x[j]).sum::<f64>() / N as f64;
        let of = |x: &Vec<f64>| (0..D).map(|j| (x[j] - mean(j)).powi(2)).sum::<f64>();
        self.x.iter().map(of).sum::<f64>() / N as f64
    }

    /// Holds one gradient against differences of `loss`.
    fn check(&self, learned: &Learned, name: &'static str, loss: impl Fn(&Self) -> f64) {
        let expected = self.differences(name, loss);
        close(name, &gradient(learned, name), &expected);
    }

    fn differences(&self, name: &'static str, loss: impl Fn(&Self) -> f64) -> Vec<f64> {
        let derivative = |i: usize| {
            let at = |step: f64| {
                let mut moved = self.clone();
                moved.weights.get_mut(name).unwrap()[i] += step;
                loss(&moved)
            };
            (at(STEP) - at(-STEP)) / (2.0 * STEP)
        };
        (0..self.weights[name].len()).map(derivative).collect()
    }
}

fn close(what: &str, found: &[f64], expected: &[f64]) {
    let largest = expected.iter().fold(0.0f64, |m, e| m.max(e.abs()));
    assert!(largest > 1e-3, "{what}: nothing to compare");
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= 2e-4 * largest,
            "{what}[{i}]: gradient {f}, differences {e}"
        );
    }
}

fn scalar(t: &Tensor<1>) -> f64 {
    f64::from(t.clone().inner().into_scalar::<f32>())
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
            let k = rows.codes.values.dims()[1];
            let mut out = vec![0.0; F * D];
            for (at, (value, latent)) in values.iter().zip(indices).enumerate() {
                for j in 0..D {
                    out[latent as usize * D + j] += value * vectors[at / k * D + j];
                }
            }
            out
        }
    }
}

/// `pre` where it exceeds `least`, else 0.
fn above(pre: &Matrix, least: impl Fn(usize) -> f64) -> Matrix {
    let keep = |(i, p): (usize, &f64)| if *p > least(i) { *p } else { 0.0 };
    let row = |row: &Vec<f64>| row.iter().enumerate().map(keep).collect();
    pre.iter().map(row).collect()
}

#[test]
fn gated_equals_its_loss_with_a_frozen_decoder_for_the_gates() {
    let world = World::new(Architecture::Gated, 5);
    let learned = world.learn("[training]\nl1_coefficient = 0.3");
    let loss = |w: &World| {
        let (b_gate, b_mag, r_mag) = (
            &w.weights["b_gate"],
            &w.weights["b_mag"],
            &w.weights["r_mag"],
        );
        let products = w.products();
        let gates = above(&w.pre("b_gate"), |_| 0.0);
        let value = |row: usize, i: usize| {
            let h = products[row][i];
            let magnitude = (h * r_mag[i].exp() + b_mag[i]).max(0.0);
            if h + b_gate[i] > 0.0 { magnitude } else { 0.0 }
        };
        let codes = (0..N).map(|row| (0..F).map(|i| value(row, i)).collect());
        let frozen = World {
            weights: world.weights.clone(),
            ..w.clone()
        };
        let penalty = gates.iter().flatten().sum::<f64>() / N as f64;
        w.mse(&codes.collect()) + 0.3 * penalty + frozen.mse(&gates)
    };
    assert!((scalar(&learned.terms.total) - loss(&world)).abs() < 1e-4);
    for name in ["w_enc", "b_gate", "b_mag", "r_mag", "w_dec", "b_dec"] {
        world.check(&learned, name, loss);
    }
}

/// Value of a JumpReLU smoothed over a window: z above it, 0 below, and such that its derivative in the threshold is −θ/ε
/// within.
fn smooth_value(z: f64, theta: f64, width: f64) -> f64 {
    let theta = theta.clamp(z - width / 2.0, z + width / 2.0);
    ((z + width / 2.0).powi(2) - theta.powi(2)) / (2.0 * width)
}

/// A step smoothed over a window.
fn smooth_gate(z: f64, theta: f64, width: f64) -> f64 {
    ((z - theta) / width + 0.5).clamp(0.0, 1.0)
}

#[test]
fn jumprelu_equals_its_loss_and_for_thresholds_the_loss_smoothed_over_the_bandwidth() {
    const WIDTH: f64 = 0.7;
    const WEIGHT: f64 = 0.4;
    let (target, scale) = (2.5, 1.5);
    for penalty in ["step", "quadratic", "tanh"] {
        let world = World::new(Architecture::JumpRelu, 8);
        let recipe = format!(
            "[coder.jumprelu]\npenalty = '{penalty}'\nbandwidth = {WIDTH}\nl0_coefficient = {WEIGHT}\ntarget_l0 = {target}\n\
             tanh_scale = {scale}"
        );
        let learned = world.learn(&recipe);
        let norm = |w: &World, i: usize| {
            let row = &w.weights["w_dec"][i * D..(i + 1) * D];
            row.iter().map(|v| v * v).sum::<f64>().sqrt()
        };
        // The loss as a function of weights, values and gates.
        let loss_of = |w: &World, codes: &Matrix, gates: &Matrix| {
            let rows = codes.iter().zip(gates).map(|(codes, gates)| match penalty {
                "step" => gates.iter().sum::<f64>(),
                "quadratic" => (gates.iter().sum::<f64>() - target).powi(2) * 2.0 / target,
                _ => {
                    let each = codes.iter().enumerate();
                    each.map(|(i, a)| (scale * a * norm(w, i)).tanh()).sum()
                }
            });
            w.mse(codes) + WEIGHT * rows.sum::<f64>() / N as f64
        };
        let codes_of = |w: &World| above(&w.pre("b_enc"), |i| w.weights["threshold"][i]);
        let gates_of = |codes: &Matrix| -> Matrix {
            let on = |a: &f64| f64::from(u8::from(*a > 0.0));
            codes
                .iter()
                .map(|row| row.iter().map(on).collect())
                .collect()
        };
        let hard = |w: &World| {
            let codes = codes_of(w);
            loss_of(w, &codes, &gates_of(&codes))
        };
        assert!((scalar(&learned.terms.total) - hard(&world)).abs() < 1e-4);
        for name in ["w_enc", "b_enc", "w_dec", "b_dec"] {
            world.check(&learned, name, hard);
        }

        // Derivatives of the loss in each value and each gate, by differences.
        let (pre, codes) = (world.pre("b_enc"), codes_of(&world));
        let gates = gates_of(&codes);
        let slope = |of_gate: bool, row: usize, i: usize| {
            let at = |step: f64| {
                let (mut codes, mut gates) = (codes.clone(), gates.clone());
                let moved = if of_gate { &mut gates } else { &mut codes };
                moved[row][i] += step;
                loss_of(&world, &codes, &gates)
            };
            (at(STEP) - at(-STEP)) / (2.0 * STEP)
        };
        let mut slopes = Vec::new();
        for row in 0..N {
            for i in 0..F {
                slopes.push((row, i, slope(false, row, i), slope(true, row, i)));
            }
        }
        let inside = |(row, i, ..): &&(usize, usize, f64, f64)| {
            (pre[*row][*i] - world.weights["threshold"][*i]).abs() < WIDTH / 2.0
        };
        assert!(slopes.iter().filter(inside).count() > 10);
        let smoothed = |w: &World| -> f64 {
            let terms = slopes.iter().map(|(row, i, of_value, of_gate)| {
                let (z, theta) = (pre[*row][*i], w.weights["threshold"][*i]);
                of_value * smooth_value(z, theta, WIDTH) + of_gate * smooth_gate(z, theta, WIDTH)
            });
            terms.sum()
        };
        world.check(&learned, "threshold", smoothed);

        // Passed on to the input, it is what the thresholds get, with the other sign.
        let passed_on = world.learn(&(recipe + "\nste_to_input = true"));
        let expected: Vec<f64> = gradient(&learned, "b_enc")
            .iter()
            .zip(gradient(&learned, "threshold"))
            .map(|(b, t)| b - t)
            .collect();
        close("b_enc", &gradient(&passed_on, "b_enc"), &expected);
        let threshold = gradient(&learned, "threshold");
        close("threshold", &gradient(&passed_on, "threshold"), &threshold);
    }
}

#[test]
fn jumprelu_asks_dead_latents_for_what_they_lack() {
    let world = World::new(Architecture::JumpRelu, 8);
    let recipe = "coder.architecture = 'jumprelu'\ncoder.jumprelu.pre_act_coefficient = 0.7\ncoder.jumprelu.l0_coefficient = 0";
    let config = RunConfig::parse("test", recipe, &[]).unwrap();
    let config = config.resolve(D).unwrap();
    let dead = [1usize, 4, 9];
    let device = Device::flex();
    let now = Now {
        config: &config,
        step: 1 << 40,
        dead: &[Some(Tensor::from_ints(dead.map(|i| i as i32), &device))],
    };
    let x: Vec<f32> = world.x.iter().flatten().map(|v| *v as f32).collect();
    let x = Tensor::from_data(TensorData::new(x, [N, D]), &device);
    let coder = world.coder();
    let learned = coder
        .architecture
        .method()
        .learn(&coder, &Batch::of(x), &now);
    let loss = |w: &World| {
        let (pre, theta) = (w.pre("b_enc"), &w.weights["threshold"]);
        let lacks = |row: &Vec<f64>| -> f64 {
            let each = dead.iter().map(|&i| {
                let norm = w.weights["w_dec"][i * D..(i + 1) * D].iter();
                (theta[i] - row[i]).max(0.0) * norm.map(|v| v * v).sum::<f64>().sqrt()
            });
            each.sum()
        };
        w.mse(&above(&pre, |i| theta[i])) + 0.7 * pre.iter().map(lacks).sum::<f64>() / N as f64
    };
    assert!((scalar(&learned.terms.total) - loss(&world)).abs() < 1e-4);
    for name in ["w_enc", "b_enc", "w_dec", "b_dec"] {
        world.check(&learned, name, loss);
    }
}

/// Of each row, or of all rows together, the largest positive pre-activations.
fn largest(pre: &Matrix, k: usize, together: bool) -> Matrix {
    let least = |values: Vec<f64>, k: usize| {
        let mut sorted = values;
        sorted.sort_by(|a, b| b.total_cmp(a));
        (sorted[k - 1] + sorted[k]) / 2.0
    };
    if together {
        let level = least(pre.iter().flatten().copied().collect(), k * N);
        return above(pre, |_| level.max(0.0));
    }
    let row = |row: &Vec<f64>| {
        let level = least(row.clone(), k).max(0.0);
        above(&vec![row.clone()], |_| level).remove(0)
    };
    pre.iter().map(row).collect()
}

#[test]
fn matryoshka_equals_the_sum_over_its_prefixes() {
    let world = World::new(Architecture::Matryoshka, 3);
    let learned = world.learn("coder.matryoshka.widths = [3, 9]");
    let loss = |w: &World| {
        let codes = largest(&w.pre("b_enc"), K, true);
        let prefix = |width: usize| -> Matrix {
            let cut = |row: &Vec<f64>| {
                let each = row.iter().enumerate();
                each.map(|(i, a)| if i < width { *a } else { 0.0 })
                    .collect()
            };
            codes.iter().map(cut).collect()
        };
        let sum: f64 = [3, 9, F].iter().map(|width| w.mse(&prefix(*width))).sum();
        sum / w.variance()
    };
    assert!((scalar(&learned.terms.total) - loss(&world)).abs() < 1e-4);
    for name in ["w_enc", "b_enc", "w_dec", "b_dec"] {
        world.check(&learned, name, loss);
    }
}

#[test]
fn multi_topk_equals_its_two_reconstructions() {
    let world = World::new(Architecture::TopK, 4);
    let learned = world.learn("coder.multi_topk = true");
    let own = |w: &World| w.mse(&largest(&w.pre("b_enc"), K, false)) / w.variance();
    let loss =
        |w: &World| own(w) + w.mse(&largest(&w.pre("b_enc"), 4 * K, false)) / w.variance() / 8.0;
    assert!((scalar(&learned.terms.total) - loss(&world)).abs() < 1e-4);
    assert!((scalar(&learned.terms.fvu) - own(&world)).abs() < 1e-4);
    for name in ["w_enc", "b_enc", "w_dec", "b_dec"] {
        world.check(&learned, name, loss);
    }
}

#[test]
fn proximal_equals_its_loss_with_each_penalty() {
    for (shape, weight, bend) in [
        (Shape::L1, 0.2, 0.0),
        (Shape::L0, 0.1, 0.0),
        (Shape::LHalf, 0.1, 0.0),
        (Shape::LogSum, 0.2, 0.5),
        (Shape::Cel0, 0.1, 0.0),
        (Shape::Scad, 0.2, 3.7),
        (Shape::Mcp, 0.2, 2.0),
    ] {
        let penalty = Penalty {
            shape,
            weight,
            bend,
        };
        let world = World::new(Architecture::Proximal(penalty), 6);
        let learned = world.learn("");
        let loss = |w: &World| {
            let pre = w.pre("b_enc");
            let shrink = |row: &Vec<f64>| row.iter().map(|u| penalty.prox(*u)).collect();
            let codes: Matrix = pre.iter().map(shrink).collect();
            let cost: f64 = codes.iter().flatten().map(|x| penalty.value(*x)).sum();
            w.mse(&codes) + 2.0 * cost / N as f64
        };
        assert!((scalar(&learned.terms.total) - loss(&world)).abs() < 1e-4);
        for name in ["w_enc", "b_enc", "w_dec", "b_dec"] {
            world.check(&learned, name, loss);
        }
    }
}
