use burn::tensor::{Device, Tensor, TensorData};
use lapidary_kernels::{Pursued, Pursuit, pursuit_gradient};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::reference::{devices, floats, ints, state};

const D: usize = 12;
const F: usize = 40;
const N: usize = 9;

/// What a row took and what is left of it.
struct Row {
    steps: Vec<(u32, f32)>,
    residual: Vec<f32>,
}

impl Row {
    fn square(&self) -> f64 {
        dot(&self.residual, &self.residual)
    }
}

fn rows_of(pursued: &Pursued) -> Vec<Row> {
    let [_, k] = pursued.atoms.dims();
    let (atoms, values) = (ints(pursued.atoms.clone()), floats(pursued.values.clone()));
    let residual = floats(pursued.residual.clone());
    let steps = atoms.chunks(k).zip(values.chunks(k));
    let rows = steps
        .zip(residual.chunks(D))
        .map(|((atoms, values), residual)| {
            let steps = atoms.iter().zip(values).filter(|(atom, _)| **atom >= 0);
            Row {
                steps: steps.map(|(atom, value)| (*atom as u32, *value)).collect(),
                residual: residual.to_vec(),
            }
        });
    rows.collect()
}

fn pursue(x: Tensor<2>, atoms: Tensor<2>, k: usize, how: &Pursuit) -> Vec<Row> {
    rows_of(&lapidary_kernels::pursue(x, atoms, k, how, state()))
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

/// Rows in random directions; atoms of norm 1.
fn draw(seed: u64, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = |n: usize| -> Vec<f32> {
        let one = |_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        (0..n).map(one).collect()
    };
    let (x, mut atoms) = (normal(N * D), normal(F * D));
    for atom in atoms.chunks_mut(D) {
        let norm = dot(atom, atom).sqrt() as f32;
        atom.iter_mut().for_each(|v| *v /= norm);
    }
    (
        Tensor::from_data(TensorData::new(x, [N, D]), device),
        Tensor::from_data(TensorData::new(atoms, [F, D]), device),
    )
}

const SIGNED: Pursuit = Pursuit {
    signed: true,
    ..Pursuit::PLAIN
};
const REFIT: Pursuit = Pursuit {
    refit: true,
    ..Pursuit::PLAIN
};
const SIGNED_REFIT: Pursuit = Pursuit {
    signed: true,
    ..REFIT
};

/// The definition, in f64, a step at a time.
fn by_definition(x: &[f32], atoms: &[f32], k: usize, signed: bool) -> (Vec<(u32, f64)>, Vec<f64>) {
    let mut r: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let mut steps = Vec::new();
    for _ in 0..k {
        let values: Vec<f64> = atoms
            .chunks(D)
            .map(|a| a.iter().zip(&r).map(|(a, r)| f64::from(*a) * r).sum())
            .collect();
        let size = |v: f64| if signed { v.abs() } else { v };
        let j = (0..F)
            .rev()
            .max_by(|a, b| size(values[*a]).total_cmp(&size(values[*b])));
        let j = j.unwrap();
        if size(values[j]) <= 0.0 {
            break;
        }
        for (r, a) in r.iter_mut().zip(&atoms[j * D..]) {
            *r -= values[j] * f64::from(*a);
        }
        steps.push((j as u32, values[j]));
    }
    (steps, r)
}

#[test]
fn steps_are_those_of_the_definition_whether_or_not_a_gram_matrix_pays() {
    for device in devices() {
        let (x, atoms) = draw(1, &device);
        let (x_host, atoms_host) = (floats(x.clone()), floats(atoms.clone()));
        for how in [Pursuit::PLAIN, SIGNED] {
            for k in [3, 10] {
                assert_eq!(F <= k * N, k == 10);
                let rows = pursue(x.clone(), atoms.clone(), k, &how);
                for (row, x) in rows.iter().zip(x_host.chunks(D)) {
                    let (steps, residual) = by_definition(x, &atoms_host, k, how.signed);
                    assert_eq!(row.steps.len(), steps.len());
                    for ((j, v), (expected_j, expected_v)) in row.steps.iter().zip(&steps) {
                        assert_eq!(j, expected_j);
                        assert!((f64::from(*v) - expected_v).abs() < 1e-5);
                    }
                    for (r, expected) in row.residual.iter().zip(&residual) {
                        assert!((f64::from(*r) - expected).abs() < 1e-5);
                    }
                }
            }
        }
    }
}

#[test]
fn residuals_shrink_by_the_square_of_each_value_and_leave_the_atom_behind() {
    for device in devices() {
        let (x, atoms) = draw(2, &device);
        let host = floats(atoms.clone());
        for how in [Pursuit::PLAIN, SIGNED] {
            let mut before: Vec<f64> = floats(x.clone()).chunks(D).map(|x| dot(x, x)).collect();
            for k in 1..15 {
                let rows = pursue(x.clone(), atoms.clone(), k, &how);
                for (row, before) in rows.iter().zip(&mut before) {
                    let (latent, value) = *row.steps.last().unwrap();
                    let after = row.square();
                    if row.steps.len() == k {
                        let expected = *before - f64::from(value).powi(2);
                        assert!((after - expected).abs() < 1e-5, "{after} {expected}");
                        let atom = &host[latent as usize * D..(latent as usize + 1) * D];
                        assert!(dot(atom, &row.residual).abs() < 1e-5);
                    }
                    assert!(after <= *before + 1e-9, "step {k}: {after} after {before}");
                    *before = after;
                }
            }
        }
    }
}

#[test]
fn a_refit_is_the_best_that_its_atoms_can_do() {
    for device in devices() {
        let (x, atoms) = draw(3, &device);
        let host = floats(atoms.clone());
        for how in [REFIT, SIGNED_REFIT] {
            for k in [2, 4, 8] {
                {
                    let rows = pursue(x.clone(), atoms.clone(), k, &how);
                    for row in &rows {
                        for (latent, value) in &row.steps {
                            let atom = &host[*latent as usize * D..(*latent as usize + 1) * D];
                            let along = dot(atom, &row.residual);
                            // Where least: no slope, or a slope that only a negative value would
                            // use.
                            assert!(how.signed || *value >= 0.0);
                            let least = along.abs() < 1e-5
                                || (!how.signed && *value == 0.0 && along < 1e-5);
                            assert!(least, "slope {along} at value {value}");
                        }
                    }
                }
                // On the atoms that plain pursuit took, fitting cannot do worse than pursuit did in
                // its first two steps.
                let plain = Pursuit {
                    refit: false,
                    ..how
                };
                let pursued = pursue(x.clone(), atoms.clone(), 2, &plain);
                let fitted = pursue(x.clone(), atoms.clone(), 2, &how);
                for (p, f) in pursued.iter().zip(&fitted) {
                    assert!(f.square() <= p.square() + 1e-6);
                }
            }
        }
    }
}

#[test]
fn a_row_stops_at_its_threshold_or_at_an_atom_that_it_has() {
    for device in devices() {
        let (x, atoms) = draw(4, &device);
        let norm = |row: &Row| row.square().sqrt();
        let limit = 1.0;
        let how = Pursuit {
            residual_threshold: limit,
            ..Pursuit::PLAIN
        };
        let one_less = |row: &Row, i: usize| {
            let k = row.steps.len() - 1;
            norm(&pursue(x.clone(), atoms.clone(), k, &Pursuit::PLAIN)[i])
        };
        for (i, row) in pursue(x.clone(), atoms.clone(), 200, &how)
            .iter()
            .enumerate()
        {
            assert!(norm(row) < limit, "{}", norm(row));
            assert!(row.steps.len() == 1 || one_less(row, i) >= limit);
        }
        let how = Pursuit {
            stop_on_duplicate_support: true,
            ..Pursuit::PLAIN
        };
        let mut stopped = 0;
        for row in pursue(x.clone(), atoms.clone(), 60, &how) {
            let (last, others) = row.steps.split_last().unwrap();
            stopped += usize::from(others.iter().any(|(l, _)| *l == last.0));
            let mut distinct: Vec<u32> = others.iter().map(|(l, _)| *l).collect();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), others.len());
        }
        assert!(stopped > 0);
    }
}

