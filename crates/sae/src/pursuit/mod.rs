//! Matching pursuit (Mallat, Zhang 1993): of each row the atom that fits best is taken away, again and again. Orthogonal
//! matching pursuit (Pati, Rezaiifar, Krishnaprasad 1993) fits all atoms taken so far anew after each step.
//!
//! [`pursue`] and [`gradient`] are the whole of it, on the host's threads, whatever device holds the tensors. Correlations of all
//! atoms with a residual are either updated by rows of the atoms' Gram matrix or made anew, whichever is less work.

mod refit;

use burn::tensor::{Int, Tensor, TensorData};
use lapidary_kernels::SparseCodes;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Rows whose correlations exist at one time.
const TILE: usize = 256;
/// Largest Gram matrix, in numbers.
const GRAM: usize = 1 << 26;
/// Numbers compared side by side: fixed, so that the result does not depend on the machine's vectors.
const LANES: usize = 16;

/// How a pursuit goes and when it stops, besides after its number of steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pursuit {
    /// A row stops when the norm of its residual is below this; 0: never.
    pub residual_threshold: f64,
    /// A row stops when a step takes an atom that it has already.
    pub stop_on_duplicate_support: bool,
    /// Whether atoms are taken with negative values too, the largest by magnitude.
    pub signed: bool,
    /// Whether all values are fitted anew after each step (orthogonal matching pursuit), by least squares; unless `signed`, by
    /// non-negative ones.
    pub refit: bool,
}

impl Pursuit {
    /// As many steps as there may be, non-negative.
    pub(crate) const PLAIN: Self = Self {
        residual_threshold: 0.0,
        stop_on_duplicate_support: false,
        signed: false,
        refit: false,
    };
}

/// What a pursuit did with one row.
pub(crate) struct Row {
    /// Atom and value of each step; with `refit` each atom once, with its last value.
    pub(crate) steps: Vec<(u32, f32)>,
    /// What is left of the row, `[d]`.
    pub(crate) residual: Vec<f32>,
}

impl Row {
    /// Each atom once with the sum of its values, largest magnitude first, of equal ones the lower index.
    fn codes(&self) -> Vec<(u32, f32)> {
        let mut codes: Vec<(u32, f32)> = Vec::with_capacity(self.steps.len());
        for (latent, value) in &self.steps {
            match codes.iter_mut().find(|(l, _)| l == latent) {
                Some((_, sum)) => *sum += value,
                None => codes.push((*latent, *value)),
            }
        }
        codes.retain(|(_, value)| *value != 0.0);
        codes.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
        codes
    }

    /// The squared norm of the residual.
    pub(crate) fn square(&self) -> f64 {
        dot(&self.residual, &self.residual)
    }
}

/// Pursues each row of `x` `[n, d]` through `atoms` `[F, d]`, at most `k` steps. With r what is left, a step takes the atom j with the
/// largest ⟨atom, r⟩ (by magnitude, if signed; of equal ones the lowest index), whose value v is ⟨atom_j, r⟩, and r loses v·atom_j. A
/// row that no atom fits any more (largest value not above 0) has done.
pub(crate) fn pursue(x: Tensor<2>, atoms: Tensor<2>, k: usize, how: &Pursuit) -> Vec<Row> {
    let ([n, _], [latents, _]) = (x.dims(), atoms.dims());
    let gram = latents * latents <= GRAM && latents <= k * n;
    pursue_by(x, atoms, k, how, gram)
}

