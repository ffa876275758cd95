//! Matching pursuit on the CPU. Each row is exact: what a step takes away, and which atom, is
//! decided by f32 dot products of one definition. Which atoms need one is found from approximate
//! correlations with a bound on their error, so nearly always a handful of atoms a step are scored.
//!
//! With x' the approximate row and D' the approximate atoms, approximate correlations are those of
//! r' = x' − Σ v·D'_j with D', which rows of the Gram matrix of D' keep up to date. So ⟨r, D_j⟩ −
//! ⟨r', D'_j⟩ = ⟨r − r', D'_j⟩ + ⟨r, D_j − D'_j⟩, at most |r − r'||D'_j| + |r||D_j − D'_j|: r − r'
//! is kept as a vector, and the errors of atoms do not add up but by it.

mod approximate;
mod choice;
mod floats;
mod gradient;
#[cfg(target_arch = "x86_64")]
mod gram;
#[cfg(target_arch = "x86_64")]
mod integers;
#[cfg(target_arch = "x86_64")]
mod kept;
mod maxima;
mod refit;
mod row;

use burn::backend::Flex;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{MatchingPursuit, Pursuit};
use crate::EncoderState;
use crate::host::{
    Level, contiguous, contiguous_i32, dims2, float_tensor, floats, indices, int_tensor,
    prefetch_far,
};
use approximate::{Approximate, Gram, Sharp};
#[cfg(target_arch = "x86_64")]
pub(crate) use kept::Kept;
use maxima::{Scores, maxima, subtract, top};
use row::{Running, Search};

/// Largest Gram matrix, in numbers.
const GRAM: usize = 1 << 26;

/// Rows that go on in turn: while one is scored, the part of the Gram matrix that another needs is
/// fetched.
const TOGETHER: usize = 4;

impl MatchingPursuit for Flex {
    fn pursue(
        x: FlexTensor,
        atoms: FlexTensor,
        k: usize,
        how: Pursuit,
        state: &EncoderState,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let ([n, d], [_, _]) = (dims2(&x), dims2(&atoms));
        let (x, atoms) = (contiguous(x), contiguous(atoms));
        let all = Pursuing {
            atoms: floats(&atoms),
            d,
            k,
            how,
            level: Level::here(),
            state,
        };
        let (taken, values, residual) = all.run(floats(&x), Way::Best);
        (
            int_tensor(taken, [n, k]),
            float_tensor(values, [n, k]),
            float_tensor(residual, [n, d]),
        )
    }

    fn pursuit_gradient(
        taken: FlexTensor,
        values: FlexTensor,
        residual: FlexTensor,
        atoms: FlexTensor,
        refit: bool,
        factor: f32,
    ) -> (FlexTensor, FlexTensor) {
        let [latents, d] = dims2(&atoms);
        let (taken, values) = (contiguous_i32(taken), contiguous(values));
        let (residual, atoms) = (contiguous(residual), contiguous(atoms));
        let (to_atoms, to_starts) = gradient::gradient(
            indices(&taken),
            floats(&values),
            floats(&residual),
            floats(&atoms),
            [latents, d],
            refit,
            factor,
        );
        (
            float_tensor(to_atoms, [latents, d]),
            float_tensor(to_starts, [d]),
        )
    }
}

/// How approximate correlations come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Whichever of the next two is less work.
    Best,
    /// Updated by rows of the atoms' Gram matrix.
    Gram,
    /// Made anew each step.
    #[cfg(test)]
    Anew,
    /// Not at all: every atom is scored exactly.
    #[cfg(test)]
    Exact,
}

/// A pursuit of many rows.
pub(super) struct Pursuing<'a> {
    pub atoms: &'a [f32], // [F, d]
    pub d: usize,
    pub k: usize,
    pub how: Pursuit,
    pub level: Level,
    pub state: &'a EncoderState,
}

