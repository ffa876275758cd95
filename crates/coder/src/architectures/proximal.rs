//! Proximal: a latent is what a penalty's proximal operator makes of its pre-activation, the step
//! by which sparse coding shrinks (Daubechies, Defrise, De Mol 2004), here the only one (Gregor,
//! LeCun 2010). For l1 that is a ReLU coder whose bias is lower by λ, for l0 and CEL0 a JumpReLU
//! with one threshold; finished coders of these kinds are stored as such.

use burn::tensor::{Tensor, TensorData};
use lapidary_io::Fields;
use lapidary_kernels::SparseCodes;
use serde_json::{Value, json};

use super::standard::positive;
use crate::architectures::{Architecture, Finished, Rule};
use crate::error::CoderError;
use crate::fold::{Fold, Normalized, fold};
use crate::penalty::{Penalty, Shape};
use crate::weights::Weights;

pub(crate) struct Proximal {
    pub(crate) penalty: Penalty,
}

impl Rule for Proximal {
    fn architecture(&self) -> Architecture {
        Architecture::Proximal(self.penalty)
    }

    fn encode(&self, weights: &Weights, x: Tensor<2>) -> SparseCodes {
        let found = positive(weights, x); // an operator keeps their order
        let (shape, device) = (found.values.dims(), found.values.device());
        let values: Vec<f32> = found.values.to_data().iter().collect();
        let shrunk = values.iter().map(|u| self.penalty.prox((*u).into()) as f32);
        let shrunk: Vec<f32> = shrunk.collect();
        SparseCodes {
            values: Tensor::from_data(TensorData::new(shrunk, shape), &device),
            indices: found.indices,
        }
    }

    fn finish(&self, normalized: &Normalized<'_>, _threshold: f64) -> Result<Finished, CoderError> {
        let how = Fold {
            unit_rows: false, // they have norm 1, and another would be another penalty
            threshold: self.penalty.threshold(),
            ..Fold::default()
        };
        let folded = fold(normalized, how)?;
        let penalty = self.penalty.shrunk(normalized.scaling.unit());
        let architecture = match penalty.shape {
            Shape::L0 | Shape::Cel0 => Architecture::JumpRelu,
            Shape::L1 => Architecture::Standard,
            _ => Architecture::Proximal(penalty),
        };
        let b_enc = match penalty.shape {
            Shape::L1 => folded.the_vector("b_enc") - penalty.weight,
            _ => folded.the_vector("b_enc"),
        };
        Ok((architecture, folded.with("b_enc", b_enc)))
    }

    fn has_encoder(&self) -> bool {
        false
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        vec![("penalty", json!(self.penalty))]
    }

    fn read_parameters(&self, fields: &Fields, _: [usize; 3]) -> Result<Architecture, CoderError> {
        let expected = "an object with shape, weight (0 or more) and bend";
        let read = fields.read_as::<Penalty>("penalty");
        let good = read.filter(|p| p.weight >= 0.0 && p.expected_shape_param().is_none());
        let penalty = good.ok_or_else(|| fields.wrong("penalty", expected))?;
        Ok(Architecture::Proximal(penalty))
    }
}
