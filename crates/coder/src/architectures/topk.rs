//! TopK: the k largest pre-activations of each token, if positive (Gao et al. 2024, "Scaling and
//! evaluating sparse autoencoders", arXiv 2406.04093).

use burn::tensor::{Tensor, activation::relu};
use lapidary_io::Fields;
use lapidary_kernels::{SparseCodes, encode_topk};
use serde_json::{Value, json};

use crate::architectures::{Architecture, Finished, Rule};
use crate::error::CoderError;
use crate::fold::{Fold, Normalized, fold};
use crate::weights::Weights;

pub(crate) struct TopK {
    pub(crate) k: usize,
}

impl Rule for TopK {
    fn architecture(&self) -> Architecture {
        Architecture::TopK { k: self.k }
    }

    fn encode(&self, weights: &Weights, x: Tensor<2>) -> SparseCodes {
        let k = self.k.min(weights.latents());
        let (w_enc, b_enc) = (weights.encoder(), weights.the_vector("b_enc"));
        let codes = encode_topk(x, w_enc, b_enc, k, weights.encoder_state());
        SparseCodes {
            values: relu(codes.values),
            indices: codes.indices,
        }
    }

    /// Rows keep their norms, 1 in an autoencoder and any in a transcoder: to divide by them would
    /// change which latents are the largest.
    fn finish(&self, normalized: &Normalized<'_>, _threshold: f64) -> Result<Finished, CoderError> {
        let how = Fold {
            unit_rows: false,
            ..Fold::default()
        };
        Ok((self.architecture(), fold(normalized, how)?))
    }

    fn takes_k(&self) -> bool {
        true
    }

    fn crosses_layers(&self) -> bool {
        true
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        vec![("k", json!(self.k))]
    }

    fn read_parameters(
        &self,
        fields: &Fields,
        [.., d_sae]: [usize; 3],
    ) -> Result<Architecture, CoderError> {
        let k = fields.size_up_to("k", d_sae, "d_sae")?;
        Ok(Architecture::TopK { k })
    }
}
