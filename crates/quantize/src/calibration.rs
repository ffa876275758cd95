//! The range of a group of numbers.

use crate::affine::Affine;
use crate::scheme::{Calibration, Scheme};

/// Shares of the range that are tried, in hundredths.
const SHARES: std::ops::RangeInclusive<u8> = 50..=99;

/// Scale and zero point of a group of finite numbers.
pub(crate) fn calibrate(group: &[f32], scheme: Scheme) -> Affine {
    let least = group.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if group.is_empty() {
        return Affine::new(0.0, 0, scheme);
    }
    let whole = Affine::of_range(least, largest, scheme);
    match scheme.calibration {
        Calibration::MinMax => whole,
        Calibration::Mse => {
            let (mut best, mut least_error) = (whole, squared_error(group, whole, f64::INFINITY));
            for share in SHARES.rev().map(|hundredths| f32::from(hundredths) / 100.0) {
                let tried = Affine::of_range(share * least, share * largest, scheme);
                let error = squared_error(group, tried, least_error);
                if error < least_error {
                    (best, least_error) = (tried, error);
                }
            }
            best
        }
    }
}

/// The squared error of a group, summed in f64; at least `enough` where it is more than that.
fn squared_error(group: &[f32], affine: Affine, enough: f64) -> f64 {
    let mut sum = 0.0;
    for part in group.chunks(64) {
        sum += part
            .iter()
            .map(|x| (f64::from(*x) - f64::from(affine.value(affine.code(*x)))).powi(2))
            .sum::<f64>();
        if sum >= enough {
            break;
        }
    }
    sum
}
