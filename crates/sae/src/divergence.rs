//! When a coder has diverged, so that it starts anew with half the learning rate. The weights of a
//! coder that has diverged are of no use: nearly all of its latents are dead, and a lower rate does
//! not bring them back.

/// Number of steps between two looks at the FVU. Each waits for the device.
const STEPS_BETWEEN_LOOKS: u64 = 10;
/// The FVU of a coder that has diverged is above this. With dead latents alone it is 1.
const DIVERGED: f64 = 1.5;
/// The FVU of a coder that has not.
const SOUND: f64 = 1.0;
/// So many looks in a row must find that. A single bad batch is none of the learning rate's fault.
const LOOKS: u64 = 3;
/// A coder starts anew at most so many times.
const MOST_RESTARTS: u64 = 8;

/// What was seen of a coder's FVU so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Divergence {
    /// Whether the FVU was sound since the coder started.
    pub(crate) was_sound: bool,
    /// The number of the last looks, in a row, that found a coder that had diverged.
    pub(crate) high: u64,
    /// How many times the coder started anew.
    pub(crate) restarts: u64,
    /// The step at which it last did.
    pub(crate) started: u64,
}

impl Divergence {
    /// What the learning rate is multiplied by.
    pub(crate) fn lr_factor(&self) -> f64 {
        0.5_f64.powi(self.restarts as i32)
    }

    /// Whether the FVU of `step` (from 0) of `steps` is looked at.
    pub(crate) const fn looks_at(&self, step: u64, steps: u64) -> bool {
        let since = step - self.started;
        let is_due = since == 0 || (since + 1).is_multiple_of(STEPS_BETWEEN_LOOKS);
        is_due && step < steps / 2 && self.restarts < MOST_RESTARTS
    }

    /// Whether the coder is to start anew after `step` (from 0), whose FVU was `fvu`.
    pub(crate) fn observe(&mut self, fvu: f64, step: u64) -> bool {
        self.was_sound |= fvu < SOUND;
        // A run with a loss that is not finite ends with an error.
        self.high = match self.was_sound && fvu > DIVERGED && fvu.is_finite() {
            true => self.high + 1,
            false => 0,
        };
        if self.high < LOOKS {
            return false;
        }
        *self = Self {
            was_sound: false,
            high: 0,
            restarts: self.restarts + 1,
            started: step + 1,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The looks that make a coder start anew.
    fn restarts(fvus: &[f64]) -> Vec<usize> {
        let mut divergence = Divergence::default();
        let looks = fvus.iter().enumerate();
        looks
            .filter(|(look, fvu)| divergence.observe(**fvu, *look as u64))
            .map(|(look, _)| look)
            .collect()
    }

    #[test]
    fn three_looks_in_a_row_are_needed_after_a_sound_one() {
        assert_eq!(restarts(&[0.5, 3.0, 9.0, 2.1, 0.4]), [3]);
        assert_eq!(restarts(&[0.5, 3.0, 9.0, 1.4, 2.1, 2.1, 2.1]), [6]);
        assert_eq!(restarts(&[0.5, f64::NAN, f64::NAN, f64::NAN]), [0; 0]);
        assert_eq!(
            restarts(&[0.5, f64::INFINITY, f64::INFINITY, f64::INFINITY]),
            [0; 0]
        );
        assert_eq!(restarts(&[1.2, 3.0, 9.0, 9.0, 9.0]), [0; 0]);
        // A new start counts anew.
        assert_eq!(
            restarts(&[0.5, 3.0, 3.0, 3.0, 3.0, 0.5, 3.0, 3.0, 3.0]),
            [3, 8]
        );
    }

    #[test]
    fn looks_are_in_the_first_half_count_from_the_start_and_end() {
        let mut divergence = Divergence::default();
        let looks = |d: &Divergence| (d.started..100).filter(|s| d.looks_at(*s, 100)).collect();
        let found: Vec<u64> = looks(&divergence);
        assert_eq!(found, [0, 9, 19, 29, 39, 49]);
        divergence.started = 33;
        let found: Vec<u64> = looks(&divergence);
        assert_eq!(found, [33, 42]);
        divergence.restarts = MOST_RESTARTS;
        assert_eq!(divergence.lr_factor(), 1.0 / 256.0);
        let found: Vec<u64> = looks(&divergence);
        assert!(found.is_empty());
    }
}
