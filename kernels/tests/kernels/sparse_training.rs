use burn::tensor::{Device, Int, Tensor, TensorData};
use lapidary_kernels::{
    AdamStep, Moments, RowUpdate, SparseCodes, SparseGradient, latent_sums, reconstruct,
    sparse_adam_step, squared_norm,
};

use crate::reference::{Matrix, assert_close, devices, floats, random_shapes};

/// n, d, F, k: off every tile, one of each, more entries than latents.
const SHAPES: [[usize; 4]; 4] = [
    [1, 1, 1, 1],
    [7, 5, 3, 2],
    [40, 33, 70, 9],
    [65, 130, 257, 4],
];

struct Case {
    w: Matrix,
    values: Matrix, // [n, k]
    indices: Vec<i32>,
    rows: Matrix, // [n, d]
}

impl Case {
    fn new([n, d, latents, k]: [usize; 4]) -> Self {
        let mut values = Matrix::uniform(1, n, k);
        for value in values.numbers.iter_mut().step_by(5) {
            *value = 0.0;
        }
        Self {
            w: Matrix::uniform(2, latents, d),
            // A third of the latents is never chosen.
            indices: (0..n * k)
                .map(|at| ((at * 7 + at / 3) % latents.div_ceil(3)) as i32)
                .collect(),
            values,
            rows: Matrix::uniform(3, n, d),
        }
    }

    fn codes(&self, device: &Device) -> SparseCodes {
        let shape = [self.values.rows, self.values.columns];
        let indices = TensorData::new(self.indices.clone(), shape);
        SparseCodes {
            values: self.values.on(device),
            indices: Tensor::<2, Int>::from_data(indices, device),
        }
    }

    fn gradient(&self, device: &Device) -> SparseGradient {
        SparseGradient {
            codes: self.codes(device),
            rows: self.rows.on(device),
        }
    }

    /// `Sᵀ·rows`, less the part along `unit` rows if given, in f64.
    fn dense(&self, unit: Option<&[f64]>) -> Vec<f64> {
        let (d, k) = (self.rows.columns, self.values.columns);
        let mut out = vec![0.0; self.w.rows * d];
        for (at, latent) in self.indices.iter().enumerate() {
            for j in 0..d {
                let value = f64::from(self.values.numbers[at]);
                out[*latent as usize * d + j] += value * self.rows.at(at / k, j);
            }
        }
        for (row, unit) in unit.iter().flat_map(|u| u.chunks(d)).enumerate() {
            let out = &mut out[row * d..][..d];
            let along: f64 = out.iter().zip(unit).map(|(a, b)| a * b).sum();
            out.iter_mut().zip(unit).for_each(|(g, u)| *g -= along * u);
        }
        out
    }
}

/// Rows of norm 1.
fn scaled_to_1(w: &mut [f64], d: usize) {
    for row in w.chunks_mut(d) {
        let norm = row.iter().map(|w| w * w).sum::<f64>().sqrt();
        row.iter_mut().for_each(|w| *w /= norm);
    }
}

#[test]
fn updates_are_those_of_adam_on_the_dense_gradient() {
    for device in devices() {
        for shape in SHAPES.into_iter().chain(random_shapes(32)) {
            for unit_rows in [false, true] {
                let mut case = Case::new(shape);
                let d = case.rows.columns;
                let mut w: Vec<f64> = case.w.numbers.iter().map(|w| f64::from(*w)).collect();
                if unit_rows {
                    scaled_to_1(&mut w, d);
                }
                case.w.numbers = w.iter().map(|w| *w as f32).collect();
                let (mut m, mut v) = (vec![0.0f64; w.len()], vec![0.0f64; w.len()]);
                let mut found = case.w.on(&device);
                let mut moments = Moments {
                    m: found.zeros_like(),
                    v: found.zeros_like(),
                };
                for step in 1..=3 {
                    let adam = AdamStep {
                        lr: 0.01,
                        beta1: 0.9,
                        beta2: 0.99,
                        eps: 1e-3,
                        weight_decay: 0.0,
                        step,
                    };
                    let update = RowUpdate {
                        adam,
                        scale: 0.5,
                        unit_rows,
                    };
                    let gradient = case.dense(unit_rows.then_some(&w));
                    for (at, g) in gradient.iter().map(|g| g * 0.5).enumerate() {
                        m[at] = 0.9 * m[at] + 0.1 * g;
                        v[at] = 0.99 * v[at] + 0.01 * g * g;
                        let m_hat = m[at] / (1.0 - 0.9f64.powi(step as i32));
                        let v_hat = v[at] / (1.0 - 0.99f64.powi(step as i32));
                        w[at] -= 0.01 * m_hat / (v_hat.sqrt() + 1e-3);
                    }
                    if unit_rows {
                        scaled_to_1(&mut w, d);
                    }
                    (found, moments) =
                        sparse_adam_step(found, case.gradient(&device), moments, &update);
                }
                assert_close(&floats(found), &w, 2e-5);
                assert_close(&floats(moments.m), &m, 1e-5);
                assert_close(&floats(moments.v), &v, 1e-5);
            }
        }
    }
}

