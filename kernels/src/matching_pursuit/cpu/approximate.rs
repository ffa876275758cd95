//! Approximate correlations of atoms with rows, and among each other: what every approximation
//! offers.

use std::any::Any;

use crate::host::prefetch_far;
use crate::norms::Norms;

/// Numbers of the Gram matrix between asking for them and needing them: a page, beyond which the
/// processor asks for nothing.
pub(super) const AHEAD: usize = 2048;

/// What the largest product of two approximate atoms that there can be is in the 16 bits of the
/// Gram matrix.
pub(super) const MOST: f32 = 32_000.0;

/// Atoms as approximate correlations have them.
pub(super) trait Approximate: Sync {
    /// Rows that are best scored together, by one thread.
    fn tile(&self) -> usize;

    /// Correlations of a row, with what stands behind the last.
    fn padded(&self) -> usize;

    /// What bounds the errors of correlations.
    fn bounds(&self) -> &Bounds;

    /// Correlations of rows `[n, d]`, written to `[n, padded]`; `tell` hears of each row what its
    /// approximation misses, None if it has none.
    fn scores(&self, x: &[f32], scores: &mut [f32], tell: &mut dyn FnMut(usize, Option<&[f32]>));

    /// Asks for what [`Self::sharpen`] needs of an atom.
    fn fetch(&self, atom: u32);

    /// `missing −= change · what the approximation of the atom misses`. Returns the sum of squares
    /// that is left.
    fn miss(&self, atom: u32, change: f32, exact: &[f32], missing: &mut [f32]) -> f32;

    /// All correlations among atoms, made when they are first asked for.
    fn gram(&self) -> &Gram;

    /// The pursuit has ended: whatever may serve the next is kept.
    fn keep(self: Box<Self>);

    /// Leaves those atoms in `found` for which a sharper correlation with `asked.residual` does not
    /// rule out that the exact one reaches the limit.
    fn sharpen(&self, asked: &Asked<'_>, found: &mut Vec<u32>, scratch: &mut Sharp);
}

/// Norms of atoms and of what the approximation misses of them.
#[derive(Default)]
pub(super) struct Bounds {
    pub approximate: Vec<f32>, // [F]
    error: Vec<f32>,           // [F]
    /// The largest of each.
    pub most: Norms,
}

impl Bounds {
    pub fn push(&mut self, norms: Norms) {
        self.approximate.push(norms.approximate);
        self.error.push(norms.error);
        self.most.approximate = self.most.approximate.max(norms.approximate);
        self.most.error = self.most.error.max(norms.error);
    }

    pub fn len(&self) -> usize {
        self.error.len()
    }

    pub fn mean_error(&self) -> f32 {
        self.error.iter().sum::<f32>() / self.error.len() as f32
    }

    /// The approximation is the same, but not what it approximates.
    pub fn set_errors(&mut self, errors: Vec<f32>) {
        self.most.error = errors.iter().copied().fold(0.0, f32::max);
        self.error = errors;
    }

    pub fn of(&self, atom: u32) -> Norms {
        Norms {
            approximate: self.approximate[atom as usize],
            error: self.error[atom as usize],
        }
    }
}

/// How far an approximate correlation may be from the exact one:
/// `missing · |D'_j| + norm · |D_j − D'_j| + slack`.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    pub missing: f32,
    pub norm: f32,
    pub slack: f32,
}

impl Reach {
    pub fn of(&self, norms: Norms) -> f32 {
        self.missing * norms.approximate + self.norm * norms.error + self.slack
    }
}

/// What a row asks of atoms.
pub(super) struct Asked<'a> {
    pub residual: &'a [f32],
    /// Of correlations with the residual itself: nothing is missing of it.
    pub reach: Reach,
    /// What must be reached, by magnitude if `signed`.
    pub limit: f32,
    pub signed: bool,
}

/// Room for a row in integers, of whatever type: the first and the second.
#[derive(Default)]
pub(super) struct Sharp(Option<Box<dyn Any + Send>>);

impl Sharp {
    #[cfg(target_arch = "x86_64")]
    pub fn columns<C: Copy + Default + Send + 'static>(&mut self, width: usize) -> [&mut [C]; 2] {
        let held = self
            .0
            .take()
            .and_then(|held| held.downcast::<[Vec<C>; 2]>().ok());
        let held: &mut Box<dyn Any + Send> = self.0.insert(held.unwrap_or_default());
        let columns: &mut [Vec<C>; 2] = held.downcast_mut().expect("just put there");
        columns.each_mut().map(|column| {
            column.resize(width, C::default());
            &mut column[..]
        })
    }
}

/// Correlations among atoms in 16 bits.
#[derive(Default)]
pub(super) struct Gram {
    pub numbers: Vec<i16>, // [F, padded]
    pub padded: usize,
    /// What a 1 is.
    pub unit: f32,
    /// At least how far a number may be from the product of the approximate atoms.
    pub error: f32,
}

impl Gram {
    pub fn row(&self, atom: u32) -> &[i16] {
        &self.numbers[atom as usize * self.padded..][..self.padded]
    }

    /// Asks for the beginning of a row.
    pub fn fetch(&self, atom: u32) {
        prefetch_far(&self.row(atom)[..AHEAD.min(self.padded)]);
    }
}
