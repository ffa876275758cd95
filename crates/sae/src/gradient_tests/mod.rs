//! Gradients of whole losses against independent sources: central differences of the same loss
//! written anew in f64, and coders that do the same with dense matrices.

mod architectures;
mod cross_layer;
mod model_loss;
mod transcoders;

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use lapidary_coder::{AnyCoder, Weight};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::batch::Batch;
use crate::parameters::Gradient;
use crate::recipe::{Recipe, ResolvedRecipe};
use crate::step::{StepOutput, loss_and_gradients};

/// Step of central differences. In f64 it is so small that no choice of latents flips.
const STEP: f64 = 1e-5;

/// Weights by their names in files, in f64.
type Values = BTreeMap<String, Vec<f64>>;

/// A coder with its recipe, and a batch.
struct World {
    recipe: ResolvedRecipe,
    /// `d_in`, `d_out`, `d_sae`, over all layers.
    sizes: [usize; 3],
    weights: Values,
    x: Vec<f64>,
    y: Vec<f64>,
    /// Widths of the hook points side by side in `y`.
    widths: Vec<usize>,
}

impl World {
    /// Random weights and a batch of `n` rows. An autoencoder's `y` is its `x`.
    fn new(text: &str, width: usize, sizes: [usize; 3], n: usize, seed: u64) -> Self {
        let recipe = Recipe::parse("test", text, &[]).unwrap();
        let recipe = recipe.resolve(width).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // As f32 has them, so that both sides start from the same numbers.
        let mut numbers = |n: usize, size: f32| -> Vec<f64> {
            (0..n)
                .map(|_| f64::from((rng.random::<f32>() * 2.0 - 1.0) * size))
                .collect()
        };
        let shapes = Self::shapes(&recipe, sizes).into_iter();
        let weights = shapes.map(|(name, shape)| {
            let drawn = numbers(shape.iter().product(), 0.8);
            match name.starts_with("threshold") {
                true => (name, drawn.iter().map(|v| v.abs()).collect()),
                false => (name, drawn),
            }
        });
        let weights = weights.collect();
        let [d_in, d_out, _] = sizes;
        let x = numbers(n * d_in, 2.0);
        let y = match recipe.sites().transcodes() {
            true => numbers(n * d_out, 2.0),
            false => x.clone(),
        };
        Self {
            recipe,
            sizes,
            weights,
            x,
            y,
            widths: vec![d_out],
        }
    }

    fn shapes(recipe: &ResolvedRecipe, sizes: [usize; 3]) -> Vec<(String, Vec<usize>)> {
        let layers = recipe.sites().layers();
        let shapes = AnyCoder::shapes(
            recipe.coder.architecture,
            (layers > 1).then_some(layers),
            sizes,
            recipe.coder.skip_connection,
        );
        let named = shapes.into_iter();
        named.map(|(key, shape)| (key.to_string(), shape)).collect()
    }

    fn coder(&self) -> AnyCoder {
        let layers = self.recipe.sites().layers();
        let shapes = AnyCoder::shapes(
            self.recipe.coder.architecture,
            (layers > 1).then_some(layers),
            self.sizes,
            self.recipe.coder.skip_connection,
        );
        let weights = shapes.into_iter().map(|(key, shape)| {
            let values = floats(&self.weights[&key.to_string()]);
            let weight: Weight = match shape[..] {
                [a, b] => matrix(values, [a, b]).into(),
                _ => Tensor::<1>::from_data(TensorData::new(values, shape), &Device::flex()).into(),
            };
            (key, weight)
        });
        let centred = self.recipe.coder.apply_b_dec_to_input;
        AnyCoder::of_weights(self.recipe.architecture, centred, weights)
    }

    fn batch(&self) -> Batch {
        let [d_in, d_out, _] = self.sizes;
        let n = self.x.len() / d_in;
        Batch {
            x: matrix(floats(&self.x), [n, d_in]),
            y: matrix(floats(&self.y), [n, d_out]),
            widths: self.widths.clone(),
            model_loss: None,
        }
    }

    /// What the trainer would do, once the penalty's weight has risen.
    fn step(&self, dead: &[Option<Tensor<1, Int>>]) -> StepOutput {
        let context = self.recipe.context(1 << 40, dead, 1.0);
        loss_and_gradients(&self.coder(), &self.batch(), &context)
    }

    /// Compares the loss, and the gradients of the weights `names` (all, if there are none), with
    /// differences of `loss`.
    fn check(&self, output: &StepOutput, names: &[&str], loss: impl Fn(&Values) -> f64) {
        let (total, here) = (scalar(&output.terms.total), loss(&self.weights));
        assert!(
            (total - here).abs() < 1e-4 * here.abs().max(1.0),
            "loss {total}, expected {here}"
        );
        let all: Vec<&str> = self.weights.keys().map(String::as_str).collect();
        for name in if names.is_empty() { &all } else { names } {
            close(
                name,
                &gradient(output, name),
                &self.differences(name, &loss),
            );
        }
    }

    fn differences(&self, name: &str, loss: impl Fn(&Values) -> f64) -> Vec<f64> {
        let mut w = self.weights.clone();
        let derivative = |(i, value): (usize, &f64)| {
            let mut at = |v: f64| {
                w.get_mut(name).unwrap()[i] = v;
                loss(&w)
            };
            let slope = (at(value + STEP) - at(value - STEP)) / (2.0 * STEP);
            at(*value);
            slope
        };
        let values = self.weights[name].iter().enumerate();
        values.map(derivative).collect()
    }
}

fn close(what: &str, found: &[f64], expected: &[f64]) {
    let largest = expected.iter().fold(0.0f64, |m, e| m.max(e.abs()));
    assert!(largest > 1e-3, "{what}: nothing to compare");
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let good = (f - e).abs() <= 2e-4 * largest;
        assert!(good, "{what}[{i}]: gradient {f}, expected {e}");
    }
}

/// A gradient, entry by entry.
fn gradient(output: &StepOutput, name: &str) -> Vec<f64> {
    let found = output
        .gradients
        .iter()
        .find(|(key, _)| key.to_string() == name);
    match &found.unwrap().1 {
        Gradient::Vector(t) => t.to_data().iter().collect(),
        Gradient::Matrix(t) => t.to_data().iter().collect(),
        Gradient::Rows(rows) => {
            let values: Vec<f64> = rows.codes.values.to_data().iter().collect();
            let indices: Vec<i64> = rows.codes.indices.to_data().iter().collect();
            let vectors: Vec<f64> = rows.rows.to_data().iter().collect();
            let (k, d) = (rows.codes.values.dims()[1], rows.rows.dims()[1]);
            // As many rows as the bias that belongs to them has entries.
            let bias = name.replace("w_enc", "b_enc").replace("w_dec", "b_enc");
            let latents = gradient(output, &bias).len();
            let mut out = vec![0.0; latents * d];
            for (at, (value, latent)) in values.iter().zip(indices).enumerate() {
                for j in 0..d {
                    out[latent as usize * d + j] += value * vectors[at / k * d + j];
                }
            }
            out
        }
    }
}

fn scalar(t: &Tensor<1>) -> f64 {
    f64::from(t.clone().inner().into_scalar::<f32>())
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

/// The squared distance of rows from their mean, mean over rows.
fn variance(rows: &[Vec<f64>]) -> f64 {
    let n = rows.len() as f64;
    let column = |j: usize| {
        let mean = rows.iter().map(|row| row[j]).sum::<f64>() / n;
        rows.iter().map(|row| (row[j] - mean).powi(2)).sum::<f64>() / n
    };
    (0..rows[0].len()).map(column).sum()
}
