//! A row under way: its exact steps, and what is known of the error of its approximate
//! correlations.

use super::Pursuing;
use super::approximate::{Approximate, Asked, Reach, Sharp};
use super::maxima::{Scores, reaching};
use super::refit::refit;
use crate::host::{dot, prefetch_far, widest_vectors};
use crate::norms::{SUMS, norms, rounding};

/// A row under way.
pub(super) struct Running<'a> {
    start: &'a [f32],
    pub residual: &'a mut [f32],
    pub steps: Vec<(u32, f32)>,
    done: bool,
    /// None where correlations say nothing of the row: numbers beyond any bound.
    drift: Option<Drift>,
}

/// How far approximate correlations can be from the exact ones.
struct Drift {
    /// What the approximate residual misses of the residual.
    missing: Vec<f32>,
    /// At least its norm.
    missing_norm: f32,
    /// At least the norm of the residual.
    norm: f32,
    /// At least the norm of all that was added up so far.
    reach: f32,
    /// What rounding may have done to correlations.
    slack: f32,
}

impl Drift {
    /// Whether it says anything: correlations stay far below what slack may be, so none is infinite
    /// or NaN.
    fn bounds(&self) -> bool {
        self.slack < 1e30 && self.reach < 1e30
    }
}

/// The search for the atom of a step. Its parts are apart, so that what one needs is fetched while
/// other rows have theirs.
#[derive(Default)]
pub(super) struct Search {
    best: Best,
    reach: Option<Reach>,
    found: Vec<u32>,
}

impl Search {
    /// Nothing is known, so that all atoms will be scored.
    pub fn give_up(&mut self) {
        self.best = Best::default();
        self.reach = None;
        self.found.clear();
    }
}

/// What a step of f32 arithmetic may take from a sum of this size, many times over.
const STEP: f32 = 8.0 * f32::EPSILON;

impl<'a> Running<'a> {
    /// `residual` is a copy of `start`.
    pub fn new(start: &'a [f32], residual: &'a mut [f32]) -> Self {
        Self {
            start,
            residual,
            steps: Vec::new(),
            done: false,
            drift: None,
        }
    }

    pub fn goes_on(&self, all: &Pursuing<'_>) -> bool {
        !self.done && self.steps.len() < all.k
    }

    /// Approximate correlations were made anew, of a row that misses so much of the residual; None
    /// if it has none.
    pub fn begin(&mut self, missing: Option<&[f32]>, known: &dyn Approximate, all: &Pursuing<'_>) {
        self.drift = missing.and_then(|missing| {
            let norm = upper_norm(self.residual)?;
            let most = known.bounds().most;
            let drift = Drift {
                missing: missing.to_vec(),
                missing_norm: upper_norm(missing)?,
                norm,
                reach: norm,
                slack: 2.0 * rounding(all.d) * norm * most.whole()
                    + all.d as f32 * f32::MIN_POSITIVE,
            };
            Some(drift).filter(Drift::bounds)
        });
    }

    /// Approximate correlations will follow these changes of values; `gram_error` is how far a
    /// number of the Gram matrix may be from right.
    pub fn drift(
        &mut self,
        changes: &[(u32, f32)],
        known: &dyn Approximate,
        all: &Pursuing<'_>,
        gram_error: f32,
    ) {
        let most = known.bounds().most.whole();
        self.drift = self.drift.take().and_then(|mut drift| {
            for &(atom, change) in changes {
                let square = known.miss(atom, change, all.atom(atom), &mut drift.missing);
                drift.missing_norm = root(square, &drift.missing)?;
                drift.reach += change.abs() * most;
                drift.slack += change.abs() * (gram_error + STEP * most * most);
                // Each change rounds all sums.
                drift.slack += STEP * drift.reach * most;
            }
            drift.norm = upper_norm(self.residual)?;
            Some(drift).filter(Drift::bounds)
        });
    }

    /// Begins to look for the best atom: the likeliest is scored, so that few others remain, and
    /// those are asked for.
    pub fn seek(&self, all: &Pursuing<'_>, now: &Scores<'_>, search: &mut Search) {
        search.give_up();
        let Some(drift) = &self.drift else { return };
        let (known, bounds) = (now.known, now.known.bounds());
        // A hundredth more, for the rounding of bounds themselves.
        let reach = Reach {
            missing: drift.missing_norm * 1.01,
            norm: drift.norm * 1.01,
            slack: (drift.slack + rounding(all.d) * drift.norm * bounds.most.whole()) * 1.01,
        };
        search.reach = Some(reach);
        if let Some(top) = now.top {
            search.best.offer(top, self.value(top, all), all.how.signed);
        }
        let limit = search.best.size(all.how.signed);
        reaching(
            all.level,
            now,
            all.how.signed,
            reach,
            limit,
            &mut search.found,
        );
        search.found.retain(|atom| Some(*atom) != now.top);
        search.found.iter().for_each(|atom| known.fetch(*atom));
    }

