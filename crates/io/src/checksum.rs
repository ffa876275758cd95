//! XXH64 of the xxHash family, the checksum of stored files: fast enough to keep up with a disk,
//! and `xxh64sum` computes it too. It guards against damage, not against an adversary.

use xxhash_rust::xxh64::Xxh64;

/// A checksum in the making, with seed 0.
#[derive(Clone)]
pub struct Checksum(Xxh64);

impl Default for Checksum {
    fn default() -> Self {
        Self(Xxh64::new(0))
    }
}

impl Checksum {
    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> u64 {
        let mut sum = Self::default();
        sum.update(bytes);
        sum.finish()
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_come_out() {
        // From the reference implementation's `xxh64sum`.
        assert_eq!(Checksum::of(b""), 0xef46_db37_51d8_e999);
        assert_eq!(Checksum::of(b"abc"), 0x44bc_2cf5_ad77_0999);
        assert_eq!(
            Checksum::of(b"Nobody inspects the spammish repetition"),
            0xfbce_a83c_8a37_8bf1
        );
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let bytes: Vec<u8> = (0..999_u32).map(|i| (i * i % 251) as u8).collect();
        for cut in [1, 3, 31, 32, 33, 64, 500] {
            let mut sum = Checksum::default();
            bytes.chunks(cut).for_each(|part| sum.update(part));
            assert_eq!(sum.finish(), Checksum::of(&bytes), "pieces of {cut}");
        }
    }
}
