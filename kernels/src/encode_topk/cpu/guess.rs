//! What a row's `k`th score will be at least, in nearly all rows. Nothing but time depends on it.

use std::sync::{Arc, Mutex};

use super::{Encoder, Scored, TELLING};

/// Guesses that are kept: more than there are sizes that one coder encodes with in turn.
const KEPT: usize = 8;

/// The last guesses for one set of weights, which training changes little in a step; the newest
/// last. Clones share them. Should other weights be encoded with them, one call takes longer.
#[derive(Clone, Default)]
pub(crate) struct Guesses(Arc<Mutex<Vec<(Sizes, f32)>>>);

/// What a guess is for: the same weights are encoded with other `k`, and so are parts of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes([usize; 3]);

impl Sizes {
    pub fn new(encoder: Encoder<'_>, k: usize) -> Self {
        let Encoder { w_enc, d, .. } = encoder;
        Self([w_enc.len(), d, k])
    }
}

impl Guesses {
    /// The last guess.
    pub(super) fn of(&self, sizes: &Sizes) -> Option<f32> {
        let last = self.0.lock().ok()?;
        let guess = last.iter().find(|(of, _)| of == sizes);
        guess.map(|(_, guess)| *guess)
    }

    /// What to expect next time; nothing, where that is not a number.
    pub(super) fn expect(&self, sizes: Sizes, guess: f32) {
        let Ok(mut last) = self.0.lock() else { return };
        last.retain(|(of, _)| *of != sizes);
        if guess.is_finite() {
            last.push((sizes, guess));
            let old = last.len().saturating_sub(KEPT);
            last.drain(..old);
        }
    }
}

/// One row in so many may lie below its guess, where there are enough rows to tell: it is done
/// again, and what the others save is more.
const BELOW: usize = 200;

/// A unit of norm, from the best `k` of each row and the rows' norms.
pub(super) fn from(best: &[Scored], norms: &[Option<f32>], k: usize) -> f32 {
    let mut reached: Vec<f32> = best
        .chunks_exact(k)
        .zip(norms)
        .filter_map(|(best, norm)| Some(best[k - 1].value() / (*norm)?))
        .filter(|reached| reached.is_finite())
        .collect();
    // In activations of models, the scores of rows spread far and unevenly.
    if reached.len() >= TELLING {
        let below = reached.len() / BELOW;
        return *reached.select_nth_unstable_by(below, f32::total_cmp).1;
    }
    let count = reached.len() as f32;
    let mean = reached.iter().sum::<f32>() / count;
    let variance = reached.iter().map(|r| (r - mean).powi(2)).sum::<f32>() / (count - 1.0);
    // Were they normal, one row in two thousand would lie below.
    mean - 3.4 * variance.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_in_two_hundred_of_many_lies_below_the_guess() {
        let scored = |value: f32| Scored::new(value, 0);
        // Scores are 1 to 1000 in some order, of rows of norm 2.
        let best: Vec<Scored> = (0..1000)
            .map(|at| scored((at * 7 % 1000 + 1) as f32))
            .collect();
        let norms = vec![Some(2.0); 1000];
        assert_eq!(from(&best, &norms, 1), 3.0);
        // The guess from only a few rows is lower than all of them.
        let guess = from(&best[..32], &norms[..32], 1);
        assert!(best[..32].iter().all(|best| best.value() / 2.0 > guess));
    }

    #[test]
    fn the_last_guesses_are_kept_each_for_its_sizes() {
        let guesses = Guesses::default();
        let shared = guesses.clone();
        let sizes = |k| Sizes([640, 64, k]);
        (0..=KEPT).for_each(|k| guesses.expect(sizes(k), k as f32));
        assert_eq!(shared.of(&sizes(0)), None); // one too many
        assert_eq!(shared.of(&sizes(1)), Some(1.0));
        shared.expect(sizes(1), 0.5);
        guesses.expect(sizes(100), 100.0);
        assert_eq!(guesses.of(&sizes(1)), Some(0.5)); // renewed, so the second went
        assert_eq!(guesses.of(&sizes(2)), None);
        guesses.expect(sizes(1), f32::NAN);
        assert_eq!(shared.of(&sizes(1)), None);
    }
}
