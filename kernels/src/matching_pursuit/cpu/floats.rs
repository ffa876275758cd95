//! Correlations in f32, in which only the order of summation differs.

use rayon::prelude::*;
use std::sync::OnceLock;

use super::approximate::{Approximate, Asked, Bounds, Gram, MOST, Sharp};
use crate::forward_pass::product::{Matrix, product};
use crate::norms::{Norms, norms, rounding};

/// f32, in which only the order of summation differs.
pub(super) struct Floats<'a> {
    atoms: &'a [f32],
    d: usize,
    bounds: Bounds,
    gram: OnceLock<Gram>,
}

impl<'a> Floats<'a> {
    pub fn new(atoms: &'a [f32], d: usize) -> Option<Self> {
        let norms: Option<Vec<Norms>> = atoms.par_chunks_exact(d).map(norms).collect();
        let mut bounds = Bounds::default();
        norms?.into_iter().for_each(|norms| bounds.push(norms));
        Some(Self {
            atoms,
            d,
            bounds,
            gram: OnceLock::new(),
        })
    }

    fn new_gram(&self) -> Gram {
        const ROWS: usize = 128;
        let (d, padded) = (self.d, self.padded());
        let unit = self.bounds.most.approximate.powi(2).max(f32::MIN_POSITIVE) / MOST;
        let mut numbers = vec![0i16; padded * padded];
        numbers
            .par_chunks_mut(ROWS * padded)
            .zip(self.atoms.par_chunks(ROWS * d))
            .for_each_init(
                || vec![0.0f32; ROWS * padded],
                |scratch, (numbers, rows)| {
                    let scratch = &mut scratch[..numbers.len()];
                    self.products(rows, scratch);
                    for (number, exact) in numbers.iter_mut().zip(scratch) {
                        *number = (*exact / unit).round() as i16;
                    }
                },
            );
        Gram {
            numbers,
            padded,
            unit,
            error: 0.51 * unit + rounding(d) * self.bounds.most.whole().powi(2),
        }
    }

    fn products(&self, x: &[f32], out: &mut [f32]) {
        let (d, latents) = (self.d, self.padded());
        let rows_of = |data| Matrix {
            data,
            row: d,
            column: 1,
        };
        let (x_rows, atoms) = (rows_of(x), rows_of(self.atoms).transposed());
        product(x_rows, atoms, [x.len() / d, d, latents], out, latents);
    }
}

impl Approximate for Floats<'_> {
    fn tile(&self) -> usize {
        256
    }

    fn padded(&self) -> usize {
        self.atoms.len() / self.d
    }

    fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    fn scores(&self, x: &[f32], scores: &mut [f32], tell: &mut dyn FnMut(usize, Option<&[f32]>)) {
        self.products(x, scores);
        let nothing = vec![0.0; self.d];
        for (row, x) in x.chunks_exact(self.d).enumerate() {
            tell(row, norms(x).map(|_| &nothing[..]));
        }
    }

    fn fetch(&self, _atom: u32) {}

    fn miss(&self, _atom: u32, _change: f32, _exact: &[f32], _missing: &mut [f32]) -> f32 {
        0.0
    }

    fn keep(self: Box<Self>) {}

    fn gram(&self) -> &Gram {
        self.gram.get_or_init(|| self.new_gram())
    }

    fn sharpen(&self, _asked: &Asked<'_>, _found: &mut Vec<u32>, _scratch: &mut Sharp) {}
}
