//! TopK: the k largest pre-activations of each token, if positive (Gao et al. 2024, "Scaling and
//! evaluating sparse autoencoders", arXiv 2406.04093).

use burn::tensor::{Tensor, activation::relu};
use lapidary_io::Fields;
use lapidary_kernels::{SparseCodes, encode_topk};
use serde_json::{Value, json};

use crate::architectures::{Architecture, Rule};
use crate::coder::Coder;
use crate::error::CoderError;
use crate::fold::{Fold, fold};
use crate::scaling::Scaling;
use crate::sparse_coder::SparseCoder;

pub(crate) struct TopK {
    pub(crate) k: usize,
}

impl Rule for TopK {
    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        let k = self.k.min(coder.d_sae());
        let codes = encode_topk(x, coder.w_enc(), coder.b_enc(), k);
        SparseCodes {
            values: relu(codes.values),
            indices: codes.indices,
        }
    }

    /// Rows keep their norms, 1 in an autoencoder and any in a transcoder: to divide by them would
    /// change which latents are the largest.
    fn finish(
        &self,
        coder: &SparseCoder,
        _threshold: f64,
        scaling: &Scaling,
    ) -> Result<SparseCoder, CoderError> {
        let how = Fold {
            unit_rows: false,
            ..Fold::default()
        };
        fold(coder, scaling, how)
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
