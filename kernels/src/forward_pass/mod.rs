//! What a transformer's forward pass does beside dense products, each part in one visit to memory:
//! norms, rotary embedding, attention, gates. On the CPU and without gradients only; elsewhere
//! Burn's operations do the same in more visits.
//!
//! Rows are summed by one thread each and in a fixed order, so bits do not depend on the number of
//! threads.

mod activate;
mod attention;
mod exponential;
mod normalize;
pub(crate) mod product;
mod rotate;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Device, Tensor};
use burn_flex::FlexTensor;
use std::sync::Arc;

use crate::host::contiguous;

/// A nonlinearity that [`activate`] computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nonlinearity {
    /// x · sigmoid(x).
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
    /// max(x, 0).
    Relu,
}

/// How [`normalize_rows`] treats a row before its weight and bias.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowNorm {
    /// Whether its mean goes first (LayerNorm) or not (RMSNorm).
    pub centred: bool,
    /// Added to the mean square.
    pub eps: f32,
}

/// Sines and cosines for [`rotate_heads`].
#[derive(Debug, Clone)]
pub struct Angles {
    /// Of each position's `dims / 2` angles, `[positions, dims / 2]`.
    pub cos: Vec<f32>,
    /// The same for sines.
    pub sin: Vec<f32>,
    /// How many of a head's first dimensions turn, an even number.
    pub dims: usize,
}

/// What [`causal_attention`] needs beside queries, keys and values.
#[derive(Debug, Clone)]
pub struct CausalAttention {
    /// Sequences.
    pub batch: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Multiplies products of queries and keys.
    pub scale: f32,
    /// `c · tanh(score / c)` in place of the score.
    pub soft_cap: Option<f32>,
    /// The first key that each query sees, `[batch, queries]` or `[queries]` for all sequences
    /// alike; the last one is its own position, which is counted from the keys' end. `None`: all
    /// see from the first key on.
    pub first: Option<Arc<[u32]>>,
}

/// Whether these operations work where tensors of `device` are.
pub fn fused_on(device: &Device) -> bool {
    *device == Device::flex() && !device.is_autodiff()
}

/// `(x − mean) / √(mean square + eps) · weight + bias` of each row of `x`, `[n, d]`.
///
/// # Panics
/// If widths differ, or, like all of these, if [`fused_on`] is false for the tensors' device.
pub fn normalize_rows(
    x: Tensor<2>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    norm: RowNorm,
) -> Tensor<2> {
    let ([_, d], [weights]) = (x.dims(), weight.dims());
    assert!(d == weights, "rows have {d} columns, the norm {weights}");
    // Without a bias the weight stands in for it, unread.
    let biased = bias.is_some();
    let bias = bias.unwrap_or_else(|| weight.clone());
    let biases = bias.dims();
    assert!(biases == [d], "rows have {d} columns, the bias {biases:?}");
    Tensor::from_dispatch(Dispatch::normalize(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        biased,
        norm,
    ))
}

/// A nonlinearity of `x`, times `linear` if there is one; both `[n, d]`.
///
/// # Panics
/// If shapes differ.
pub fn activate(x: Tensor<2>, linear: Option<Tensor<2>>, nonlinearity: Nonlinearity) -> Tensor<2> {
    match linear {
        None => Tensor::from_dispatch(Dispatch::activate_alone(x.into_dispatch(), nonlinearity)),
        Some(linear) => {
            let (left, right) = (x.dims(), linear.dims());
            assert!(
                left == right,
                "the gate is {left:?}, its other side {right:?}"
            );
            Tensor::from_dispatch(Dispatch::activate_gate(
                x.into_dispatch(),
                linear.into_dispatch(),
                nonlinearity,
            ))
        }
    }
}

/// Turns the heads of `x`, `[n, heads · d_head]`, by rotary embedding in its half-split layout:
/// dimension i of the first half of the turning ones goes with dimension i of the second. Row r has
/// the angles of position r mod positions.
///
/// # Panics
/// If `x` holds no whole heads or rows, or more dimensions turn than a head has.
pub fn rotate_heads(x: Tensor<2>, d_head: usize, angles: Arc<Angles>) -> Tensor<2> {
    let [n, width] = x.dims();
    let half = angles.dims / 2;
    assert!(
        d_head > 0 && width.is_multiple_of(d_head) && angles.dims <= d_head && half > 0,
        "rows of {width} hold no heads of {d_head} of which {} turn",
        angles.dims
    );
    let positions = angles.cos.len() / half;
    assert!(
        angles.sin.len() == angles.cos.len() && positions > 0 && n.is_multiple_of(positions),
        "{n} rows are no whole number of {positions} positions"
    );
    Tensor::from_dispatch(Dispatch::rotate(x.into_dispatch(), d_head, angles))
}

/// `x · wᵀ` for `x` `[n, d]` and `w` `[m, d]`, where m is large: an unembedding.
///
/// # Panics
/// If widths differ.
pub fn wide_product(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    let ([_, d], [_, width]) = (x.dims(), w.dims());
    assert!(d == width, "x has {d} columns, w {width}");
    Tensor::from_dispatch(Dispatch::wide(x.into_dispatch(), w.into_dispatch()))
}

