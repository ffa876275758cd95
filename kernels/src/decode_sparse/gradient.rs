//! With `g` the gradient of the output: `dvalues[i, j] = ⟨g[i], w_dec[indices[i, j]]⟩` and
//! `dw_dec = Sᵀ·g`.

use burn::backend::Autodiff;
use burn::backend::TensorMetadata;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};

use super::DecodeSparse;
use crate::sparse_products::SparseProducts;

#[derive(Debug)]
struct DecodeBackward;

#[derive(Debug, Clone)]
struct Saved<B: SparseProducts> {
    values: FloatTensor<B>,
    indices: IntTensor<B>,
    w_dec: FloatTensor<B>,
}

impl<B: SparseProducts> Backward<B, 2> for DecodeBackward {
    type State = Saved<B>;

    fn backward(
        self,
        ops: Ops<Saved<B>, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let g = grads.consume::<B>(&ops.node);
        let Saved {
            values,
            indices,
            w_dec,
        } = ops.state;
        let latents = w_dec.shape()[0];
        let [to_values, to_w_dec] = ops.parents;
        if let Some(node) = to_values {
            let gradient = B::sparse_dot(g.clone(), w_dec, indices.clone());
            grads.register::<B>(node.id, gradient);
        }
        if let Some(node) = to_w_dec {
            let (gradient, _) = B::sparse_outer(values, indices, g, latents);
            grads.register::<B>(node.id, gradient);
        }
    }
}

impl<B: DecodeSparse + SparseProducts, C: CheckpointStrategy> DecodeSparse for Autodiff<B, C> {
    fn decode(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [values.node(), w_dec.node()];
        let (values, w_dec) = (values.into_primitive(), w_dec.into_primitive());
        match DecodeBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let saved = Saved::<B> {
                    values: values.clone(),
                    indices: indices.clone(),
                    w_dec: w_dec.clone(),
                };
                prep.finish(saved, B::decode(values, indices, w_dec))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::decode(values, indices, w_dec)),
        }
    }
}
