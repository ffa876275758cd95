//! Gradients are finite differences of the loss, computed in f64, for each gradient mode.

use super::normal;
use burn::tensor::{Device, Tensor, TensorData};
use lapidary_codebook::{Assignment, CodeLoss, Codebook, CodebookOptions, Combination};

const N: usize = 6;
const D: usize = 4;
const CODES: usize = 10;
const K: usize = 3;
const LAMBDA: f64 = 0.7;
const BETA: f64 = 0.25;

fn matrix(values: &[f32], d: usize) -> Tensor<2> {
    let data = TensorData::new(values.to_vec(), [values.len() / d, d]);
    Tensor::from_data(data, &Device::flex())
}

/// The combined codes of each row for a fixed choice.
fn out(codes: &[f64], chosen: &[i32], each: f64) -> Vec<f64> {
    let row = |chosen: &[i32]| -> Vec<f64> {
        let of = |column: usize| -> f64 {
            let parts = chosen.iter().map(|c| codes[*c as usize * D + column]);
            each * parts.sum::<f64>()
        };
        (0..D).map(of).collect()
    };
    chosen.chunks(K).flat_map(row).collect()
}

fn squares(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// A task that is not linear: Σ w · sin(out).
fn task(out: &[f64], w: &[f64]) -> f64 {
    out.iter().zip(w).map(|(o, w)| w * o.sin()).sum()
}

fn differences(at: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-6;
    (0..at.len())
        .map(|i| {
            let moved = |step: f64| {
                let mut x = at.to_vec();
                x[i] += step;
                f(&x)
            };
            (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
        })
        .collect()
}

fn close(found: &Tensor<2>, expected: &[f64], what: &str) {
    let found: Vec<f32> = found.to_data().try_to_vec().unwrap();
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let far = (f64::from(*found) - expected).abs();
        assert!(far < 2e-4, "{what}, element {i}: {found} and {expected}");
    }
}

#[test]
fn gradients_are_finite_differences_in_every_mode() {
    let f64s = |v: &[f32]| -> Vec<f64> { v.iter().map(|v| f64::from(*v)).collect() };
    let (a, c, w) = (normal(N * D, 1), normal(CODES * D, 2), normal(N * D, 3));
    let (a64, c64, w64) = (f64s(&a), f64s(&c), f64s(&w));
    for loss in [
        CodeLoss::Task,
        CodeLoss::TaskMse,
        CodeLoss::Vqvae,
        CodeLoss::TaskVqvae,
    ] {
        for (combination, each) in [(Combination::Sum, 1.0), (Combination::Mean, 1.0 / 3.0)] {
            let options = CodebookOptions {
                n_codes: CODES,
                k: K,
                assignment: Assignment::Cosine,
                combination,
                layer_norm: false,
                loss,
                mse_weight: LAMBDA as f32,
                commitment: BETA as f32,
            };
            let codebook = Codebook::new(options, 1, matrix(&c, D)).unwrap();
            let input = matrix(&a, D).autodiff().require_grad();
            let codes = matrix(&c, D).autodiff().require_grad();
            let snapped = codebook.apply_tracked(input.clone(), codes.clone());
            let plain = codebook.apply(&matrix(&a, D)).value;
            assert_eq!(snapped.value.clone().inner().to_data(), plain.to_data());
            let mut scalar = (snapped.value.sin() * matrix(&w, D).autodiff()).sum();
            if let Some(loss) = snapped.loss {
                scalar = scalar + loss;
            }
            let mut gradients = scalar.backward();
            let chosen: Vec<i32> = snapped.codes[0].to_data().try_to_vec().unwrap();
            let fixed = out(&c64, &chosen, each);
            let (task_weight, mse, commitment) = match loss {
                CodeLoss::Task => (1.0, 0.0, 0.0),
                CodeLoss::TaskMse => (1.0, LAMBDA, 0.0),
                CodeLoss::Vqvae => (0.0, LAMBDA, BETA),
                CodeLoss::TaskVqvae => (1.0, LAMBDA, BETA),
            };
            let name = format!("{loss:?}, {combination:?}");
            let to_codes = differences(&c64, |c| {
                let out = out(c, &chosen, each);
                task_weight * task(&out, &w64) + mse * squares(&out, &a64)
            });
            let found = codes.grad_remove(&mut gradients).unwrap();
            close(&found, &to_codes, &format!("{name}: codes"));
            // Straight through: the gradient at the output, as if it were the input's.
            let mut to_input = differences(&fixed, |out| task(out, &w64));
            let more = differences(&a64, |a| commitment * squares(&fixed, a));
            to_input.iter_mut().zip(more).for_each(|(g, m)| *g += m);
            let found = input.grad_remove(&mut gradients).unwrap();
            close(&found, &to_input, &format!("{name}: input"));
        }
    }
}

/// Each half of a row, less its mean, over its standard deviation.
fn normalized(a: &[f64]) -> Vec<f64> {
    let of = |part: &[f64]| -> Vec<f64> {
        let n = part.len() as f64;
        let mean = part.iter().sum::<f64>() / n;
        let variance = part.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let each = part.iter();
        each.map(|v| (v - mean) / (variance + 1e-5).sqrt())
            .collect()
    };
    a.chunks(D).flat_map(of).collect()
}

#[test]
fn with_layer_norm_a_codebook_is_one_of_the_normalized_input() {
    let (a, c, w) = (
        normal(N * 2 * D, 1),
        normal(2 * CODES * D, 2),
        normal(N * 2 * D, 3),
    );
    let a64: Vec<f64> = a.iter().map(|v| f64::from(*v)).collect();
    let run = |input: &[f32], layer_norm: bool| {
        let options = CodebookOptions {
            n_codes: CODES,
            k: K,
            layer_norm,
            loss: CodeLoss::TaskVqvae,
            ..Default::default()
        };
        let codebook = Codebook::new(options, 2, matrix(&c, D)).unwrap();
        let input = matrix(input, 2 * D).autodiff().require_grad();
        let codes = matrix(&c, D).autodiff().require_grad();
        let snapped = codebook.apply_tracked(input.clone(), codes.clone());
        let task = (snapped.value.clone().sin() * matrix(&w, 2 * D).autodiff()).sum();
        let mut gradients = (task + snapped.loss.unwrap()).backward();
        let host = |t: Tensor<2>| -> Vec<f64> { t.into_data().iter::<f64>().collect() };
        let of_input = host(input.grad_remove(&mut gradients).unwrap());
        let of_codes = host(codes.grad_remove(&mut gradients).unwrap());
        let chosen: Vec<_> = snapped.codes.iter().map(|t| t.to_data()).collect();
        (host(snapped.value.inner()), of_codes, of_input, chosen)
    };
    let plain: Vec<f32> = normalized(&a64).iter().map(|v| *v as f32).collect();
    let (value, of_codes, of_input, chosen) = run(&a, true);
    let (value_of_plain, codes_of_plain, slopes, chosen_of_plain) = run(&plain, false);
    assert_eq!(chosen, chosen_of_plain);
    assert_eq!(value, value_of_plain);
    // What the input gets has passed through the normalization.
    let expected = differences(&a64, |a| {
        let each = normalized(a).into_iter().zip(&slopes);
        each.map(|(a, slope)| a * slope).sum()
    });
    let near = |found: &[f64], expected: &[f64], what: &str| {
        let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-4 * largest,
                "{what}: {found}, {expected}"
            );
        }
    };
    near(&of_codes, &codes_of_plain, "codes");
    near(&of_input, &expected, "input");
}