impl Pursuing<'_> {
    /// Atoms `[n, k]`, values `[n, k]` and residuals `[n, d]`.
    fn run(&self, x: &[f32], way: Way) -> (Vec<i32>, Vec<f32>, Vec<f32>) {
        let (d, k) = (self.d, self.k);
        let n = x.len().checked_div(d).unwrap_or(0);
        let mut taken = vec![-1i32; n * k];
        let mut values = vec![0.0f32; n * k];
        let mut residual = x.to_vec();
        if n == 0 || k == 0 {
            return (taken, values, residual);
        }
        let latents = self.atoms.len() / d;
        let gram = match way {
            Way::Best => latents * latents <= GRAM && latents <= k * n,
            way => way == Way::Gram,
        };
        let known = match way {
            #[cfg(test)]
            Way::Exact => None,
            _ => choice::of(self, n),
        };
        let gram = known.as_ref().filter(|_| gram).map(|known| known.gram());
        let most = known.as_ref().map_or(TOGETHER, |known| known.tile());
        let tile = n.div_ceil(rayon::current_num_threads()).clamp(1, most);
        residual
            .par_chunks_mut(tile * d)
            .zip(x.par_chunks(tile * d))
            .zip(
                taken
                    .par_chunks_mut(tile * k)
                    .zip(values.par_chunks_mut(tile * k)),
            )
            .for_each_init(Room::default, |room, ((residual, x), (taken, values))| {
                let mut rows: Vec<Running<'_>> = x
                    .chunks_exact(d)
                    .zip(residual.chunks_exact_mut(d))
                    .map(|(start, residual)| Running::new(start, residual))
                    .collect();
                match (&known, gram) {
                    (None, _) => self.exactly(&mut rows, room),
                    (Some(known), Some(gram)) => {
                        self.by_gram(&mut rows, x, known.as_ref(), gram, room);
                    }
                    (Some(known), None) => self.anew(&mut rows, known.as_ref(), room),
                }
                let steps = taken.chunks_exact_mut(k).zip(values.chunks_exact_mut(k));
                for (row, (taken, values)) in rows.iter().zip(steps) {
                    for ((atom, value), (latent, v)) in taken.iter_mut().zip(values).zip(&row.steps)
                    {
                        (*atom, *value) = (*latent as i32, *v);
                    }
                }
            });
        if let Some(known) = known {
            known.keep();
        }
        (taken, values, residual)
    }

    fn exactly(&self, rows: &mut [Running<'_>], room: &mut Room) {
        for row in rows {
            while row.goes_on(self) {
                room.search.give_up();
                row.take(self, &mut room.search);
            }
        }
    }

    /// Correlations are made once, and updated by rows of the Gram matrix.
    fn by_gram(
        &self,
        rows: &mut [Running<'_>],
        x: &[f32],
        known: &dyn Approximate,
        gram: &Gram,
        room: &mut Room,
    ) {
        let (latents, width) = (self.atoms.len() / self.d, known.padded());
        let Room { scores, sharp, .. } = room;
        scores.resize(rows.len() * width, 0.0);
        known.scores(x, scores, &mut |row, missing| {
            rows[row].begin(missing, known, self)
        });
        let groups = rows
            .chunks_mut(TOGETHER)
            .zip(scores.chunks_mut(TOGETHER * width));
        for (rows, scores) in groups {
            let mut under_way: Vec<Under<'_, '_>> = rows
                .iter_mut()
                .zip(scores.chunks_exact_mut(width))
                .map(|(row, scores)| Under::new(row, &mut scores[..latents], self))
                .collect();
            for _ in 0..self.k {
                for under in &mut under_way {
                    under.seek(known, self);
                }
                for under in &mut under_way {
                    under.row.sharpen(self, known, &mut under.search, sharp);
                }
                for under in &mut under_way {
                    under.take(known, gram, self);
                }
                for under in &mut under_way {
                    under.follow(gram, self);
                }
                if under_way.iter().all(|under| !under.row.goes_on(self)) {
                    break;
                }
            }
        }
    }

    /// Correlations are made anew each step.
    fn anew(&self, rows: &mut [Running<'_>], known: &dyn Approximate, room: &mut Room) {
        let (latents, width) = (self.atoms.len() / self.d, known.padded());
        let Room {
            scores,
            search,
            sharp,
        } = room;
        scores.resize(rows.len() * width, 0.0);
        let mut left = vec![0.0f32; rows.len() * self.d];
        for _ in 0..self.k {
            for (left, row) in left.chunks_exact_mut(self.d).zip(&*rows) {
                left.copy_from_slice(row.residual);
            }
            known.scores(&left, scores, &mut |row, missing| {
                rows[row].begin(missing, known, self)
            });
            for (row, scores) in rows.iter_mut().zip(scores.chunks_exact(width)) {
                if row.goes_on(self) {
                    let scores = &scores[..latents];
                    let highest = maxima(scores, self.how.signed);
                    let now = Scores {
                        known,
                        scores,
                        highest: &highest,
                        top: top(self.level, scores, &highest, self.how.signed),
                    };
                    row.seek(self, &now, search);
                    row.sharpen(self, known, search, sharp);
                    row.take(self, search);
                }
            }
            if rows.iter().all(|row| !row.goes_on(self)) {
                break;
            }
        }
    }

    fn atom(&self, latent: u32) -> &[f32] {
        let at = latent as usize * self.d;
        &self.atoms[at..at + self.d]
    }
}

/// Room for what a thread works on.
#[derive(Default)]
struct Room {
    scores: Vec<f32>, // [rows, padded]
    search: Search,
    sharp: Sharp,
}

/// A row whose correlations are kept up to date.
struct Under<'a, 'b> {
    row: &'a mut Running<'b>,
    scores: &'a mut [f32], // [F]
    /// See [`maxima`].
    highest: Vec<f32>,
    top: Option<u32>,
    search: Search,
    changes: Vec<(u32, f32)>,
}

impl<'a, 'b> Under<'a, 'b> {
    fn new(row: &'a mut Running<'b>, scores: &'a mut [f32], all: &Pursuing<'_>) -> Self {
        let highest = maxima(scores, all.how.signed);
        let mut under = Self {
            row,
            scores,
            highest,
            top: None,
            search: Search::default(),
            changes: vec![],
        };
        under.look(all);
        under
    }

    /// Finds the largest correlation, and asks for its atom.
    fn look(&mut self, all: &Pursuing<'_>) {
        self.top = top(all.level, self.scores, &self.highest, all.how.signed);
        if let Some(top) = self.top {
            prefetch_far(all.atom(top));
        }
    }

    fn seek(&mut self, known: &dyn Approximate, all: &Pursuing<'_>) {
        self.search.give_up();
        if self.row.goes_on(all) {
            let now = Scores {
                known,
                scores: self.scores,
                highest: &self.highest,
                top: self.top,
            };
            self.row.seek(all, &now, &mut self.search);
        }
    }

    fn take(&mut self, known: &dyn Approximate, gram: &Gram, all: &Pursuing<'_>) {
        self.changes.clear();
        if !self.row.goes_on(all) {
            return;
        }
        let changes = self.row.take(all, &mut self.search);
        if self.row.goes_on(all) {
            changes.iter().for_each(|(atom, _)| gram.fetch(*atom));
            self.row.drift(&changes, known, all, gram.error);
            self.changes = changes;
        }
    }

    /// Correlations follow the changes of the last step.
    fn follow(&mut self, gram: &Gram, all: &Pursuing<'_>) {
        if self.changes.is_empty() {
            return;
        }
        for &(atom, change) in &self.changes {
            let row = &gram.row(atom)[..self.scores.len()];
            subtract(
                all.level,
                self.scores,
                change * gram.unit,
                row,
                &mut self.highest,
                all.how.signed,
            );
        }
        self.look(all);
    }
}

#[cfg(test)]
mod tests;
