//! The vectors of each level of instructions: one value for all that kernels of integers do with
//! them.

use std::arch::x86_64::*;

use super::{EightBits, Format, SixteenBits, amx};
use crate::host::{Amx, Avx2, Avx512, AvxVnni};

/// Vectors of 32-bit lanes, and the tiles of sums of products that fit into the registers. A value
/// is the proof that the processor has the instructions. All of this is only fast within a [`Job`].
pub(crate) trait Tile: Copy + Send + Sync + 'static {
    /// The integers that are multiplied.
    type Format: Format;
    type Sums: Copy;
    type Floats: Copy;
    /// [`Self::ROWS`] of something.
    type Rows<X: Copy>: Copy + AsRef<[X]> + AsMut<[X]>;

    /// Columns beside each other in a panel.
    const LANES: usize;
    /// Most panels of a tile.
    const PANELS: usize;
    /// Most columns of a tile.
    const BLOCK: usize = Self::LANES * Self::PANELS;
    /// Rows of a tile.
    const ROWS: usize;
    /// What unsafe code here relies on: a vector has a 32-bit sum in each lane, and one lane of
    /// rows or columns is as wide.
    const FITS: () = assert!(
        size_of::<Self::Sums>() == 4 * Self::LANES
            && Self::LANES <= 16
            && Self::Format::DEPTH * size_of::<<Self::Format as Format>::Row>() == 4
            && Self::Format::DEPTH * size_of::<<Self::Format as Format>::Column>() == 4
    );

    /// The number of steps of rows and columns is a multiple of this.
    const STEPS: usize = 1;

    /// What a thread must hold while it calls [`sums_of`](super::sums_of).
    type Ready;

    /// Makes it, which takes AMX about 100 ns: once for many sums. A thread that holds one does
    /// nothing in which another task of the same thread could make one too.
    fn ready(self) -> Self::Ready;

    /// See [`sums_of`](super::sums_of).
    ///
    /// # Safety
    ///
    /// [`Self::ROWS`] rows and `P` panels of `steps` steps, a multiple of [`Self::STEPS`] and not
    /// 0, lie there.
    #[inline(always)]
    unsafe fn sums<const P: usize>(
        self,
        _ready: &Self::Ready,
        rows: *const <Self::Format as Format>::Row,
        panels: *const <Self::Format as Format>::Column,
        steps: usize,
        start: [Self::Sums; P],
    ) -> Self::Rows<[Self::Sums; P]> {
        let depth = Self::Format::DEPTH;
        let width = steps * depth;
        let mut sums = Self::rows(start);
        assert_eq!(sums.as_ref().len(), Self::ROWS);
        for step in 0..steps {
            // SAFETY: each panel's step lies within the panels, and each row's within the rows, as
            // the caller says.
            unsafe {
                let at = panels.add(step * Self::LANES * depth);
                let mut columns = start;
                for (p, columns) in columns.iter_mut().enumerate() {
                    *columns = self.load(at.add(p * Self::LANES * width).cast());
                }
                let rows = rows.add(step * depth);
                for (row, sums) in sums.as_mut().iter_mut().enumerate() {
                    let some = self.all(rows.add(row * width).cast::<i32>().read_unaligned());
                    for (sum, columns) in sums.iter_mut().zip(&columns) {
                        *sum = self.add_products(*sum, some, *columns);
                    }
                }
            }
        }
        sums
    }

    /// Has the job compiled for these instructions.
    fn run<J: Job<Self>>(self, job: J);

    fn rows<X: Copy>(x: X) -> Self::Rows<X>;

    /// # Safety
    ///
    /// A vector lies there, at whatever alignment.
    unsafe fn load(self, at: *const i32) -> Self::Sums;

    /// The same number in all lanes.
    fn all(self, number: i32) -> Self::Sums;

    fn add(self, a: Self::Sums, b: Self::Sums) -> Self::Sums;

    /// `sums` and the products of [`Format::DEPTH`] integers a lane.
    fn add_products(self, sums: Self::Sums, row: Self::Sums, columns: Self::Sums) -> Self::Sums;

    /// All lanes added up.
    fn total(self, sums: Self::Sums) -> i32;

    /// The lanes of `kept`, one behind the other, at the beginning of `out`, in which there is room
    /// for all; what comes after them is undefined.
    fn store_some(self, kept: u32, numbers: Self::Sums, out: &mut [i32]);

    fn floats(self, sums: Self::Sums) -> Self::Floats;

    fn load_floats(self, from: &[f32]) -> Self::Floats;

    fn store_floats(self, numbers: Self::Floats, out: &mut [f32]);

    /// Rounded to 16 bits, the nearest that there are.
    fn store_rounded(self, numbers: Self::Floats, out: &mut [i16]);

    fn all_floats(self, number: f32) -> Self::Floats;

    fn multiply(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;

    /// `a · b + c`, rounded once or twice.
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// Lane by lane `a` where it is the larger, otherwise `b`, also where one is NaN.
    fn larger(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;

    /// Some bits of each number.
    fn bits(self, numbers: Self::Floats, bits: u32) -> Self::Floats;

    /// A bit for each lane in which `a ≥ b`, which NaN never is.
    fn not_less(self, a: Self::Floats, b: Self::Floats) -> u32;

    /// # Safety
    ///
    /// A vector lies at `from` and fits at `to`, which is aligned to its size.
    unsafe fn stream(self, from: *const i16, to: *mut i16);
}

/// What is compiled for the instructions of a level. `run` is to be inlined always, and all that it
/// calls with vectors.
pub(crate) trait Job<T: Tile> {
    fn run(self, tile: T);
}

macro_rules! job_for {
    ($features:literal) => {
        fn run<J: Job<Self>>(self, job: J) {
            #[target_feature(enable = $features)]
            fn compiled<T: Tile, J: Job<T>>(tile: T, job: J) {
                job.run(tile);
            }
            // SAFETY: the processor has these instructions, as `self` proves.
            unsafe { compiled(self, job) }
        }
    };
}

/// What AVX-512 with VNNI and AMX have in common: all but how many sums there are at a time, and
/// how they are made.
macro_rules! wide {
    ($level:ty, $rows:literal, $panels:literal, { $($own:tt)* }) => {
        impl Tile for $level {
            type Format = EightBits;
            type Sums = __m512i;
            type Floats = __m512;
            type Rows<X: Copy> = [X; $rows];

            const LANES: usize = 16;
            const PANELS: usize = $panels;
            const ROWS: usize = $rows;

            $($own)*

            job_for!("avx512f,avx512bw,avx512vl,avx512vnni");

            #[inline(always)]
            fn rows<X: Copy>(x: X) -> [X; $rows] {
                [x; $rows]
            }

            #[inline(always)]
            unsafe fn load(self, at: *const i32) -> __m512i {
                // SAFETY: as the caller says.
                unsafe { _mm512_loadu_si512(at.cast()) }
            }

            #[inline(always)]
            fn all(self, number: i32) -> __m512i {
                // SAFETY: the processor has the instruction, as `self` proves. So below.
                unsafe { _mm512_set1_epi32(number) }
            }

            #[inline(always)]
            fn add(self, a: __m512i, b: __m512i) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_add_epi32(a, b) }
            }

            #[inline(always)]
            fn add_products(self, sums: __m512i, row: __m512i, columns: __m512i) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_dpbusd_epi32(sums, row, columns) }
            }

            #[inline(always)]
            fn total(self, sums: __m512i) -> i32 {
                // SAFETY: as above.
                unsafe { _mm512_reduce_add_epi32(sums) }
            }

            #[inline(always)]
            fn store_some(self, kept: u32, numbers: __m512i, out: &mut [i32]) {
                let out = out.first_chunk_mut::<16>().expect("room for a vector");
                // SAFETY: as above; a vector fits there.
                unsafe {
                    let some = _mm512_maskz_compress_epi32(kept as __mmask16, numbers);
                    _mm512_storeu_si512(out.as_mut_ptr().cast(), some);
                }
            }

            #[inline(always)]
            fn floats(self, sums: __m512i) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_cvtepi32_ps(sums) }
            }

            #[inline(always)]
            fn load_floats(self, from: &[f32]) -> __m512 {
                let from = from.first_chunk::<16>().expect("a whole vector");
                // SAFETY: as above; a vector lies there.
                unsafe { _mm512_loadu_ps(from.as_ptr()) }
            }

            #[inline(always)]
            fn store_floats(self, numbers: __m512, out: &mut [f32]) {
                let out = out.first_chunk_mut::<16>().expect("room for a vector");
                // SAFETY: as above; a vector fits there.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), numbers) }
            }

            #[inline(always)]
            fn store_rounded(self, numbers: __m512, out: &mut [i16]) {
                let out = out.first_chunk_mut::<16>().expect("room for a vector");
                // SAFETY: as above; as many numbers of 16 bits fit there.
                unsafe {
                    let numbers = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(numbers));
                    _mm256_storeu_si256(out.as_mut_ptr().cast(), numbers);
                }
            }

            #[inline(always)]
            fn all_floats(self, number: f32) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_set1_ps(number) }
            }

            #[inline(always)]
            fn multiply(self, a: __m512, b: __m512) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_mul_ps(a, b) }
            }

            #[inline(always)]
            fn multiply_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }

            #[inline(always)]
            fn larger(self, a: __m512, b: __m512) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_max_ps(a, b) }
            }

            #[inline(always)]
            fn bits(self, numbers: __m512, bits: u32) -> __m512 {
                // SAFETY: as above.
                unsafe {
                    let numbers = _mm512_castps_si512(numbers);
                    _mm512_castsi512_ps(_mm512_and_si512(numbers, _mm512_set1_epi32(bits as i32)))
                }
            }

            #[inline(always)]
            fn not_less(self, a: __m512, b: __m512) -> u32 {
                // SAFETY: as above.
                u32::from(unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b) })
            }

            #[inline(always)]
            unsafe fn stream(self, from: *const i16, to: *mut i16) {
                // SAFETY: as above, and as the caller says.
                unsafe { _mm512_stream_si512(to.cast(), _mm512_loadu_si512(from.cast())) }
            }
        }
    };
}