/// Causal softmax attention: queries `[batch · queries, heads · d_head]`, keys and values
/// `[batch · keys, kv_heads · d_head]` to `[batch · queries, heads · d_head]`. There are at least
/// as many keys as queries, and the last query stands where the last key does. Query head h reads
/// key-value head h / (heads / kv_heads). Scores exist a block of queries at a time.
///
/// # Panics
/// If shapes do not fit one another.
pub fn causal_attention(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    how: CausalAttention,
) -> Tensor<2> {
    let ([q_rows, q_width], [k_rows, kv_width]) = (q.dims(), k.dims());
    assert!(
        k.dims() == v.dims(),
        "keys {:?}, values {:?}",
        k.dims(),
        v.dims()
    );
    let (batch, d) = (how.batch, how.d_head);
    assert!(
        batch > 0
            && q_rows.is_multiple_of(batch)
            && k_rows.is_multiple_of(batch)
            && q_rows <= k_rows,
        "{q_rows} queries and {k_rows} keys are not those of {batch} sequences"
    );
    assert!(
        d > 0 && kv_width >= d && kv_width.is_multiple_of(d) && q_width.is_multiple_of(kv_width),
        "queries {q_width} wide, keys {kv_width}, heads {d}"
    );
    let (queries, keys) = (q_rows / batch, k_rows / batch);
    if let Some(first) = &how.first {
        assert!(
            first.len() == queries || first.len() == q_rows,
            "{} first keys for {batch} x {queries} queries",
            first.len()
        );
        let seen = |(i, first): (usize, &u32)| *first as usize <= keys - queries + i % queries;
        assert!(
            first.iter().enumerate().all(seen),
            "a query's first key comes after its own position"
        );
    }
    Tensor::from_dispatch(Dispatch::attend(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        how,
    ))
}

#[backend_extension(Flex)]
pub(crate) trait ForwardPass: Backend {
    fn normalize(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        biased: bool,
        norm: RowNorm,
    ) -> FloatTensor<Self>;

    fn activate_alone(x: FloatTensor<Self>, nonlinearity: Nonlinearity) -> FloatTensor<Self>;

    fn activate_gate(
        x: FloatTensor<Self>,
        linear: FloatTensor<Self>,
        nonlinearity: Nonlinearity,
    ) -> FloatTensor<Self>;

    fn rotate(x: FloatTensor<Self>, d_head: usize, angles: Arc<Angles>) -> FloatTensor<Self>;

    fn wide(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self>;

    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        how: CausalAttention,
    ) -> FloatTensor<Self>;
}

impl ForwardPass for Flex {
    fn normalize(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        biased: bool,
        norm: RowNorm,
    ) -> FlexTensor {
        normalize::forward(x, weight, biased.then_some(bias), norm)
    }

    fn activate_alone(x: FlexTensor, nonlinearity: Nonlinearity) -> FlexTensor {
        activate::forward(x, None, nonlinearity)
    }

    fn activate_gate(x: FlexTensor, linear: FlexTensor, nonlinearity: Nonlinearity) -> FlexTensor {
        activate::forward(x, Some(linear), nonlinearity)
    }

    fn rotate(x: FlexTensor, d_head: usize, angles: Arc<Angles>) -> FlexTensor {
        rotate::forward(x, d_head, &angles)
    }

    fn wide(x: FlexTensor, w: FlexTensor) -> FlexTensor {
        product::wide(x, w)
    }

    fn attend(q: FlexTensor, k: FlexTensor, v: FlexTensor, how: CausalAttention) -> FlexTensor {
        attention::forward(q, k, v, &how)
    }
}

/// Numbers that one task takes at least.
const PIECE: usize = 32 << 10;

/// A matrix whose rows lie in order, perhaps with gaps between them, as a slice of columns leaves
/// them.
struct Rows {
    tensor: FlexTensor,
    start: usize,
    stride: usize,
    n: usize,
    width: usize,
}

impl Rows {
    fn of(tensor: FlexTensor) -> Self {
        let plain = |t: &FlexTensor| {
            let (layout, strides) = (t.layout(), t.layout().strides());
            let (shape, start) = (layout.shape(), layout.start_offset());
            let stride = usize::try_from(strides[0]).ok()?;
            let apart = strides[1] == 1 && stride >= shape[1];
            let end = start + shape[0].saturating_sub(1) * stride + shape[1];
            (apart && end * size_of::<f32>() <= t.bytes().len()).then_some((start, stride))
        };
        let (tensor, (start, stride)) = match plain(&tensor) {
            Some(found) => (tensor, found),
            None => {
                let tensor = contiguous(tensor);
                let width = tensor.layout().shape()[1];
                (tensor, (0, width))
            }
        };
        let shape = tensor.layout().shape();
        let (n, width) = (shape[0], shape[1]);
        Self {
            tensor,
            start,
            stride,
            n,
            width,
        }
    }

    /// From the first row's first number to the last row's last one.
    fn data(&self) -> &[f32] {
        if self.n == 0 {
            return &[];
        }
        let whole: &[f32] = self.tensor.storage();
        &whole[self.start..][..(self.n - 1) * self.stride + self.width]
    }

    fn row(&self, r: usize) -> &[f32] {
        &self.data()[r * self.stride..][..self.width]
    }
}