fn pursue_by(x: Tensor<2>, atoms: Tensor<2>, k: usize, how: &Pursuit, gram: bool) -> Vec<Row> {
    let ([n, d], [latents, _]) = (x.dims(), atoms.dims());
    let device = x.device();
    let transposed = atoms.clone().transpose(); // [d, F]
    let gram = gram.then(|| floats(atoms.clone().matmul(transposed.clone()))); // [F, F]
    let rows = floats(atoms);
    let atoms = Atoms { rows: &rows, d };
    let mut done = Vec::with_capacity(n);
    for first in (0..n).step_by(TILE) {
        let tile = x.clone().slice([first..(first + TILE).min(n), 0..d]);
        let mut scores = floats(tile.clone().matmul(transposed.clone())); // [tile, F]
        let start = floats(tile);
        let mut running: Vec<Running> = start.chunks(d).map(Running::new).collect();
        if let Some(gram) = &gram {
            let each = running.par_iter_mut().zip(scores.par_chunks_mut(latents));
            each.for_each(|(row, scores)| {
                for _ in 0..k {
                    let changes = row.step(scores, &atoms, how);
                    if row.done {
                        break;
                    }
                    for (latent, change) in changes {
                        let at = latent as usize * latents;
                        subtract(scores, change, &gram[at..at + latents]);
                    }
                }
            });
        } else {
            for step in 0..k {
                if step > 0 {
                    let left: Vec<f32> = running.iter().flat_map(|r| r.residual.clone()).collect();
                    let data = TensorData::new(left, [running.len(), d]);
                    let left = Tensor::<2>::from_data(data, &device);
                    scores = floats(left.matmul(transposed.clone()));
                }
                let each = running.par_iter_mut().zip(scores.par_chunks(latents));
                each.for_each(|(row, scores)| {
                    if !row.done {
                        row.step(scores, &atoms, how);
                    }
                });
                if running.iter().all(|row| row.done) {
                    break;
                }
            }
        }
        done.extend(running.into_iter().map(|row| Row {
            steps: row.steps,
            residual: row.residual,
        }));
    }
    done
}

/// The rows of a dictionary.
#[derive(Clone, Copy)]
pub(crate) struct Atoms<'a> {
    rows: &'a [f32],
    d: usize,
}

impl Atoms<'_> {
    fn row(&self, latent: u32) -> &[f32] {
        let at = latent as usize * self.d;
        &self.rows[at..at + self.d]
    }
}

/// A row under way.
struct Running {
    start: Vec<f32>,
    residual: Vec<f32>,
    steps: Vec<(u32, f32)>,
    done: bool,
}

impl Running {
    fn new(start: &[f32]) -> Self {
        Self {
            start: start.to_vec(),
            residual: start.to_vec(),
            steps: Vec::new(),
            done: false,
        }
    }

    /// One step, given the correlations of all atoms with the residual. Returns by how much which atom's value changed.
    fn step(&mut self, scores: &[f32], atoms: &Atoms<'_>, how: &Pursuit) -> Vec<(u32, f32)> {
        let Some(latent) = best(scores, how.signed) else {
            self.done = true;
            return vec![];
        };
        let atom = atoms.row(latent);
        let value = dot(atom, &self.residual) as f32;
        let taken = self.steps.iter().any(|(l, _)| *l == latent);
        // A value that rounding took to the other side, and one fitted already, say that nothing is left to gain.
        let none_left = if how.signed {
            value == 0.0
        } else {
            value <= 0.0
        };
        if none_left || !value.is_finite() || (how.refit && taken) {
            self.done = true;
            return vec![];
        }
        let changes = if how.refit {
            let changes = refit::refit(&self.start, &mut self.steps, latent, atoms, how.signed);
            self.residual.copy_from_slice(&self.start);
            for (latent, value) in &self.steps {
                subtract(&mut self.residual, *value, atoms.row(*latent));
            }
            changes
        } else {
            self.steps.push((latent, value));
            subtract(&mut self.residual, value, atom);
            vec![(latent, value)]
        };
        let norm = dot(&self.residual, &self.residual).sqrt();
        let small = how.residual_threshold > 0.0 && norm < how.residual_threshold;
        self.done = small || (how.stop_on_duplicate_support && taken);
        changes
    }
}

/// The atom of the largest score (magnitude), if that is above 0; of equal ones the lowest.
fn best(scores: &[f32], signed: bool) -> Option<u32> {
    let size = |s: f32| if signed { s.abs() } else { s };
    let mut largest = [0.0f32; LANES];
    let (lanes, rest) = scores.as_chunks::<LANES>();
    for lane in lanes {
        for (m, s) in largest.iter_mut().zip(lane) {
            let s = size(*s);
            *m = if s > *m { s } else { *m };
        }
    }
    let rest = rest.iter().map(|s| size(*s));
    let most = largest.into_iter().chain(rest).fold(0.0f32, f32::max);
    if most <= 0.0 {
        return None;
    }
    let place = scores.iter().position(|s| size(*s) == most);
    place.map(|place| place as u32)
}

/// `left −= factor · row`.
fn subtract(left: &mut [f32], factor: f32, row: &[f32]) {
    for (l, r) in left.iter_mut().zip(row) {
        *l -= factor * r;
    }
}

/// In f32 lanes, summed in f64.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((s, a), b) in sums.iter_mut().zip(a).zip(b) {
            *s += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.into_iter().map(f64::from).sum::<f64>() + f64::from(rest)
}

