//! The codes are entries of `x · w_encᵀ + b_enc`, so with `dv` their gradient:
//! `dx[i] = Σ_j dv[i, j] · w_enc[indices[i, j]]`, `dw_enc = Sᵀ·x` with `dv` as the entries of S,
//! and `db_enc` the sums of `dv` by latent.

use burn::backend::Autodiff;
use burn::backend::TensorMetadata;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};

use super::EncodeTopK;
use crate::EncoderState;
use crate::sparse_products::SparseProducts;

#[derive(Debug)]
struct TopKBackward;

/// What an encoder's backward pass needs of its forward pass.
#[derive(Debug, Clone)]
pub(crate) struct Saved<B: SparseProducts> {
    pub x: FloatTensor<B>,
    pub w_enc: FloatTensor<B>,
    pub indices: IntTensor<B>,
}

/// Registers the gradients of `x`, `w_enc` and `b_enc`, those that are wanted, from the gradient of
/// the codes.
pub(crate) fn register<B: SparseProducts>(
    dv: FloatTensor<B>,
    saved: Saved<B>,
    parents: [Option<NodeId>; 3],
    grads: &mut Gradients,
) {
    let Saved { x, w_enc, indices } = saved;
    let latents = w_enc.shape()[0];
    let [to_x, to_w_enc, to_b_enc] = parents;
    if let Some(id) = to_x {
        grads.register::<B>(id, B::sparse_decode(dv.clone(), indices.clone(), w_enc));
    }
    if to_w_enc.is_some() || to_b_enc.is_some() {
        let (dw_enc, db_enc) = B::sparse_outer(dv, indices, x, latents);
        if let Some(id) = to_w_enc {
            grads.register::<B>(id, dw_enc);
        }
        if let Some(id) = to_b_enc {
            grads.register::<B>(id, db_enc);
        }
    }
}

impl<B: SparseProducts> Backward<B, 3> for TopKBackward {
    type State = Saved<B>;

    fn backward(
        self,
        ops: Ops<Saved<B>, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let dv = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register(dv, ops.state, parents, grads);
    }
}

impl<B: EncodeTopK + SparseProducts, C: CheckpointStrategy> EncodeTopK for Autodiff<B, C> {
    fn topk(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        k: usize,
        state: &EncoderState,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        let nodes = [x.node(), w_enc.node(), b_enc.node()];
        let (x, w_enc) = (x.into_primitive(), w_enc.into_primitive());
        let b_enc = b_enc.into_primitive();
        match TopKBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (values, indices) = B::topk(x.clone(), w_enc.clone(), b_enc, k, state);
                let saved = Saved::<B> {
                    x,
                    w_enc,
                    indices: indices.clone(),
                };
                (prep.finish(saved, values), indices)
            }
            OpsKind::UnTracked(prep) => {
                let (values, indices) = B::topk(x, w_enc, b_enc, k, state);
                (prep.finish(values), indices)
            }
        }
    }
}

/// The backward pass of encoders that keep a varying number of latents a row: an entry of value 0
/// was not kept, and passes nothing on.
#[derive(Debug)]
pub(crate) struct KeptBackward;

impl<B: SparseProducts> Backward<B, 3> for KeptBackward {
    type State = (FloatTensor<B>, Saved<B>);

    fn backward(
        self,
        ops: Ops<(FloatTensor<B>, Saved<B>), 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let dv = grads.consume::<B>(&ops.node);
        let (values, saved) = ops.state;
        // Kept values are positive: their sign is 1 where kept and 0 elsewhere.
        let dv = B::float_mul(dv, B::float_sign(values));
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register(dv, saved, parents, grads);
    }
}
