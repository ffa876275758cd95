//! A latent with its score, in one number that sorts as codes do.

/// A latent and its score in one number whose order is the order of codes: the greater number comes
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scored(u64);

impl Scored {
    /// A place that is not taken: −∞.
    pub(super) const NONE: Self = Self(0x007F_FFFF << 32);

    pub(super) fn new(value: f32, latent: u32) -> Self {
        let value = if value.is_nan() {
            f32::NEG_INFINITY
        } else {
            // −0 becomes 0: the two are equal, so their order is their indices'.
            value + 0.0
        };
        let bits = value.to_bits();
        let sign = bits >> 31;
        // Positive floats get the top bit, negative ones are reversed.
        let ordered = bits ^ if sign == 1 { u32::MAX } else { 1 << 31 };
        Self((u64::from(ordered) << 32) | u64::from(u32::MAX - latent))
    }

    pub(crate) fn value(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        let positive = ordered >> 31;
        f32::from_bits(ordered ^ if positive == 1 { 1 << 31 } else { u32::MAX })
    }

    pub(crate) fn latent(self) -> i32 {
        (u32::MAX - self.0 as u32) as i32
    }
}

/// Cuts `list` to its `k` best, the least of them last where some were cut.
pub(super) fn keep_best(list: &mut Vec<Scored>, k: usize) {
    if list.len() > k {
        list.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
        list.truncate(k);
    }
}