#[test]
fn a_row_of_zeros_or_of_nan_takes_nothing() {
    for device in devices() {
        let (_, atoms) = draw(5, &device);
        let x = Tensor::from_data(
            TensorData::new([vec![0.0; D], vec![f32::NAN; D]].concat(), [2, D]),
            &device,
        );
        for how in [Pursuit::PLAIN, SIGNED, REFIT] {
            for row in pursue(x.clone(), atoms.clone(), 5, &how) {
                assert!(row.steps.is_empty());
            }
        }
    }
}

/// Σ |residual|² when each row takes the atoms that it took, in f64; with `refit` the best fit, by
/// many sweeps of coordinate descent.
fn loss(x: &[f64], atoms: &[f64], rows: &[Row], how: &Pursuit) -> f64 {
    let each = rows.iter().zip(x.chunks(D)).map(|(row, x)| {
        let mut r = x.to_vec();
        let atom = |j: u32| &atoms[j as usize * D..(j as usize + 1) * D];
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut values = vec![0.0; row.steps.len()];
        for _ in 0..if how.refit { 400 } else { 1 } {
            for (value, (latent, _)) in values.iter_mut().zip(&row.steps) {
                let atom = atom(*latent);
                let mut change = product(atom, &r);
                if how.refit {
                    change /= product(atom, atom);
                    if !how.signed {
                        change = change.max(-*value);
                    }
                }
                *value += change;
                for (r, a) in r.iter_mut().zip(atom) {
                    *r -= change * a;
                }
            }
        }
        product(&r, &r)
    });
    each.sum()
}

