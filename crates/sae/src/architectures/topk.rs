//! Training of TopK coders (Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv
//! 2406.04093).

use burn::tensor::Tensor;
use lapidary_coder::{Architecture, Coder, SparseCoder};

use super::{Method, StepContext};
use crate::encoded::{Encoded, LayerInput, SubsetLoss};
use crate::keys::Facts;

/// Multi-TopK (appendix of that paper, for reconstructions that hold with another k): what 4k
/// latents leave unexplained counts an eighth, as in sparsify.
const MULTI: usize = 4;
const MULTI_WEIGHT: f64 = 1.0 / 8.0;

pub(crate) struct TopK;

impl Method for TopK {
    fn facts(&self) -> Facts {
        Facts {
            trains_end_to_end: true,
            ..Facts::TOPK_LIKE
        }
    }

    fn encode(&self, layer: &LayerInput<'_>, context: &StepContext<'_>) -> Encoded {
        let coder = layer.coder;
        let centred = coder.centre(layer.x.clone());
        if !context.coder.multi_topk {
            return Encoded::pre_activations(coder.encode_centred(centred));
        }
        // Codes descend, so the k largest of the 4k are the first columns.
        let k = coder.k().unwrap_or(0).min(coder.d_sae());
        let wide = SparseCoder {
            architecture: Architecture::TopK { k: MULTI * k },
            ..coder.clone()
        };
        let codes = wide.encode_centred(centred);
        let [n, width] = codes.indices.dims();
        let device = codes.values.device();
        let first = vec![
            Tensor::<2>::ones([n, k], &device),
            Tensor::zeros([n, width - k], &device),
        ];
        Encoded {
            own: Some(Tensor::cat(first, 1)),
            subsets: vec![SubsetLoss {
                active: None,
                weight: MULTI_WEIGHT,
            }],
            ..Encoded::pre_activations(codes)
        }
    }
}
