//! A replacement model on one prompt: which features are active, and what their transcoders miss.

use super::graph::Feature;
use super::replacement::{Replacement, ReplacementModel};
use crate::CircuitError;
use burn::tensor::{Int, Tensor, TensorData};
use lapidary_coder::{Coder, CoderError, host, host_int};
use lapidary_kernels::{SparseCodes, decode_sparse, sparse_dot};
use lapidary_model::{FrozenModel, HookPoint};
use std::collections::BTreeMap;

/// The model frozen on a prompt, with its active features. At the first position, as in
/// circuit-tracer, no feature is active and no error counts: what its MLPs write there, which
/// depends on the first token alone, is a constant.
pub(super) struct Local<'m> {
    pub frozen: FrozenModel<'m>,
    /// Ascending by layer, position and index.
    pub features: Vec<Feature>,
    /// The pre-activation of each.
    pub totals: Vec<f32>,
    pub layers: Vec<LocalLayer>,
    /// What the tokens write, `[pos, d_model]`.
    pub embeddings: Tensor<2>,
    /// What learned positions write, `[pos, d_model]`.
    pub positions: Option<Tensor<2>>,
}

/// One layer of it.
pub(super) struct LocalLayer {
    /// Which latents are active; `[pos, k]`, with values of 0 where fewer are.
    pub codes: SparseCodes,
    /// The number of the feature at each place of the codes among all active ones.
    pub numbers: Vec<Option<u32>>, // [pos * k]
    /// What the MLP writes and the transcoders do not, `[pos, d_model]`; 0 at the first position.
    pub errors: Tensor<2>,
    /// The same at the first position, `[1, d_model]`.
    pub first: Tensor<2>,
}

impl ReplacementModel<'_> {
    /// Runs the model on a prompt.
    pub(super) fn local(&self, tokens: &[u32]) -> Result<Local<'_>, CircuitError> {
        self.local_keeping(tokens, &[]).map(|(local, _)| local)
    }

    /// The same, with the values at further hook points, `[pos, width]`.
    pub(super) fn local_keeping(
        &self,
        tokens: &[u32],
        more: &[HookPoint],
    ) -> Result<(Local<'_>, BTreeMap<HookPoint, Tensor<2>>), CircuitError> {
        let learned = self.model().config().learned_positions;
        let mut capture = vec![HookPoint::Embed];
        capture.extend(learned.then_some(HookPoint::PosEmbed));
        capture.extend(
            self.layers()
                .iter()
                .flat_map(|layer| [layer.from, layer.to]),
        );
        let points: Vec<HookPoint> = capture.iter().chain(more).copied().collect();
        let mut frozen = self.model().frozen(tokens, &points)?;
        let kept = more.iter().filter_map(|at| Some((*at, frozen.kept(*at)?)));
        let kept = kept.collect();
        let mut take = |at| frozen.take(at).expect("it was to be kept");
        let embeddings = take(HookPoint::Embed);
        let positions = learned.then(|| take(HookPoint::PosEmbed));
        let mut local: Vec<LocalLayer> = vec![];
        let (mut features, mut totals) = (vec![], vec![]);
        for (l, layer) in self.layers().iter().enumerate() {
            let (x, written) = (take(layer.from), take(layer.to));
            let codes = without_first(layer.coder.encode(x.clone()));
            let numbers = collect(l, layer, &x, &codes, &mut features, &mut totals)?;
            let mut rebuilt = decode_sparse(codes.clone(), layer.decoders[0].clone());
            for (lower, earlier) in local.iter().enumerate() {
                if let Some(decoder) = self.layers()[lower].decoders.get(l - lower) {
                    rebuilt = rebuilt + decode_sparse(earlier.codes.clone(), decoder.clone());
                }
            }
            let rebuilt = rebuilt + layer.bias.clone().unsqueeze();
            let errors = written - layer.coder.with_skip(rebuilt, x);
            let first = errors.clone().narrow(0, 0, 1);
            let errors = match errors.dims()[0] {
                1 => first.zeros_like(),
                pos => Tensor::cat(vec![first.zeros_like(), errors.narrow(0, 1, pos - 1)], 0),
            };
            local.push(LocalLayer {
                codes,
                numbers,
                errors,
                first,
            });
        }
        let local = Local {
            frozen,
            features,
            totals,
            layers: local,
            embeddings,
            positions,
        };
        Ok((local, kept))
    }
}

/// Codes whose first row is 0.
fn without_first(codes: SparseCodes) -> SparseCodes {
    let [pos, k] = codes.values.dims();
    let first = codes.values.clone().narrow(0, 0, 1).zeros_like();
    let values = match pos {
        1 => first,
        _ => Tensor::cat(vec![first, codes.values.narrow(0, 1, pos - 1)], 0),
    };
    debug_assert_eq!(values.dims(), [pos, k]);
    SparseCodes { values, ..codes }
}

/// Appends the active features of a layer; gives their numbers at the places of the codes.
fn collect(
    l: usize,
    layer: &Replacement,
    x: &Tensor<2>,
    codes: &SparseCodes,
    features: &mut Vec<Feature>,
    totals: &mut Vec<f32>,
) -> Result<Vec<Option<u32>>, CoderError> {
    let [_, k] = codes.values.dims();
    let (values, indices) = (host(&codes.values)?, host_int(&codes.indices)?);
    let coder = &layer.coder;
    let read = coder.centre(x.clone());
    let products = host(&sparse_dot(read, coder.w_enc(), codes.indices.clone()))?;
    let biases = host(&coder.b_enc())?;
    let mut places: Vec<usize> = (0..values.len()).filter(|i| values[*i] != 0.0).collect();
    places.sort_by_key(|place| (place / k, indices[*place]));
    let mut numbers = vec![None; values.len()];
    for place in places {
        numbers[place] = Some(features.len() as u32);
        let index = indices[place] as usize;
        features.push(Feature {
            layer: l,
            position: place / k,
            index,
            activation: values[place],
        });
        totals.push(products[place] + biases[index]);
    }
    Ok(numbers)
}

/// A vector of whole numbers on a device.
pub(super) fn whole(values: Vec<i32>, like: &Tensor<2>) -> Tensor<1, Int> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), &like.device())
}