#[test]
fn gradients_equal_differences_with_the_choice_of_atoms_held() {
    const STEP: f64 = 1e-5;
    for how in [Pursuit::PLAIN, SIGNED, REFIT, SIGNED_REFIT] {
        for device in devices() {
            let (x, atoms) = draw(6, &device);
            let atoms = atoms * 0.9; // gradients must not count on norms of 1
            let pursued = lapidary_kernels::pursue(x.clone(), atoms.clone(), 5, &how, state());
            let (to_atoms, to_starts) = pursuit_gradient(&pursued, atoms.clone(), how.refit, 1.0);
            let rows = rows_of(&pursued);
            let wide = |t: Tensor<2>| -> Vec<f64> { t.to_data().iter().collect() };
            let (x, atoms) = (wide(x), wide(atoms));
            let total: f64 = rows.iter().map(Row::square).sum();
            assert!((total - loss(&x, &atoms, &rows, &how)).abs() < 1e-4 * total);
            let found = wide(to_atoms);
            let largest = found.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            for (i, found) in found.iter().enumerate().step_by(5) {
                let at = |step: f64| {
                    let mut moved = atoms.clone();
                    moved[i] += step;
                    loss(&x, &moved, &rows, &how)
                };
                let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                assert!(
                    (found - expected).abs() < 1e-3 * largest,
                    "{how:?}, atom value {i}: {found}, differences {expected}"
                );
            }
            let found: Vec<f64> = to_starts.to_data().iter().collect();
            for (j, found) in found.iter().enumerate() {
                let at = |step: f64| {
                    let mut moved = x.clone();
                    moved.iter_mut().skip(j).step_by(D).for_each(|v| *v += step);
                    loss(&moved, &atoms, &rows, &how)
                };
                let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                assert!((found - expected).abs() < 1e-3 * expected.abs().max(1.0));
            }
        }
    }
}

/// More atoms and columns than a cube has units: what every device takes is what the CPU takes.
#[test]
fn many_atoms_and_columns_are_those_of_the_cpu() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut uniform =
        |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random::<f32>() - 0.5).collect() };
    let (x, atoms) = (uniform(6 * 300), uniform(600 * 300));
    let all = |device: &Device, k| {
        let x = Tensor::<2>::from_data(TensorData::new(x.clone(), [6, 300]), device);
        let atoms = Tensor::<2>::from_data(TensorData::new(atoms.clone(), [600, 300]), device);
        let pursued = lapidary_kernels::pursue(x, atoms.clone() * 0.2, k, &SIGNED, state());
        let (to_atoms, to_starts) = pursuit_gradient(&pursued, atoms * 0.2, false, 0.5);
        let numbers = [
            floats(pursued.residual),
            floats(to_atoms),
            floats(to_starts),
        ];
        (ints(pursued.atoms), numbers)
    };
    // 600 atoms: by a Gram matrix from 100 steps on.
    for k in [7, 100] {
        let (expected, expected_numbers) = all(&Device::flex(), k);
        for device in devices() {
            let (taken, numbers) = all(&device, k);
            assert_eq!(taken[..7], expected[..7]);
            if k == 7 {
                assert_eq!(taken, expected);
                for (numbers, expected) in numbers.iter().zip(&expected_numbers) {
                    let expected: Vec<f64> = expected.iter().map(|v| f64::from(*v)).collect();
                    crate::reference::assert_close(numbers, &expected, 1e-4);
                }
            }
        }
    }
}
