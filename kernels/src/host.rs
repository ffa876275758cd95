//! Burn's CPU tensors as plain slices, and loops compiled for the widest vectors of the machine
//! they run on.

use burn::tensor::{DType, FloatDType, IntDType, Shape};
use burn_flex::{Flex, FlexTensor};
use std::sync::OnceLock;

/// The same numbers in f32, row-major without gaps. Those stored in 16 bits become wider, which
/// changes none.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    use burn::backend::ops::FloatTensorOps;
    match tensor.dtype() {
        DType::BF16 | DType::F16 => Flex::float_cast(tensor, FloatDType::F32).to_contiguous(),
        _ => tensor.to_contiguous(),
    }
}

/// Indices as i32, row-major without gaps.
pub(crate) fn contiguous_i32(tensor: FlexTensor) -> FlexTensor {
    use burn::backend::ops::IntTensorOps;
    let tensor = match tensor.dtype() {
        DType::I32 => tensor,
        _ => Flex::int_cast(tensor, IntDType::I32),
    };
    tensor.to_contiguous()
}

/// The floats of a tensor that [`contiguous`] returned.
pub(crate) fn floats(tensor: &FlexTensor) -> &[f32] {
    assert!(
        tensor.dtype() == DType::F32,
        "kernels compute in f32, but were given {:?}",
        tensor.dtype()
    );
    tensor.as_slice().expect("contiguous")
}

/// The indices of a tensor that [`contiguous_i32`] returned.
pub(crate) fn indices(tensor: &FlexTensor) -> &[i32] {
    tensor.as_slice().expect("contiguous i32")
}

pub(crate) fn float_tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(burn::tensor::TensorData::new(values, Shape::from(shape)))
}

pub(crate) fn int_tensor<const D: usize>(values: Vec<i32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(burn::tensor::TensorData::new(values, Shape::from(shape)))
}

/// Rows and columns of a matrix.
pub(crate) fn dims2(tensor: &FlexTensor) -> [usize; 2] {
    let shape = tensor.layout().shape();
    [shape[0], shape[1]]
}

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks for memory that will be read next.
#[inline]
pub(crate) fn prefetch<T>(memory: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in memory.chunks(LINE / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: asking reads nothing and may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = memory;
}

/// Asks for memory that will be read a while later: it comes as far as the second-level cache.
#[inline]
pub(crate) fn prefetch_far<T>(memory: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in memory.chunks(LINE / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = memory;
}

/// Proof that the processor has AVX-512 with byte and word operations (BW), 256-bit vectors (VL)
/// and VNNI: [`Level::available`] alone makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

/// Proof that the processor has what [`Avx512`] proves, and AMX with products of 8-bit integers,
/// and that the system lets this process use it: [`Level::available`] alone makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amx(());

/// Proof that the processor has AVX2 and AVX-VNNI: [`Level::available`] alone makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AvxVnni(());

/// Proof that the processor has AVX2: [`Level::available`] alone makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

/// Which instructions the kernels use. `LAPIDARY_CPU` (`amx`, `avx512`, `avxvnni`, `avx2`,
/// `portable`) asks for less than the processor has, to compare; all give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every processor of the platform has.
    Portable,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-VNNI, and AVX2 too.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(AvxVnni),
    /// AVX-512 with VNNI, and AVX2 too.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AMX, and AVX-512 with VNNI too.
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
}

/// The names of all levels, the lowest first.
const NAMES: [&str; 5] = ["portable", "avx2", "avxvnni", "avx512", "amx"];

impl Level {
    /// The processor's highest level, or the highest that is not above what `LAPIDARY_CPU` asks
    /// for.
    pub fn here() -> Self {
        static HERE: OnceLock<Level> = OnceLock::new();
        *HERE.get_or_init(|| Self::up_to(std::env::var("LAPIDARY_CPU").ok().as_deref()))
    }

    /// The processor's highest level up to the one of this name, or of all.
    fn up_to(name: Option<&str>) -> Self {
        let most = NAMES.iter().position(|known| Some(*known) == name);
        let most = most.unwrap_or(NAMES.len());
        let levels = Self::available().into_iter();
        let last = levels.take_while(|level| level.place() <= most).last();
        last.unwrap_or(Self::Portable)
    }

    /// Its place among [`NAMES`].
    fn place(self) -> usize {
        match self {
            Self::Portable => 0,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => 1,
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(_) => 2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => 3,
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => 4,
        }
    }

    /// All levels that the processor has, the lowest first.
    pub fn available() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut))]
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            all.push(Self::Avx2(Avx2(())));
            if is_x86_feature_detected!("avxvnni") {
                all.push(Self::AvxVnni(AvxVnni(())));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self::Avx512(Avx512(())));
                if may_use_amx() {
                    all.push(Self::Amx(Amx(())));
                }
            }
        }
        all
    }
}

