//! Proximal: a latent is what a penalty's proximal operator makes of its pre-activation, the step
//! by which sparse coding shrinks (Daubechies, Defrise, De Mol 2004), here the only one (Gregor,
//! LeCun 2010). For l1 that is a ReLU coder whose bias is lower by λ, for l0 and CEL0 a JumpReLU
//! with one threshold; finished coders of these kinds are stored as such.

use burn::tensor::{Tensor, TensorData};
use lapidary_io::Fields;
use lapidary_kernels::SparseCodes;
use serde_json::{Value, json};

use super::standard::positive;
use crate::architectures::{Architecture, Rule};
use crate::error::CoderError;
use crate::fold::{Fold, fold};
use crate::penalty::{Penalty, Shape};
use crate::scaling::Scaling;
use crate::sparse_coder::SparseCoder;

pub(crate) struct Proximal {
    pub(crate) penalty: Penalty,
}

impl Rule for Proximal {
    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        let found = positive(coder, x); // an operator keeps their order
        let (shape, device) = (found.values.dims(), found.values.device());
        let values: Vec<f32> = found.values.to_data().iter().collect();
        let shrunk = values.iter().map(|u| self.penalty.prox((*u).into()) as f32);
        let shrunk: Vec<f32> = shrunk.collect();
        SparseCodes {
            values: Tensor::from_data(TensorData::new(shrunk, shape), &device),
            indices: found.indices,
        }
    }

    fn finish(
        &self,
        coder: &SparseCoder,
        _threshold: f64,
        scaling: &Scaling,
    ) -> Result<SparseCoder, CoderError> {
        let how = Fold {
            unit_rows: false, // they have norm 1, and another would be another penalty
            threshold: self.penalty.threshold(),
            ..Fold::default()
        };
        let folded = fold(coder, scaling, how)?;
        let penalty = self.penalty.shrunk(scaling.unit());
        let architecture = match penalty.shape {
            Shape::L0 | Shape::Cel0 => Architecture::JumpRelu,
            Shape::L1 => Architecture::Standard,
            _ => Architecture::Proximal(penalty),
        };
        let b_enc = match penalty.shape {
            Shape::L1 => folded.b_enc() - penalty.weight,
            _ => folded.b_enc(),
        };
        Ok(SparseCoder {
            architecture,
            weights: folded.weights.clone().with("b_enc", b_enc),
            ..folded
        })
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
