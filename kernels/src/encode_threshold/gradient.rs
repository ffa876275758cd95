//! As TopK's gradient, through the active values only; the thresholds get none.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::ops::{Backward, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};

use super::EncodeThreshold;
use crate::encode_topk::gradient::{KeptBackward, Saved};
use crate::sparse_products::SparseProducts;

impl<B: EncodeThreshold + SparseProducts, C: CheckpointStrategy> EncodeThreshold
    for Autodiff<B, C>
{
    fn above(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        threshold: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        let nodes = [x.node(), w_enc.node(), b_enc.node()];
        let (x, w_enc) = (x.into_primitive(), w_enc.into_primitive());
        let (b_enc, threshold) = (b_enc.into_primitive(), threshold.into_primitive());
        match KeptBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (values, indices) = B::above(x.clone(), w_enc.clone(), b_enc, threshold);
                let saved = Saved::<B> {
                    x,
                    w_enc,
                    indices: indices.clone(),
                };
                let codes = prep.finish((values.clone(), saved), values);
                (codes, indices)
            }
            OpsKind::UnTracked(prep) => {
                let (values, indices) = B::above(x, w_enc, b_enc, threshold);
                (prep.finish(values), indices)
            }
        }
    }
}
