//! As TopK's gradient, through the kept values only: an entry that is 0 was not chosen, and passes
//! nothing on.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::ops::OpsKind;
use burn::backend::tensor::{FloatTensor, IntTensor};

use super::EncodeBatchTopK;
use crate::EncoderState;
use crate::encode_topk::gradient::{KeptBackward, Saved};
use crate::sparse_products::SparseProducts;
use burn::backend::autodiff::ops::Backward;

impl<B: EncodeBatchTopK + SparseProducts, C: CheckpointStrategy> EncodeBatchTopK
    for Autodiff<B, C>
{
    fn batch_topk(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        k: usize,
        state: &EncoderState,
    ) -> (FloatTensor<Self>, IntTensor<Self>, f32) {
        let nodes = [x.node(), w_enc.node(), b_enc.node()];
        let (x, w_enc) = (x.into_primitive(), w_enc.into_primitive());
        let b_enc = b_enc.into_primitive();
        match KeptBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (values, indices, threshold) =
                    B::batch_topk(x.clone(), w_enc.clone(), b_enc, k, state);
                let saved = Saved::<B> {
                    x,
                    w_enc,
                    indices: indices.clone(),
                };
                let codes = prep.finish((values.clone(), saved), values);
                (codes, indices, threshold)
            }
            OpsKind::UnTracked(prep) => {
                let (values, indices, threshold) = B::batch_topk(x, w_enc, b_enc, k, state);
                (prep.finish(values), indices, threshold)
            }
        }
    }
}
