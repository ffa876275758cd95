//! The weight of a sparsity penalty in a run that asks for a number of active latents
//! (`coder.target_l0`): a controller with a proportional and an integral part multiplies it.

/// How far the error of a step counts: an L0 that is e times the target, or 1/e of it.
const LARGEST_ERROR: f64 = 1.0;
/// Parts of a run, in which an error of 1 would multiply the weight by e.
const SHARE_OF_RUN: f64 = 1.0 / 30.0;
/// The same in steps, at least and at most.
const STEPS: (f64, f64) = (10.0, 500.0);
/// The proportional part: so many times the integral part of one step.
const PROPORTION: f64 = 10.0;
/// And at most so much. L0 can follow the weight in the same step, with a power of above 1: with 1
/// or more, it would swing from step to step.
const MOST_PROPORTIONAL: f64 = 0.5;
/// The logarithm of the factor stays within this much of 0.
const RANGE: f64 = 14.0;

/// The part of a change that moves thresholds at `step` (from 0) of `steps`: it grows to 1 in the
/// first half of a run. At the start L0 is far from the target, and falls by itself; latents whose
/// thresholds rise then die.
pub(crate) fn steering_share(step: u64, steps: u64) -> f64 {
    (2.0 * (step + 1) as f64 / steps as f64).min(1.0)
}

/// Where a controller stands: its factor is e to the `log_factor`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct L0Control {
    pub(crate) log_factor: f64,
    /// The error of the last step, if there was one.
    pub(crate) last_error: Option<f64>,
}

impl L0Control {
    /// What the weight is multiplied by.
    pub(crate) fn factor(&self) -> f64 {
        self.log_factor.exp()
    }

    /// A batch of a run of `steps` had `l0` active latents per token. The error is the logarithm of
    /// `l0 / target`. Returns its integral part: by how much a logarithm moves in this step.
    pub(crate) fn observe(&mut self, l0: f64, target: f64, steps: u64) -> f64 {
        let error = (l0 / target).ln().clamp(-LARGEST_ERROR, LARGEST_ERROR);
        if error.is_nan() {
            return 0.0;
        }
        let integral = 1.0 / (steps as f64 * SHARE_OF_RUN).clamp(STEPS.0, STEPS.1);
        let change = error - self.last_error.unwrap_or(error);
        let proportional = (integral * PROPORTION).min(MOST_PROPORTIONAL);
        let log_factor = self.log_factor + integral * error + proportional * change;
        self.log_factor = log_factor.clamp(-RANGE, RANGE);
        self.last_error = Some(error);
        integral * error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L0 falls with a power of the factor, and follows it with a delay, as a coder in training
    /// does.
    fn final_l0(target: f64, power: f64, steps: u64, delay: f64) -> f64 {
        let (mut control, mut l0) = (L0Control::default(), 300.0);
        for _ in 0..steps {
            let wanted = 100.0 * control.factor().powf(-power);
            l0 += (wanted - l0) / delay;
            control.observe(l0, target, steps);
        }
        l0
    }

    #[test]
    fn l0_ends_at_the_target() {
        for steps in [300, 3_000, 20_000] {
            for target in [16.0, 32.0, 128.0, 400.0] {
                for (power, delay) in [(0.4, 3.0), (0.7, 10.0), (1.0, 10.0), (1.5, 1.0)] {
                    let l0 = final_l0(target, power, steps, delay);
                    let off = (l0 / target - 1.0).abs();
                    assert!(
                        off < 0.05,
                        "{steps} steps, power {power}, delay {delay}, target {target}: {l0}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_latent_at_all_is_an_error_like_others() {
        let mut control = L0Control::default();
        control.observe(0.0, 32.0, 300);
        assert!(control.log_factor < 0.0 && control.log_factor.is_finite());
        let before = control;
        control.observe(f64::NAN, 32.0, 300);
        assert_eq!(control, before);
    }
}
