//! Scores as integers of the same order.

use cubecl::prelude::*;

/// Maps scores to integers of the same order: NaN as −∞, −0 as 0. By bits, because shader compilers
/// may assume that NaN and −0 do not occur.
#[cube]
pub(crate) fn key_of(score: f32) -> u32 {
    let bits = u32::reinterpret(score);
    let nan = (bits & 0x7FFF_FFFFu32) > 0x7F80_0000u32;
    let bits = select(nan, 0xFF80_0000u32, bits);
    let bits = select(bits == 0x8000_0000u32, 0u32, bits);
    bits ^ select(bits >> 31u32 == 1u32, 0xFFFF_FFFFu32, 0x8000_0000u32)
}

#[cube]
pub(crate) fn score_of(key: u32) -> f32 {
    f32::reinterpret(key ^ select(key >> 31u32 == 1u32, 0x8000_0000u32, 0xFFFF_FFFFu32))
}
