//! Learning rate and penalty weight as functions of the step.

/// Factor of the peak learning rate at `step` (from 0) of `steps`: linear rise over `warmup`, then
/// 1, then linear fall over the last `decay_fraction`, reaching 0 just after the last step.
#[must_use]
pub fn learning_rate_factor(step: u64, steps: u64, warmup: u64, decay_fraction: f64) -> f64 {
    let decay = (steps as f64 * decay_fraction).max(1.0);
    let left = steps.saturating_sub(step) as f64;
    let fall = if decay_fraction > 0.0 {
        (left / decay).min(1.0)
    } else {
        1.0
    };
    rise(step, warmup).min(1.0) * fall
}

/// Linear rise from above 0 to 1 over the first `warmup` steps.
#[must_use]
pub fn rise(step: u64, warmup: u64) -> f64 {
    if step >= warmup {
        1.0
    } else {
        (step + 1) as f64 / (warmup + 1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_stays_and_falls() {
        let f = |s| learning_rate_factor(s, 100, 9, 0.2);
        assert!((f(0) - 0.1).abs() < 1e-12);
        assert!((f(8) - 0.9).abs() < 1e-12);
        assert_eq!(f(9), 1.0);
        assert_eq!(f(80), 1.0);
        assert!((f(90) - 0.5).abs() < 1e-12);
        assert!((f(99) - 0.05).abs() < 1e-12);
        assert_eq!(learning_rate_factor(99, 100, 0, 0.0), 1.0);
    }
}
