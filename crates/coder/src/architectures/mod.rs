//! One file per architecture: its weights, its encoder, how it is finished, and its parameters in files.

pub(crate) mod batchtopk;
pub(crate) mod gated;
pub(crate) mod jumprelu;
pub(crate) mod matching_pursuit;
pub(crate) mod proximal;
pub(crate) mod standard;
pub(crate) mod topk;