fn floats(tensor: Tensor<2>) -> Vec<f32> {
    let data = tensor.into_data();
    data.try_to_vec().expect("weights and activations are f32")
}

/// The rows' codes, as wide as the fullest row, on the device of `like`.
pub(crate) fn codes(rows: &[Row], latents: usize, like: &Tensor<2>) -> SparseCodes {
    let codes: Vec<Vec<(u32, f32)>> = rows.iter().map(Row::codes).collect();
    let width = codes.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let mut values = Vec::with_capacity(rows.len() * width);
    let mut indices: Vec<i32> = Vec::with_capacity(rows.len() * width);
    for codes in &codes {
        values.extend(codes.iter().map(|(_, value)| *value));
        values.extend(std::iter::repeat_n(0.0, width - codes.len()));
        indices.extend(codes.iter().map(|(latent, _)| *latent as i32));
        let others = (0..latents as u32).filter(|l| codes.iter().all(|(latent, _)| latent != l));
        indices.extend(others.take(width - codes.len()).map(|l| l as i32));
    }
    let (shape, device) = ([rows.len(), width], like.device());
    SparseCodes {
        values: Tensor::from_data(TensorData::new(values, shape), &device),
        indices: Tensor::<2, Int>::from_data(TensorData::new(indices, shape), &device),
    }
}

/// The gradients of `factor · Σ |residual|²` in the atoms `[F, d]`, which they come from, and in the rows' starts, summed, `[d]`. Which
/// atom a step takes is a constant; with r the residual before it and g the gradient after it, the value's gradient is
/// dv = −⟨g, atom⟩, the atom's −v·g + dv·r, and g gains dv·atom. Fitted values are where the loss is least, so with
/// `refit` their own change counts nothing.
pub(crate) fn gradient(
    rows: &[Row],
    atoms: &Tensor<2>,
    refit: bool,
    factor: f32,
) -> (Tensor<2>, Tensor<1>) {
    /// Rows whose steps' gradients exist at one time.
    const ROWS: usize = 128;
    /// Latents that one task adds up.
    const LATENTS: usize = 512;
    let ([latents, d], device) = (atoms.dims(), atoms.device());
    let host = floats(atoms.clone());
    let of = Atoms { rows: &host, d };
    let mut to_atoms = vec![0.0f32; latents * d];
    let mut to_starts = vec![0.0f32; d];
    for rows in rows.chunks(ROWS) {
        let parts: Vec<(Vec<f32>, Vec<f32>)> = rows
            .par_iter()
            .map(|row| back(row, &of, refit, factor))
            .collect();
        let each = to_atoms.par_chunks_mut(LATENTS * d).enumerate();
        each.for_each(|(task, sums)| {
            let mine = (task * LATENTS) as u32..((task + 1) * LATENTS) as u32;
            for (row, (steps, _)) in rows.iter().zip(&parts) {
                for ((latent, _), part) in row.steps.iter().zip(steps.chunks(d)) {
                    if mine.contains(latent) {
                        let at = (latent - mine.start) as usize * d;
                        subtract(&mut sums[at..at + d], -1.0, part);
                    }
                }
            }
        });
        for (_, start) in &parts {
            subtract(&mut to_starts, -1.0, start);
        }
    }
    (
        Tensor::from_data(TensorData::new(to_atoms, [latents, d]), &device),
        Tensor::from_data(TensorData::new(to_starts, [d]), &device),
    )
}

/// Gradients of one row: of each step's atom `[steps, d]`, and of the start `[d]`.
fn back(row: &Row, atoms: &Atoms<'_>, refit: bool, factor: f32) -> (Vec<f32>, Vec<f32>) {
    let d = atoms.d;
    let mut g: Vec<f32> = row.residual.iter().map(|r| 2.0 * factor * r).collect();
    let mut r = row.residual.clone();
    let mut out = vec![0.0f32; row.steps.len() * d];
    for ((latent, value), part) in row.steps.iter().zip(out.chunks_mut(d)).rev() {
        let atom = atoms.row(*latent);
        if refit {
            subtract(part, *value, &g);
            continue;
        }
        let dv = -dot(&g, atom) as f32;
        subtract(&mut r, -value, atom);
        subtract(part, *value, &g);
        subtract(part, -dv, &r);
        subtract(&mut g, -dv, atom);
    }
    (out, g)
}

#[cfg(test)]
mod tests;
