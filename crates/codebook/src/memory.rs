//! Sizes that this machine has no memory for, found before anything is allocated.

/// Weights, gradients and Adam's two moments.
pub(crate) const TRAINED: usize = 4;

/// What is expected of a setting that needs more numbers of 4 bytes than the system gives room for;
/// `None` if they fit.
pub(crate) fn too_large(numbers: usize) -> Option<String> {
    if Vec::<f32>::new().try_reserve_exact(numbers).is_ok() {
        return None;
    }
    let gib = numbers as f64 * 4.0 / (1u64 << 30) as f64;
    let told = format!("less: it takes at least {gib:.0} GiB, more than this machine has");
    Some(told)
}

/// The product of sizes; the largest number there is if it is larger.
pub(crate) fn product(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |all, size| all.saturating_mul(*size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_room_for_is_too_large() {
        assert_eq!(too_large(1000), None);
        let told = too_large(product(&[usize::MAX, 3])).unwrap();
        assert!(told.contains("GiB, more than this machine has"), "{told}");
        assert!(too_large(1 << 50).is_some_and(|told| told.contains("4194304 GiB")));
    }
}
