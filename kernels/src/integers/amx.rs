//! Sums of products with the tile registers of AMX (Advanced Matrix Extensions): one instruction
//! multiplies 16 rows of 64 integers with 16 columns, as many products as 256 of VNNI's on 512
//! bits.
//!
//! Rust's functions for these instructions are not stable yet, so they stand here in assembly.

use std::arch::asm;
use std::arch::x86_64::__m512i;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use crate::host::Amx;

/// Steps of four integers in a tile's row of 64 bytes.
pub(super) const STEPS: usize = 16;

/// Rows or columns of a tile.
const SIDE: usize = 16;

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row of each tile.
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles as large as they can be.
static ALL: Configuration = {
    let (mut bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        (bytes[tile], rows[tile]) = (64, SIDE as u8);
        tile += 1;
    }
    Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        bytes,
        rows,
    }
};

/// Proof that the tile registers of this thread have their shapes. They lose them when it goes, so
/// that the thread has less to save when another one takes its place.
pub(crate) struct Ready(PhantomData<*const ()>);

impl Ready {
    #[inline]
    pub(super) fn new(_: Amx) -> Self {
        // SAFETY: the processor has the instruction and the process may use it, as `Amx` proves. It
        // reads the 64 bytes of a configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const ALL, options(nostack, readonly)) };
        Self(PhantomData)
    }

    /// `start` and the sums of products of 32 rows with the columns of `P` panels, one or two.
    ///
    /// # Safety
    ///
    /// 32 rows and `P` panels of `steps` steps lie there. `steps` is a multiple of [`STEPS`] and
    /// not 0.
    #[inline(always)]
    pub(super) unsafe fn sums<const P: usize>(
        &self,
        rows: *const u8,
        panels: *const i8,
        steps: usize,
        start: [__m512i; P],
    ) -> [[__m512i; P]; 2 * SIDE] {
        assert!(P == 1 || P == 2);
        let width = 4 * steps;
        let mut sums = MaybeUninit::<[[__m512i; P]; 2 * SIDE]>::uninit();
        // SAFETY: tiles of rows are 16 rows of 64 bytes, `width` apart, and tiles of panels are one
        // piece of 1,024 bytes: within what the caller says lies there. All tiles of sums begin as
        // 16 times the same `start`, and are stored to all of `sums`, row by row.
        unsafe {
            let (below, out) = (rows.add(SIDE * width), sums.as_mut_ptr().cast::<u8>());
            if P == 1 {
                asm!(
                    "tileloadd tmm0, [{start} + {none}*1]",
                    "tileloadd tmm2, [{start} + {none}*1]",
                    "2:",
                    "tileloadd tmm6, [{panel} + {line}*1]",
                    "tileloadd tmm4, [{rows} + {width}*1]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{below} + {width}*1]",
                    "tdpbusd tmm2, tmm5, tmm6",
                    "add {rows}, 64",
                    "add {below}, 64",
                    "add {panel}, 1024",
                    "dec {left}",
                    "jnz 2b",
                    "tilestored [{out} + {line}*1], tmm0",
                    "tilestored [{out} + {line}*1 + 1024], tmm2",
                    start = in(reg) start.as_ptr(),
                    none = in(reg) 0usize,
                    line = in(reg) 64usize,
                    width = in(reg) width,
                    rows = inout(reg) rows => _,
                    below = inout(reg) below => _,
                    panel = inout(reg) panels => _,
                    left = inout(reg) steps / STEPS => _,
                    out = in(reg) out,
                    options(nostack),
                );
            } else {
                asm!(
                    "tileloadd tmm0, [{start} + {none}*1]",
                    "tileloadd tmm1, [{start} + {none}*1 + 64]",
                    "tileloadd tmm2, [{start} + {none}*1]",
                    "tileloadd tmm3, [{start} + {none}*1 + 64]",
                    "2:",
                    "tileloadd tmm4, [{rows} + {width}*1]",
                    "tileloadd tmm6, [{panel} + {line}*1]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{second} + {line}*1]",
                    "tdpbusd tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{below} + {width}*1]",
                    "tdpbusd tmm2, tmm5, tmm6",
                    "tdpbusd tmm3, tmm5, tmm7",
                    "add {rows}, 64",
                    "add {below}, 64",
                    "add {panel}, 1024",
                    "add {second}, 1024",
                    "dec {left}",
                    "jnz 2b",
                    "tilestored [{out} + {lines}*1], tmm0",
                    "tilestored [{out} + {lines}*1 + 64], tmm1",
                    "tilestored [{out} + {lines}*1 + 2048], tmm2",
                    "tilestored [{out} + {lines}*1 + 2112], tmm3",
                    start = in(reg) start.as_ptr(),
                    none = in(reg) 0usize,
                    line = in(reg) 64usize,
                    lines = in(reg) 128usize,
                    width = in(reg) width,
                    rows = inout(reg) rows => _,
                    below = inout(reg) below => _,
                    panel = inout(reg) panels => _,
                    second = inout(reg) panels.add(SIDE * width) => _,
                    left = inout(reg) steps / STEPS => _,
                    out = in(reg) out,
                    options(nostack),
                );
            }
            sums.assume_init()
        }
    }
}

impl Drop for Ready {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the processor has the instruction, as there was an `Amx`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