/// Whether the processor has AMX with products of 8-bit integers, and the system lets this process
/// use it. Linux wants to be asked, once for a process (`Documentation/arch/x86/xstate.rst`): the
/// registers are so large that it saves them only for those who did.
#[cfg(target_arch = "x86_64")]
fn may_use_amx() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // Bits of EDX: AMX-TILE and AMX-INT8.
        const TILE_AND_INT8: u32 = 0b11 << 24;
        static GRANTED: OnceLock<bool> = OnceLock::new();
        *GRANTED.get_or_init(|| {
            let has = std::arch::x86_64::__cpuid_count(7, 0).edx & TILE_AND_INT8 == TILE_AND_INT8;
            // SAFETY: the call only sets a bit of the process, or says that it cannot.
            has && 0
                == unsafe {
                    libc::syscall(
                        libc::SYS_arch_prctl,
                        ARCH_REQ_XCOMP_PERM,
                        XFEATURE_XTILEDATA,
                    )
                }
        })
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// What to do with the [`Tile`](crate::integers::Tile) of a level; nothing, where it has none.
#[cfg(target_arch = "x86_64")]
macro_rules! with_tile {
    ($level:expr, |$tile:ident| $with:expr) => {
        match $level {
            crate::host::Level::Portable => {}
            crate::host::Level::Avx2($tile) => $with,
            crate::host::Level::AvxVnni($tile) => $with,
            crate::host::Level::Avx512($tile) => $with,
            crate::host::Level::Amx($tile) => $with,
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use with_tile;

/// Declares a function whose loops are compiled twice, for AVX2 and for the baseline, and picks at
/// run time. Neither version contracts a multiplication and an addition into one rounding, so both
/// give the same bits.
macro_rules! widest_vectors {
    ($(#[$attr:meta])* $vis:vis fn $name:ident $(<$of:ident: $bound:path>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$attr])*
        #[inline]
        $vis fn $name $(<$of: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn lanes $(<$of: $bound>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2 $(<$of: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                    lanes $(::<$of>)? ($($arg),*)
                }
                if crate::host::Level::here() != crate::host::Level::Portable {
                    // SAFETY: the processor has AVX2, as was detected; the function needs nothing
                    // else.
                    return unsafe { avx2 $(::<$of>)? ($($arg),*) };
                }
            }
            lanes $(::<$of>)? ($($arg),*)
        }
    };
}
pub(crate) use widest_vectors;

/// Lanes in which a dot product is summed.
const DOT_LANES: usize = 64;

widest_vectors! {
    /// `⟨x, w⟩`: 64 interleaved sums, each multiplication and addition rounded, then the sums in
    /// pairs, then the rest. That order is fixed, so every processor gives the same bits.
    pub(crate) fn dot(x: &[f32], w: &[f32]) -> f32 {
        let mut sums = [0.0f32; DOT_LANES];
        let (x_blocks, x_rest) = x.as_chunks::<DOT_LANES>();
        let (w_blocks, w_rest) = w.as_chunks::<DOT_LANES>();
        for (x, w) in x_blocks.iter().zip(w_blocks) {
            for ((sum, x), w) in sums.iter_mut().zip(x).zip(w) {
                *sum += x * w;
            }
        }
        let mut half = DOT_LANES / 2;
        while half > 0 {
            for lane in 0..half {
                sums[lane] += sums[lane + half];
            }
            half /= 2;
        }
        let rest: f32 = x_rest.iter().zip(w_rest).map(|(x, w)| x * w).sum();
        sums[0] + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_the_highest_that_the_processor_has_up_to_the_one_asked_for() {
        let available = Level::available();
        assert_eq!(available[0], Level::Portable);
        assert!(available.is_sorted_by_key(|level| level.place()));
        assert_eq!(Level::up_to(Some("portable")), Level::Portable);
        assert_eq!(Level::up_to(None), available[available.len() - 1]);
        for (most, name) in NAMES.iter().enumerate() {
            let level = Level::up_to(Some(name));
            assert!(level.place() <= most && available.contains(&level));
            let missed = |other: &&Level| (level.place() + 1..=most).contains(&other.place());
            assert_eq!(available.iter().find(missed), None, "{name}");
        }
    }
}
