//! Matching pursuit: the encoder takes away, one after the other, the decoder rows that fit best what is left (Costa, Fel,
//! Lubana, Tolooshams, Ba 2025, "From flat to hierarchical: extracting sparse representations with matching pursuit"). There is no
//! other encoder, and the number of steps can be another after training.

use burn::tensor::Tensor;
use lapidary_kernels::{Pursuit, SparseCodes, pursue, pursuit_gradient};
use lapidary_model::settings::{Reader, SettingsError};
use serde_json::{Value, json};

use crate::coder::{Architecture, SparseCoder, Weights};
use crate::coders::{Codes, Gradient, Learned, Method, Now, Terms};
use crate::config::RunConfig;
use crate::ends::{Batch, Scaling};
use crate::error::SaeError;
use crate::fold::{Fold, fold};
use crate::formats::saelens::Cfg;
use crate::losses;
use crate::pursuit::codes;

/// Reads `[coder.matching_pursuit]`.
pub(crate) fn read(r: &mut Reader) -> Result<Pursuit, SettingsError> {
    let threshold = "coder.matching_pursuit.residual_threshold";
    let read = Pursuit {
        residual_threshold: r.or(threshold, 0.0)?,
        stop_on_duplicate_support: r
            .or("coder.matching_pursuit.stop_on_duplicate_support", false)?,
        signed: r.or("coder.matching_pursuit.signed", false)?,
        refit: r.or("coder.matching_pursuit.refit", false)?,
    };
    match read.residual_threshold >= 0.0 {
        true => Ok(read),
        false => Err(r.wrong(threshold, read.residual_threshold, "0 or more")),
    }
}

pub(crate) struct MatchingPursuit;

/// Steps that a file or a recipe may ask for: each takes time, and room in the codes.
const MOST_STEPS: usize = 1 << 16;

/// What SAELens would not do as it is done here bears another name, which it refuses.
const OURS: &str = "lapidary_matching_pursuit";

impl Method for MatchingPursuit {
    fn name(&self) -> &'static str {
        "matching_pursuit"
    }

    fn repeats(&self) -> bool {
        true
    }

    fn most_k(&self, _latents: usize) -> usize {
        MOST_STEPS
    }

    fn has_encoder(&self) -> bool {
        false
    }

    fn frees_decoder_norm(&self) -> bool {
        true
    }

    fn free_initial_norm(&self) -> f64 {
        1.0
    }

    fn contradiction(&self, config: &RunConfig, _d_sae: usize) -> Option<String> {
        (!config.coder.apply_b_dec_to_input).then(|| {
            "`coder.apply_b_dec_to_input` = false does not go with `coder.architecture` = \"matching_pursuit\": what is pursued is what \
             `b_dec` leaves"
                .to_owned()
        })
    }

    fn shapes(&self, d_in: usize, _d_out: usize, d_sae: usize) -> Vec<(&'static str, Vec<usize>)> {
        vec![("w_dec", vec![d_sae, d_in]), ("b_dec", vec![d_in])]
    }

    fn init(
        &self,
        _w_enc: Tensor<2>,
        w_dec: Tensor<2>,
        b_dec: Tensor<1>,
        _config: &RunConfig,
    ) -> Weights {
        Weights::new([("w_dec", w_dec.into()), ("b_dec", b_dec.into())])
    }

    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        let pursued = pursue(x, coder.w_dec(), coder.k, &how(coder));
        codes(&pursued, coder.d_sae())
    }

    fn learn(&self, coder: &SparseCoder, batch: &Batch, _now: &Now<'_>) -> Learned {
        let how = how(coder);
        let x = batch.x.clone();
        let n = x.dims()[0].max(1) as f64;
        let pursued = pursue(coder.centre(x.clone()), coder.w_dec(), coder.k, &how);
        let codes = codes(&pursued, coder.d_sae());
        let variance = losses::batch_variance(x);
        let mse = pursued.residual.clone().square().sum() / n;
        let fvu = mse.clone() / variance.clone();
        let (w_dec, starts) = pursuit_gradient(&pursued, coder.w_dec(), how.refit, 1.0);
        let factor = (variance * n).recip(); // the loss is fvu
        let gradients = vec![
            (
                "w_dec",
                Gradient::Matrix(w_dec * factor.clone().unsqueeze()),
            ),
            // What is pursued is x − b_dec.
            ("b_dec", Gradient::Vector(starts.neg() * factor)),
        ];
        Learned {
            terms: Terms {
                total: fvu.clone(),
                mse,
                fvu,
                penalty: None,
                aux: None,
                codes: Codes::Sparse(codes),
                threshold: None,
            },
            gradients,
        }
    }

    /// Atoms get norm 1; the threshold is one of raw activations then.
    fn finish(
        &self,
        coder: &SparseCoder,
        _threshold: f64,
        scaling: &Scaling,
    ) -> Result<SparseCoder, SaeError> {
        let folded = fold(coder, scaling, Fold::default())?;
        let mut how = how(coder);
        how.residual_threshold /= scaling.unit();
        let weights = [
            ("w_dec", folded.w_dec().into()),
            ("b_dec", folded.b_dec().into()),
        ];
        Ok(SparseCoder {
            architecture: Architecture::MatchingPursuit(how),
            weights: Weights::new(weights),
            ..folded
        })
    }

    fn cfg(&self, coder: &SparseCoder) -> Vec<(&'static str, Value)> {
        let how = how(coder);
        let mut cfg = vec![
            ("residual_threshold", json!(how.residual_threshold)),
            ("max_iterations", json!(coder.k)),
            (
                "stop_on_duplicate_support",
                json!(how.stop_on_duplicate_support),
            ),
        ];
        if how.signed || how.refit {
            cfg.extend([
                ("architecture", json!(OURS)),
                ("signed", json!(how.signed)),
                ("refit", json!(how.refit)),
            ]);
        }
        cfg
    }

    fn other_names(&self) -> &'static [&'static str] {
        &[OURS]
    }

    fn read_cfg(&self, cfg: &Cfg, mut coder: SparseCoder) -> Result<SparseCoder, SaeError> {
        if !coder.apply_b_dec_to_input {
            return Err(cfg.wrong("apply_b_dec_to_input", "true"));
        }
        coder.k = match cfg.has("max_iterations") {
            true => cfg.size_up_to("max_iterations", MOST_STEPS, "steps")?,
            false => coder.d_in(), // SAELens's default
        };
        coder.architecture = Architecture::MatchingPursuit(Pursuit {
            residual_threshold: cfg.number("residual_threshold", 1e-2)?,
            stop_on_duplicate_support: cfg.flag("stop_on_duplicate_support", true)?,
            signed: cfg.flag("signed", false)?,
            refit: cfg.flag("refit", false)?,
        });
        Ok(coder)
    }
}

fn how(coder: &SparseCoder) -> Pursuit {
    match coder.architecture {
        Architecture::MatchingPursuit(how) => how,
        _ => Pursuit::PLAIN,
    }
}
