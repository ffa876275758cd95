//! What encoders leave for their next call.

#[cfg(target_arch = "x86_64")]
use crate::{encode_topk::cpu::Guesses, matching_pursuit::Kept};

/// What a call of [`encode_topk`](crate::encode_topk),
/// [`encode_batch_topk`](crate::encode_batch_topk) or [`pursue`](crate::pursue) leaves for the next
/// one with the same weights, or with weights that training has moved a little.
///
/// Whoever owns weights keeps one handle for them and passes it to every call. Clones of a handle
/// share what it holds, also between threads. Only time depends on it: a new handle, or one that
/// was used with other weights of any sizes, gives the same results.
///
/// A TopK encoder leaves a few numbers. A pursuit leaves its atoms in integers, and their Gram
/// matrix of up to 128 MiB. In a process, at most two handles hold a pursuit's at any time: when a
/// third gets its own, the one that got it first loses it. The last clone of a handle frees what is
/// left. Nothing is left behind without AVX2 or on a GPU.
#[derive(Clone, Default)]
pub struct EncoderState {
    #[cfg(target_arch = "x86_64")]
    pub(crate) guesses: Guesses,
    #[cfg(target_arch = "x86_64")]
    pub(crate) pursuit: Kept,
}

impl std::fmt::Debug for EncoderState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncoderState").finish_non_exhaustive()
    }
}
