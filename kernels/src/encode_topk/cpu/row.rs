//! What a row of inputs still wants while the latents are gone through, exact score by exact score.

use super::Encoder;
use super::exact::score;
use super::scored::{Scored, keep_best};

/// A row of inputs that takes in exactly scored latents, and says which are worth scoring.
pub(super) trait Row: Send + Sync {
    /// A latent whose score, less its threshold, surely lies below this need not be scored.
    fn floor(&self) -> f32;

    /// Takes in a latent's exact score.
    fn take(&mut self, score: f32, latent: u32);

    /// Bounds say nothing of this row (it holds numbers beyond any bound): it will be scored for
    /// all latents in the end, so none need be offered.
    fn give_up(&mut self);

    /// An empty row of the same kind, for another part of the latents.
    fn afresh(&self) -> Self;

    /// Takes in what another part of the latents gave.
    fn take_over(&mut self, other: Self);

    /// Whether nothing more need be offered.
    #[inline]
    fn wants_nothing(&self) -> bool {
        self.floor() == f32::INFINITY
    }
}

/// The `k ≥ 1` best latents of a row so far.
#[derive(Debug)]
pub(super) struct Best {
    /// Up to `room` of them, in no order.
    scored: Vec<Scored>,
    room: usize,
    k: usize,
    floor: f32,
}

impl Best {
    pub fn new(k: usize) -> Self {
        Self::guessing(k, f32::NEG_INFINITY)
    }

    /// Starts with a floor that is only guessed: whether `k` latents reach it must be asked of the
    /// result.
    pub fn guessing(k: usize, floor: f32) -> Self {
        // A cut looks at all of them, and raises the floor.
        let room = k + k / 4 + 8;
        Self {
            scored: Vec::with_capacity(room),
            room,
            k,
            floor,
        }
    }

    /// Writes the row's best `[k]`, best first; fewer only where a floor was guessed too high.
    pub fn finish(mut self, x: &[f32], encoder: Encoder<'_>, best: &mut [Scored]) {
        if self.wants_nothing() {
            self = Self::new(self.k);
            score_all(&mut self, x, encoder);
        }
        keep_best(&mut self.scored, self.k);
        self.scored.sort_unstable_by(|a, b| b.cmp(a));
        best[..self.scored.len()].copy_from_slice(&self.scored);
    }
}

impl Row for Best {
    #[inline]
    fn floor(&self) -> f32 {
        self.floor
    }

    #[inline]
    fn take(&mut self, score: f32, latent: u32) {
        self.scored.push(Scored::new(score, latent));
        if self.scored.len() == self.room {
            keep_best(&mut self.scored, self.k);
            self.floor = self.floor.max(self.scored[self.k - 1].value());
        }
    }

    fn give_up(&mut self) {
        self.floor = f32::INFINITY;
    }

    fn afresh(&self) -> Self {
        Self::guessing(self.k, self.floor)
    }

    fn take_over(&mut self, other: Self) {
        self.floor = self.floor.max(other.floor);
        for scored in other.scored {
            self.take(scored.value(), scored.latent() as u32);
        }
    }
}

/// The latents of a row that exceed their own thresholds.
#[derive(Debug)]
pub(super) struct Above<'a> {
    scored: Vec<Scored>,
    threshold: &'a [f32], // [F]
    given_up: bool,
}

impl<'a> Above<'a> {
    pub fn new(threshold: &'a [f32]) -> Self {
        Self {
            scored: Vec::new(),
            threshold,
            given_up: false,
        }
    }

    /// The row's latents, best first.
    pub fn finish(mut self, x: &[f32], encoder: Encoder<'_>) -> Vec<Scored> {
        if self.given_up {
            self = self.afresh();
            score_all(&mut self, x, encoder);
        }
        self.scored.sort_unstable_by(|a, b| b.cmp(a));
        self.scored
    }
}

impl Row for Above<'_> {
    #[inline]
    fn floor(&self) -> f32 {
        if self.given_up { f32::INFINITY } else { 0.0 }
    }

    #[inline]
    fn take(&mut self, score: f32, latent: u32) {
        if score > self.threshold[latent as usize] {
            self.scored.push(Scored::new(score, latent));
        }
    }

    fn give_up(&mut self) {
        self.given_up = true;
    }

    fn afresh(&self) -> Self {
        Self::new(self.threshold)
    }

    fn take_over(&mut self, other: Self) {
        self.given_up |= other.given_up;
        self.scored.extend(other.scored);
    }
}

/// Takes in every latent.
pub(super) fn score_all<R: Row>(row: &mut R, x: &[f32], encoder: Encoder<'_>) {
    let weights = encoder.w_enc.chunks_exact(encoder.d);
    for (latent, (w, bias)) in (0u32..).zip(weights.zip(encoder.latents.bias)) {
        row.take(score(x, w, *bias), latent);
    }
}