    /// Rules out more atoms, and asks for the rest.
    pub fn sharpen(
        &self,
        all: &Pursuing<'_>,
        known: &dyn Approximate,
        search: &mut Search,
        sharp: &mut Sharp,
    ) {
        let Some(reach) = search.reach.filter(|_| !search.found.is_empty()) else {
            return;
        };
        let asked = Asked {
            residual: self.residual,
            reach,
            limit: search.best.size(all.how.signed),
            signed: all.how.signed,
        };
        known.sharpen(&asked, &mut search.found, sharp);
        for atom in &search.found {
            prefetch_far(all.atom(*atom));
        }
    }

    /// Takes the best atom. Returns by how much which atom's value changed.
    pub fn take(&mut self, all: &Pursuing<'_>, search: &mut Search) -> Vec<(u32, f32)> {
        let Search { best, reach, found } = search;
        match reach {
            Some(_) => {
                for atom in found {
                    best.offer(*atom, self.value(*atom, all), all.how.signed);
                }
            }
            None => *best = self.best_of_all(all),
        }
        let Best {
            atom: latent,
            value,
        } = *best;
        let taken = self.steps.iter().any(|(l, _)| *l == latent);
        // An atom that is fitted already says that nothing is left to gain.
        if value == 0.0 || !value.is_finite() || (all.how.refit && taken) {
            self.done = true;
            return vec![];
        }
        let changes = if all.how.refit {
            let changes = refit(self.start, &mut self.steps, latent, all, all.how.signed);
            self.residual.copy_from_slice(self.start);
            for (latent, value) in &self.steps {
                take_away(self.residual, *value, all.atom(*latent));
            }
            changes
        } else {
            self.steps.push((latent, value));
            take_away(self.residual, value, all.atom(latent));
            vec![(latent, value)]
        };
        let limit = all.how.residual_threshold;
        let small = limit > 0.0 && f64::from(dot(self.residual, self.residual)).sqrt() < limit;
        self.done = small || (all.how.stop_on_duplicate_support && taken);
        changes
    }

    /// The best atom, by the values of all.
    fn best_of_all(&self, all: &Pursuing<'_>) -> Best {
        let mut best = Best::default();
        for (atom, row) in (0u32..).zip(all.atoms.chunks_exact(all.d)) {
            best.offer(atom, dot(row, self.residual), all.how.signed);
        }
        best
    }

    fn value(&self, atom: u32, all: &Pursuing<'_>) -> f32 {
        #[cfg(test)]
        SCORED.with(|scored| scored.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        dot(all.atom(atom), self.residual)
    }
}

#[cfg(test)]
thread_local! {
    /// Atoms that bounds did not rule out, with the best of each step.
    pub(super) static SCORED: std::sync::atomic::AtomicUsize = const { std::sync::atomic::AtomicUsize::new(0) };
}

/// The best atom so far: the largest value, of equal ones the lowest index; value 0 where none has
/// been found.
#[derive(Clone, Copy, Default)]
struct Best {
    atom: u32,
    value: f32,
}

impl Best {
    fn size(&self, signed: bool) -> f32 {
        if signed { self.value.abs() } else { self.value }
    }

    fn offer(&mut self, atom: u32, value: f32, signed: bool) {
        let offered = Self { atom, value };
        let (size, known) = (offered.size(signed), self.size(signed));
        if size > known || (size == known && size > 0.0 && atom < self.atom) {
            *self = offered;
        }
    }
}

/// At least |v|; None if nothing is.
fn upper_norm(v: &[f32]) -> Option<f32> {
    root(dot(v, v), v)
}

/// The same, given the sum of squares.
fn root(square: f32, v: &[f32]) -> Option<f32> {
    // So small or large that squares of numbers may have vanished or be none.
    if square.is_finite() && square > 1e-20 {
        return Some(square.sqrt() * SUMS);
    }
    norms(v).map(|norms| norms.whole())
}

widest_vectors! {
    /// `left −= factor · row`.
    pub(super) fn take_away(left: &mut [f32], factor: f32, row: &[f32]) {
        for (l, r) in left.iter_mut().zip(row) {
            *l -= factor * r;
        }
    }
}
