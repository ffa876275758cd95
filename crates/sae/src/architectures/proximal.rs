//! Training of coders with proximal operators: of the squared error plus twice the penalty, of
//! whose half the operator is.

use burn::tensor::{Tensor, TensorData};
use lapidary_coder::{Architecture, Coder, Penalty};
use lapidary_kernels::{SparseCodes, encode_threshold};

use super::Method;
use crate::encoded::{Backward, Codes, Encoded, LayerInput, StepContext, Weighted};

pub(crate) struct Proximal;

impl Method for Proximal {
    /// The penalty is part of how codes are found, so it must have its whole weight before training
    /// ends.
    fn encode(&self, layer: &LayerInput<'_>, context: &StepContext<'_>) -> Encoded {
        let mut penalty = match layer.coder.architecture {
            Architecture::Proximal(penalty) => penalty,
            _ => Penalty::DEFAULT,
        };
        penalty.weight *= context.penalty_rise();
        let coder = layer.coder.tracked();
        let b_enc = coder.b_enc();
        let zeros = b_enc.zeros_like();
        let x = coder.centre(layer.x.clone().autodiff());
        let found = encode_threshold(x, coder.w_enc(), b_enc, zeros); // positive pre-activations
        // The operator and the penalty by their values and slopes at this batch: f(u) + f'(u) (u −
        // u), the last u tracked.
        let u = found.values.clone().inner();
        let constant = |values: Tensor<2>| values.autodiff();
        let values = each(&u, |u| penalty.prox(u));
        let steep = each(
            &values,
            |x| if x > 0.0 { penalty.prox_slope(x) } else { 0.0 },
        );
        let moved = found.values - constant(u);
        let latents = constant(values.clone()) + moved * constant(steep);
        let slope = each(&values, |x| if x > 0.0 { penalty.slope(x) } else { 0.0 });
        let cost = constant(each(&values, |x| penalty.value(x)));
        let moved = latents.clone() - constant(values);
        let n = layer.x.dims()[0].max(1) as f64;
        let term = (cost + moved * constant(slope)).sum() / n;
        let codes = SparseCodes {
            values: latents.clone().inner(),
            indices: found.indices.inner(),
        };
        Encoded {
            penalty: Some(Weighted { term, weight: 2.0 }),
            ..Encoded::new(
                Codes::Sparse(codes),
                Backward::Tracked {
                    coder,
                    values: latents,
                },
            )
        }
    }
}

/// A function of every value, on the host.
fn each(values: &Tensor<2>, f: impl Fn(f64) -> f64) -> Tensor<2> {
    let (shape, device) = (values.dims(), values.device());
    let values: Vec<f32> = values.to_data().iter().collect();
    let mapped: Vec<f32> = values.iter().map(|v| f(f64::from(*v)) as f32).collect();
    Tensor::from_data(TensorData::new(mapped, shape), &device)
}
