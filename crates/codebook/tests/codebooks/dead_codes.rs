//! Replacement keeps codes in use where there are far more codes than clusters.

use super::normal;
use burn::tensor::{Device, Tensor, TensorData};
use lapidary_codebook::{CodeUsage, Codebook, CodebookOptions, normal_codes, replace_dead};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const D: usize = 8;
const CLUSTERS: usize = 10;
const CODES: usize = 64;
const ROWS: usize = 1024;

/// Rows around ten centres, others at each step.
fn batch(step: u64) -> Tensor<2> {
    let centres = normal(CLUSTERS * D, 1);
    let noise = normal(ROWS * D, 100 + step);
    let rows = noise.chunks(D).enumerate().flat_map(|(i, noise)| {
        let centre = &centres[i % CLUSTERS * D..][..D];
        let pairs = centre.iter().zip(noise);
        pairs.map(|(c, e)| 3.0 * c + 0.3 * e).collect::<Vec<f32>>()
    });
    let data = TensorData::new(rows.collect::<Vec<f32>>(), [ROWS, D]);
    Tensor::from_data(data, &Device::flex())
}

/// The share of codes that a fresh batch never chooses after training by squared error.
fn frac_dead(replace: bool) -> f64 {
    let options = CodebookOptions {
        n_codes: CODES,
        k: 1,
        ..Default::default()
    };
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let codes = normal_codes(CODES, D, &mut rng, &Device::flex());
    let mut codebook = Codebook::new(options, 1, codes).unwrap();
    let mut usage = CodeUsage::new(1, CODES);
    for step in 1..=120u64 {
        let a = batch(step);
        let codes = codebook.codes().clone().autodiff().require_grad();
        let snapped = codebook.apply_tracked(a.clone().autodiff(), codes.clone());
        usage.add(0, &snapped.codes[0]);
        let gradients = &mut snapped.loss.unwrap().backward();
        let gradient = codes.grad_remove(gradients).unwrap();
        let moved = codes.inner() - gradient * (0.05 / ROWS as f32);
        codebook.set_codes(moved);
        // The last replacement is well before the end.
        if replace && step.is_multiple_of(10) && step <= 100 {
            if let Some((codes, _)) = replace_dead(&codebook, &a, &usage, &mut rng) {
                codebook.set_codes(codes);
            }
            usage.reset();
        }
    }
    let mut usage = CodeUsage::new(1, CODES);
    usage.add(0, &codebook.nearest(&batch(0))[0]);
    usage.frac_dead()
}

#[test]
fn replacement_keeps_codes_in_use() {
    let (with, without) = (frac_dead(true), frac_dead(false));
    println!("dead codes: {with:.3} with replacement, {without:.3} without");
    assert!(with < 0.05, "{with}");
    assert!(without > 0.30, "{without}");
}

#[test]
fn replaced_codes_are_inputs_of_their_own_group() {
    let (groups, n_codes) = (2, 3);
    let codes = Tensor::zeros([groups * n_codes, 2], &Device::flex());
    let options = CodebookOptions {
        n_codes,
        k: 1,
        ..Default::default()
    };
    let codebook = Codebook::new(options, groups, codes).unwrap();
    let inputs = Tensor::from_floats([[1.0, 2.0, -3.0, -4.0]], &Device::flex());
    let usage = CodeUsage::from_counts(n_codes, vec![5, 0, 1, 0, 2, 2]);
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let (codes, moved) = replace_dead(&codebook, &inputs, &usage, &mut rng).unwrap();
    assert_eq!(moved, [1, 3]);
    let codes: Vec<f32> = codes.to_data().try_to_vec().unwrap();
    let expected = [0.0, 0.0, 1.0, 2.0, 0.0, 0.0, -3.0, -4.0, 0.0, 0.0, 0.0, 0.0];
    for (i, (found, expected)) in codes.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < 0.01, "{i}: {codes:?}");
        let is_moved = expected != 0.0;
        assert_eq!(*found != expected, is_moved, "noise moves what is replaced");
    }
}

#[test]
fn perplexity_counts_codes_that_are_used_alike() {
    let usage = CodeUsage::from_counts(4, vec![5, 5, 0, 0, 7, 7, 7, 7]);
    let perplexities = usage.perplexities();
    assert!((perplexities[0] - 2.0).abs() < 1e-12);
    assert!((perplexities[1] - 4.0).abs() < 1e-12);
    assert_eq!(usage.frac_dead(), 0.25);
}