#[test]
fn norms_sums_and_gradients_of_codes_are_those_of_the_dense_matrices() {
    for device in devices() {
        for shape in SHAPES.into_iter().chain(random_shapes(32)) {
            let mut case = Case::new(shape);
            let d = case.rows.columns;
            let mut w: Vec<f64> = case.w.numbers.iter().map(|w| f64::from(*w)).collect();
            scaled_to_1(&mut w, d);
            case.w.numbers = w.iter().map(|w| *w as f32).collect();
            for unit in [false, true] {
                let found = squared_norm(&case.w.on(&device), &case.gradient(&device), unit);
                let gradient = case.dense(unit.then_some(&w));
                let expected: f64 = gradient.iter().map(|g| g * g).sum();
                assert_close(&floats(found), &[expected], 1e-5 * expected.max(1.0));
            }
            let mut sums = vec![0.0; case.w.rows];
            for (value, latent) in case.values.numbers.iter().zip(&case.indices) {
                sums[*latent as usize] += f64::from(*value);
            }
            let found = latent_sums(&case.codes(&device), case.w.rows);
            assert_close(&floats(found), &sums, 1e-5);
        }
    }
}

#[test]
fn errors_and_gradients_of_codes_are_those_of_the_dense_matrices() {
    for device in devices() {
        for shape in SHAPES.into_iter().chain(random_shapes(32)) {
            let case = Case::new(shape);
            let ([n, d], k) = ([case.rows.rows, case.rows.columns], case.values.columns);
            let b = Matrix::uniform(91, 1, d);
            let found = reconstruct(
                &case.codes(&device),
                case.w.on(&device),
                b.vector_on(&device),
                case.rows.on(&device),
            );
            let (mut error, mut along, mut squares) = (vec![], vec![], vec![]);
            for row in 0..n {
                let entries = row * k..(row + 1) * k;
                let of_row: Vec<f64> = (0..d)
                    .map(|j| {
                        let decoded = entries.clone().map(|at| {
                            let value = f64::from(case.values.numbers[at]);
                            value * case.w.at(case.indices[at] as usize, j)
                        });
                        decoded.sum::<f64>() + b.at(0, j) - case.rows.at(row, j)
                    })
                    .collect();
                along.extend(entries.map(|at| {
                    let w = |j| case.w.at(case.indices[at] as usize, j);
                    (0..d).map(|j| of_row[j] * w(j)).sum::<f64>()
                }));
                squares.push(of_row.iter().map(|e| e * e).sum::<f64>());
                error.extend(of_row);
            }
            assert_close(&floats(found.error), &error, 1e-5);
            assert_close(&floats(found.along), &along, 1e-5);
            assert_close(&floats(found.squares), &squares, 1e-5);
        }
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    for device in devices() {
        let case = Case::new([65, 130, 257, 4]);
        let run = || {
            let w = case.w.on(&device);
            let moments = Moments {
                m: w.zeros_like(),
                v: w.zeros_like(),
            };
            let update = RowUpdate {
                adam: AdamStep {
                    lr: 0.01,
                    beta1: 0.9,
                    beta2: 0.999,
                    eps: 1e-8,
                    weight_decay: 0.0,
                    step: 1,
                },
                scale: 1.0,
                unit_rows: true,
            };
            floats(sparse_adam_step(w, case.gradient(&device), moments, &update).0)
        };
        assert!(run() == run(), "{device:?}");
    }
}
