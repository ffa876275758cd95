//! Gradients that are written out, against automatic differentiation of the same loss.

use super::*;
use crate::recipe::Recipe;
use burn::tensor::{Device, Distribution, Int};
use lapidary_coder::{Architecture, Weights};
use lapidary_kernels::SparseGradient;

const N: usize = 24;
const D: usize = 20;
const F: usize = 70;

/// `Sᵀ·rows`, entry by entry.
fn dense(gradient: &SparseGradient) -> Vec<f32> {
    let values: Vec<f32> = gradient.codes.values.to_data().iter().collect();
    let indices: Vec<i64> = gradient.codes.indices.to_data().iter().collect();
    let rows: Vec<f32> = gradient.rows.to_data().iter().collect();
    let k = gradient.codes.values.dims()[1];
    let mut out = vec![0.0; F * D];
    for (at, (value, latent)) in values.iter().zip(indices).enumerate() {
        for j in 0..D {
            out[latent as usize * D + j] += value * rows[at / k * D + j];
        }
    }
    out
}

fn close(what: &str, found: &[f32], expected: &[f32]) {
    let largest = expected.iter().fold(0.0f32, |m, e| m.max(e.abs()));
    assert!(largest > 1e-6, "{what}: nothing to compare");
    for (at, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= 1e-5 * largest,
            "{what}[{at}]: {f}, automatic differentiation {e}"
        );
    }
}

#[test]
fn gradients_are_those_of_automatic_differentiation() {
    let device = Device::flex();
    for (architecture, centred, with_aux) in [
        (Architecture::TopK { k: 4 }, true, false),
        (Architecture::TopK { k: 4 }, true, true),
        (Architecture::TopK { k: 4 }, false, true),
        (Architecture::BatchTopK { k: 4 }, true, true),
    ] {
        device.seed(3);
        let normal = |shape, s| Tensor::<2>::random(shape, Distribution::Normal(0.0, s), &device);
        let coder = SparseCoder {
            architecture,
            apply_b_dec_to_input: centred,
            weights: Weights::new([
                ("w_enc", normal([F, D], 0.3).into()),
                ("b_enc", normal([1, F], 0.2).squeeze_dim::<1>(0).into()),
                ("w_dec", normal([F, D], 0.3).into()),
                ("b_dec", normal([1, D], 0.2).squeeze_dim::<1>(0).into()),
            ]),
        };
        let x = normal([N, D], 1.0);
        let dead = Tensor::<1, Int>::from_ints([3, 9, 11, 40, 41, 42, 69], &device);
        let settings = [
            "training.aux_k=9".to_owned(),
            "training.aux_k_coefficient=0.4".to_owned(),
            format!("coder.d_sae={F}"),
        ];
        let recipe = Recipe::with_defaults(&settings).unwrap();
        let recipe = recipe.resolve(D).unwrap();
        let dead_of_layers = [with_aux.then(|| dead.clone())];
        let context = recipe.context(0, &dead_of_layers, 1.0);
        let any = AnyCoder::from(coder.clone());
        let step = loss_and_gradients(&any, &Batch::of(x.clone()), &context);

        let tracked = coder.tracked();
        let x = x.autodiff();
        let input = tracked.centre(x.clone());
        let reconstruction = tracked.decode(tracked.encode_centred(input.clone()));
        let mut total =
            losses::mse(x.clone(), reconstruction.clone()) / losses::batch_variance(x.clone());
        if with_aux {
            let residual = (x - reconstruction).detach();
            let term = losses::aux_k(&tracked, input, residual, dead.clone(), 9);
            total = total + term * 0.4;
        }
        let gradients = total.backward();
        let what = format!("{architecture}, centred {centred}, aux {with_aux}");
        let host = |t: &Tensor<1>| -> Vec<f32> { t.to_data().iter().collect() };
        close(
            &format!("{what}: loss"),
            &host(&step.terms.total),
            &host(&total.inner()),
        );
        for (name, gradient) in &step.gradients {
            let found = match gradient {
                Gradient::Rows(rows) => dense(rows),
                Gradient::Vector(t) => host(t),
                Gradient::Matrix(_) => panic!("{what}: {name} is dense"),
            };
            let expected: Vec<f32> = match (
                tracked.weights.matrix(name.name),
                tracked.weights.vector(name.name),
            ) {
                (Some(t), _) => t.grad(&gradients).unwrap().to_data().iter().collect(),
                (_, Some(t)) => t.grad(&gradients).unwrap().to_data().iter().collect(),
                _ => panic!("{name} is no weight"),
            };
            close(&format!("{what}: {name}"), &found, &expected);
        }
        assert_eq!(step.gradients.len(), 4);
    }
}
