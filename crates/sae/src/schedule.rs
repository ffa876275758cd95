//! Learning rate and penalty weight as functions of the step.

/// Linear fall from 1 to 0 over the last `decay_fraction` of the `steps`, reached just after the
/// last one.
#[must_use]
pub fn fall(step: u64, steps: u64, decay_fraction: f64) -> f64 {
    let decay = (steps as f64 * decay_fraction).max(1.0);
    let left = steps.saturating_sub(step) as f64;
    match decay_fraction > 0.0 {
        true => (left / decay).min(1.0),
        false => 1.0,
    }
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
        let f = |s| rise(s, 9) * fall(s, 100, 0.2);
        assert!((f(0) - 0.1).abs() < 1e-12);
        assert!((f(8) - 0.9).abs() < 1e-12);
        assert_eq!(f(9), 1.0);
        assert_eq!(f(80), 1.0);
        assert!((f(90) - 0.5).abs() < 1e-12);
        assert!((f(99) - 0.05).abs() < 1e-12);
        assert_eq!(rise(99, 0) * fall(99, 100, 0.0), 1.0);
    }
}
