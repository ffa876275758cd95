//! TopK: of each token the k largest pre-activations, if positive (Gao et al. 2024, "Scaling and evaluating sparse
//! autoencoders", arXiv 2406.04093).

use burn::tensor::{Tensor, activation::relu};
use lapidary_kernels::{SparseCodes, encode_topk};
use serde_json::{Value, json};

use crate::coder::{SparseCoder, Weights};
use crate::coders::{Learned, Method, Now};
use crate::cross_layer::sparse_layers_step;
use crate::ends::{Batch, Scaling};
use crate::error::SaeError;
use crate::fold::{Fold, fold};
use crate::formats::saelens::Cfg;
use crate::sparse_step::{Part, sparse_step};

/// Multi-TopK (appendix of that paper, for reconstructions that hold with another k): what 4k latents leave unexplained counts an
/// eighth, as in sparsify.
const MULTI: usize = 4;
const MULTI_WEIGHT: f64 = 1.0 / 8.0;

pub(crate) struct TopK;

impl Method for TopK {
    fn name(&self) -> &'static str {
        "topk"
    }

    fn counts_latents(&self) -> bool {
        true
    }

    fn learns_end_to_end(&self) -> bool {
        true
    }

    fn crosses_layers(&self) -> bool {
        true
    }

    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        let k = coder.k.min(coder.d_sae());
        let codes = encode_topk(x, coder.w_enc(), coder.b_enc(), k);
        SparseCodes {
            values: relu(codes.values),
            indices: codes.indices,
        }
    }

    fn learn(&self, coder: &SparseCoder, batch: &Batch, now: &Now<'_>) -> Learned {
        if let Some(layers) = coder.each_layer() {
            return sparse_layers_step(coder, &layers, batch, now);
        }
        let centred = coder.centre(batch.x.clone());
        if !now.config.coder.multi_topk {
            let codes = self.encode(coder, centred.clone());
            return sparse_step(coder, batch, centred, codes, &[Part::WHOLE], now);
        }
        // Codes descend, so the k largest of the 4k are the first columns.
        let k = coder.k.min(coder.d_sae());
        let wide = SparseCoder {
            k: MULTI * coder.k,
            ..coder.clone()
        };
        let codes = self.encode(&wide, centred.clone());
        let [n, width] = codes.indices.dims();
        let device = codes.values.device();
        let first = vec![
            Tensor::<2>::ones([n, k], &device),
            Tensor::zeros([n, width - k], &device),
        ];
        let own = Part {
            on: Some(Tensor::cat(first, 1)),
            weight: 1.0,
        };
        let wider = Part {
            on: None,
            weight: MULTI_WEIGHT,
        };
        sparse_step(coder, batch, centred, codes, &[own, wider], now)
    }

    /// Rows keep their norms, 1 in an autoencoder and any in a transcoder: dividing by them would change which latents are the largest.
    fn finish(
        &self,
        coder: &SparseCoder,
        _threshold: f64,
        scaling: &Scaling,
    ) -> Result<SparseCoder, SaeError> {
        let how = Fold {
            unit_rows: false,
            ..Fold::default()
        };
        fold(coder, scaling, how)
    }

    fn cfg(&self, coder: &SparseCoder) -> Vec<(&'static str, Value)> {
        vec![
            ("k", json!(coder.k)),
            ("rescale_acts_by_decoder_norm", json!(false)),
        ]
    }

    fn read_cfg(&self, cfg: &Cfg, mut coder: SparseCoder) -> Result<SparseCoder, SaeError> {
        coder.k = cfg.k()?;
        if coder.k > coder.d_sae() {
            return Err(cfg.wrong("k", &format!("at most d_sae = {}", coder.d_sae())));
        }
        if cfg.flag("rescale_acts_by_decoder_norm", false)? {
            coder.weights = rescaled(&coder);
        }
        Ok(coder)
    }
}

/// Weights of a coder whose latents were compared after multiplication by their decoder norm: with that folded in they are
/// as they are.
fn rescaled(coder: &SparseCoder) -> Weights {
    let norms = coder.w_dec().square().sum_dim(1).sqrt(); // [d_sae, 1]
    let divisor = norms.clone().mask_fill(norms.clone().equal_elem(0.0), 1.0);
    let b_enc = coder.b_enc() * norms.clone().squeeze_dim(1);
    let weights = coder.weights.clone();
    weights
        .with("w_enc", coder.w_enc() * norms)
        .with("b_enc", b_enc)
        .with("w_dec", coder.w_dec() / divisor)
}
