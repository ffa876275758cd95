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
/// and VNNI: [`Level::detected`] alone makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Avx512(());

/// Which instructions the kernels use. `LAPIDARY_CPU` (`avx512`, `avx2`, `portable`) asks for less
/// than the processor has, to compare; all give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// What every processor of the platform has.
    Portable,
    /// AVX2.
    Avx2,
    /// AVX-512, and AVX2 too.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Level {
    /// The processor's level, or a lower one if `LAPIDARY_CPU` asks for it.
    pub fn here() -> Self {
        static HERE: OnceLock<Level> = OnceLock::new();
        *HERE.get_or_init(|| match std::env::var("LAPIDARY_CPU").as_deref() {
            Ok("portable") => Self::Portable,
            Ok("avx2") => Self::Avx2.min(Self::detected()),
            _ => Self::detected(),
        })
    }

    /// The processor's level.
    pub fn detected() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            let vnni = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            return match vnni {
                true => Self::Avx512(Avx512(())),
                false => Self::Avx2,
            };
        }
        Self::Portable
    }

    /// All levels that the processor has.
    #[cfg(test)]
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Portable, Self::Avx2, Self::detected()];
        all.retain(|level| *level <= Self::detected());
        all.dedup();
        all
    }
}

/// Declares a function whose loops are compiled twice, for AVX2 and for the baseline, and picks at
/// run time. Neither version contracts a multiplication and an addition into one rounding, so both
/// give the same bits.
macro_rules! widest_vectors {
    ($(#[$attr:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$attr])*
        #[inline]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn lanes($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    lanes($($arg),*)
                }
                if crate::host::Level::here() >= crate::host::Level::Avx2 {
                    // SAFETY: the processor has AVX2, as was detected; the function needs nothing
                    // else.
                    return unsafe { avx2($($arg),*) };
                }
            }
            lanes($($arg),*)
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
