//! Integers of 4 bits in bytes: two per byte, the first in the low half, in two's complement.

/// Packs integers from −8 to 7, two per byte. The last byte of an odd number of them has 0 in its
/// upper half. `out` has a byte for each two integers, the last rounded up; more are left as they
/// are.
pub fn pack_int4(codes: &[i8], out: &mut [u8]) {
    for (byte, pair) in out.iter_mut().zip(codes.chunks(2)) {
        let high = pair.get(1).map_or(0, |code| (*code as u8 & 0xf) << 4);
        *byte = pair[0] as u8 & 0xf | high;
    }
}

/// The integers in packed bytes, as many as `out` has and the bytes hold.
pub fn unpack_int4(bytes: &[u8], out: &mut [i8]) {
    for (pair, byte) in out.chunks_mut(2).zip(bytes) {
        // Shifted up, then down with the sign.
        pair[0] = ((byte << 4) as i8) >> 4;
        if let Some(second) = pair.get_mut(1) {
            *second = (*byte as i8) >> 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back_from_its_two_integers_and_every_pair_from_its_byte() {
        for byte in 0..=u8::MAX {
            let (mut pair, mut back) = ([0; 2], [0]);
            unpack_int4(&[byte], &mut pair);
            assert!(pair.iter().all(|code| (-8..8).contains(code)));
            pack_int4(&pair, &mut back);
            assert_eq!(back, [byte]);
        }
        for pair in (-8..8).flat_map(|low| (-8..8).map(move |high| [low, high])) {
            let (mut byte, mut back) = ([0], [0; 2]);
            pack_int4(&pair, &mut byte);
            unpack_int4(&byte, &mut back);
            assert_eq!(back, pair);
        }
    }

    #[test]
    fn the_first_integer_is_in_the_low_half() {
        let mut bytes = [0; 3];
        pack_int4(&[1, 2, -1, -8, 7], &mut bytes);
        assert_eq!(bytes, [0x21, 0x8f, 0x07]);
        let mut codes = [9; 5];
        unpack_int4(&bytes, &mut codes);
        assert_eq!(codes, [1, 2, -1, -8, 7]);
    }
}