// 24 sums, 3 parts of panels and a part of a row in 32 registers.
wide!(Avx512, 8, 3, {
    type Ready = ();

    #[inline(always)]
    fn ready(self) {}
});

// Four tiles of sums, two of rows and two of panels in eight registers of tiles.
wide!(Amx, 32, 2, {
    const STEPS: usize = amx::STEPS;

    type Ready = amx::Ready;

    #[inline(always)]
    fn ready(self) -> amx::Ready {
        amx::Ready::new(self)
    }

    #[inline(always)]
    unsafe fn sums<const P: usize>(
        self,
        ready: &amx::Ready,
        rows: *const u8,
        panels: *const i8,
        steps: usize,
        start: [__m512i; P],
    ) -> [[__m512i; P]; 32] {
        // SAFETY: as the caller says.
        unsafe { ready.sums(rows, panels, steps, start) }
    }
});

/// What AVX-VNNI and AVX2 alone have in common: all but the products. 12 sums, 2 parts of panels, a
/// part of a row and a product in 16 registers.
macro_rules! narrow {
    ($level:ty, $format:ty, $features:literal, |$sums:ident, $row:ident, $columns:ident| $product:expr) => {
        impl Tile for $level {
            type Format = $format;
            type Sums = __m256i;
            type Floats = __m256;
            type Rows<X: Copy> = [X; 6];

            const LANES: usize = 8;
            const PANELS: usize = 2;
            const ROWS: usize = 6;

            type Ready = ();

            #[inline(always)]
            fn ready(self) {}

            job_for!($features);

            #[inline(always)]
            fn rows<X: Copy>(x: X) -> [X; 6] {
                [x; 6]
            }

            #[inline(always)]
            unsafe fn load(self, at: *const i32) -> __m256i {
                // SAFETY: as the caller says.
                unsafe { _mm256_loadu_si256(at.cast()) }
            }

            #[inline(always)]
            fn all(self, number: i32) -> __m256i {
                // SAFETY: the processor has the instruction, as `self` proves. So below.
                unsafe { _mm256_set1_epi32(number) }
            }

            #[inline(always)]
            fn add(self, a: __m256i, b: __m256i) -> __m256i {
                // SAFETY: as above.
                unsafe { _mm256_add_epi32(a, b) }
            }

            #[inline(always)]
            fn add_products(self, $sums: __m256i, $row: __m256i, $columns: __m256i) -> __m256i {
                // SAFETY: as above.
                unsafe { $product }
            }

            #[inline(always)]
            fn total(self, sums: __m256i) -> i32 {
                let mut all = [0i32; 8];
                // SAFETY: as above; a vector fits there.
                unsafe { _mm256_storeu_si256(all.as_mut_ptr().cast(), sums) };
                all.iter().sum()
            }

            #[inline(always)]
            fn store_some(self, mut kept: u32, numbers: __m256i, out: &mut [i32]) {
                let mut all = [0i32; 8];
                // SAFETY: as above; a vector fits there.
                unsafe { _mm256_storeu_si256(all.as_mut_ptr().cast(), numbers) };
                for out in out {
                    if kept == 0 {
                        break;
                    }
                    *out = all[kept.trailing_zeros() as usize % 8];
                    kept &= kept - 1;
                }
            }

            #[inline(always)]
            fn floats(self, sums: __m256i) -> __m256 {
                // SAFETY: as above.
                unsafe { _mm256_cvtepi32_ps(sums) }
            }

            #[inline(always)]
            fn load_floats(self, from: &[f32]) -> __m256 {
                let from = from.first_chunk::<8>().expect("a whole vector");
                // SAFETY: as above; a vector lies there.
                unsafe { _mm256_loadu_ps(from.as_ptr()) }
            }

            #[inline(always)]
            fn store_floats(self, numbers: __m256, out: &mut [f32]) {
                let out = out.first_chunk_mut::<8>().expect("room for a vector");
                // SAFETY: as above; a vector fits there.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), numbers) }
            }

            #[inline(always)]
            fn store_rounded(self, numbers: __m256, out: &mut [i16]) {
                let out = out.first_chunk_mut::<8>().expect("room for a vector");
                // SAFETY: as above; as many numbers of 16 bits fit there.
                unsafe {
                    let numbers = _mm256_cvtps_epi32(numbers);
                    let high = _mm256_extracti128_si256::<1>(numbers);
                    let numbers = _mm_packs_epi32(_mm256_castsi256_si128(numbers), high);
                    _mm_storeu_si128(out.as_mut_ptr().cast(), numbers);
                }
            }

            #[inline(always)]
            fn all_floats(self, number: f32) -> __m256 {
                // SAFETY: as above.
                unsafe { _mm256_set1_ps(number) }
            }

            #[inline(always)]
            fn multiply(self, a: __m256, b: __m256) -> __m256 {
                // SAFETY: as above.
                unsafe { _mm256_mul_ps(a, b) }
            }

            #[inline(always)]
            fn multiply_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
                // SAFETY: as above.
                unsafe { _mm256_add_ps(_mm256_mul_ps(a, b), c) }
            }

            #[inline(always)]
            fn larger(self, a: __m256, b: __m256) -> __m256 {
                // SAFETY: as above.
                unsafe { _mm256_max_ps(a, b) }
            }

            #[inline(always)]
            fn bits(self, numbers: __m256, bits: u32) -> __m256 {
                // SAFETY: as above.
                unsafe {
                    let numbers = _mm256_castps_si256(numbers);
                    _mm256_castsi256_ps(_mm256_and_si256(numbers, _mm256_set1_epi32(bits as i32)))
                }
            }

            #[inline(always)]
            fn not_less(self, a: __m256, b: __m256) -> u32 {
                // SAFETY: as above.
                unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b)) as u32 }
            }

            #[inline(always)]
            unsafe fn stream(self, from: *const i16, to: *mut i16) {
                // SAFETY: as above, and as the caller says.
                unsafe { _mm256_stream_si256(to.cast(), _mm256_loadu_si256(from.cast())) }
            }
        }
    };
}

narrow!(AvxVnni, EightBits, "avx2,avxvnni", |sums, row, columns| {
    _mm256_dpbusd_avx_epi32(sums, row, columns)
});

narrow!(Avx2, SixteenBits, "avx2", |sums, row, columns| {
    _mm256_add_epi32(sums, _mm256_madd_epi16(row, columns))
});
