//! Nearest codes are those of brute force.

use super::normal;
use burn::tensor::{Device, Tensor, TensorData};
use lapidary_codebook::{Assignment, Codebook, CodebookOptions, Combination, nearest_codes};
use lapidary_kernels::EncoderState;

fn matrix(values: &[f32], d: usize) -> Tensor<2> {
    let data = TensorData::new(values.to_vec(), [values.len() / d, d]);
    Tensor::from_data(data, &Device::flex())
}

/// The score of a code in f64: larger is nearer.
fn score(a: &[f32], c: &[f32], assignment: Assignment) -> f64 {
    let pairs = || a.iter().zip(c).map(|(a, c)| (f64::from(*a), f64::from(*c)));
    match assignment {
        Assignment::Cosine => {
            let norm = c.iter().map(|c| f64::from(*c).powi(2)).sum::<f64>().sqrt();
            pairs().map(|(a, c)| a * c).sum::<f64>() / norm
        }
        Assignment::Euclidean => -pairs().map(|(a, c)| (a - c) * (a - c)).sum::<f64>().sqrt(),
    }
}

#[test]
fn nearest_codes_are_those_of_brute_force() {
    let (n, n_codes, d, k) = (200, 300, 16, 5);
    let (a, mut c) = (normal(n * d, 1), normal(n_codes * d, 2));
    // Codes of very different norms, so that the two assignments differ.
    for (i, code) in c.chunks_mut(d).enumerate() {
        let size = 0.1 + (i % 7) as f32;
        code.iter_mut().for_each(|v| *v *= size);
    }
    let mut firsts = vec![];
    for assignment in [Assignment::Cosine, Assignment::Euclidean] {
        let state = EncoderState::default();
        let near = nearest_codes(matrix(&a, d), matrix(&c, d), k, assignment, &state);
        let found: Vec<i32> = near.indices.to_data().try_to_vec().unwrap();
        for (row, found) in a.chunks(d).zip(found.chunks(k)) {
            let mut order: Vec<usize> = (0..n_codes).collect();
            let score = |code: &usize| score(row, &c[code * d..][..d], assignment);
            order.sort_by(|x, y| score(y).total_cmp(&score(x)));
            for (place, code) in found.iter().enumerate() {
                // Scores closer than f32 can tell may change places.
                let gap = score(&order[place]) - score(&(*code as usize));
                assert!(gap.abs() < 1e-5, "{assignment:?}: place {place}, gap {gap}");
            }
        }
        firsts.push(found);
    }
    assert_ne!(firsts[0], firsts[1], "the assignments choose differently");
}

#[test]
fn a_code_is_chosen_even_if_all_scores_are_negative() {
    let state = EncoderState::default();
    let codes = matrix(&[-1.0, 0.0, -1.0, -1.0, -2.0, 0.5], 2);
    let a = matrix(&[1.0, 0.9], 2);
    let near = nearest_codes(a, codes, 1, Assignment::Cosine, &state);
    let scores: Vec<f32> = near.values.to_data().try_to_vec().unwrap();
    assert!(scores[0] < 0.0);
    // ⟨a, c⟩/‖c‖ = −1, −1.34, −0.75
    assert_eq!(near.indices.to_data().try_to_vec::<i32>().unwrap(), [2]);
}

#[test]
fn all_codes_chosen_give_their_sum_for_every_input_and_the_same_bits_each_time() {
    let (n_codes, d) = (9, 4);
    let c = normal(n_codes * d, 5);
    for (combination, each) in [(Combination::Sum, 1.0), (Combination::Mean, 1.0 / 9.0)] {
        let options = CodebookOptions {
            n_codes,
            k: n_codes,
            combination,
            ..Default::default()
        };
        let codebook = Codebook::new(options, 1, matrix(&c, d)).unwrap();
        let a = matrix(&normal(20 * d, 6), d);
        let bits = || -> Vec<f32> { codebook.apply(&a).value.to_data().try_to_vec().unwrap() };
        let first = bits();
        assert_eq!(first, bits());
        for (i, value) in first.iter().enumerate() {
            let sum: f32 = c.iter().skip(i % d).step_by(d).sum();
            assert!((value - each * sum).abs() < 1e-5);
        }
    }
}

#[test]
fn each_head_has_codes_of_its_own() {
    let (n_codes, d, heads) = (8, 3, 2);
    let c = normal(heads * n_codes * d, 7);
    let options = CodebookOptions {
        n_codes,
        k: 1,
        ..Default::default()
    };
    let grouped = Codebook::new(options.clone(), heads, matrix(&c, d)).unwrap();
    let a = matrix(&normal(10 * heads * d, 8), heads * d);
    let all = grouped.apply(&a).value;
    for head in 0..heads {
        let own = matrix(&c[head * n_codes * d..][..n_codes * d], d);
        let alone = Codebook::new(options.clone(), 1, own).unwrap();
        let expected = alone.apply(&a.clone().narrow(1, head * d, d)).value;
        let found = all.clone().narrow(1, head * d, d);
        assert_eq!(found.to_data(), expected.to_data());
    }
}

#[test]
fn the_code_minus_one_adds_nothing() {
    let options = CodebookOptions {
        n_codes: 2,
        k: 2,
        ..Default::default()
    };
    let codebook = Codebook::new(options, 1, matrix(&[1.0, 2.0, 3.0, 4.0], 2)).unwrap();
    let chosen = Tensor::from_ints([[-1, 1], [-1, -1]], &Device::flex());
    let value: Vec<f32> = codebook.combine(0, chosen).to_data().try_to_vec().unwrap();
    assert_eq!(value, [3.0, 4.0, 0.0, 0.0]);
}

#[test]
fn more_choices_than_codes_are_refused() {
    let options = CodebookOptions {
        n_codes: 2,
        k: 3,
        ..Default::default()
    };
    let error = Codebook::new(options, 1, matrix(&[0.0; 4], 2)).unwrap_err();
    assert_eq!(error.to_string(), "k: found 3, expected 1 to n_codes = 2");
}
