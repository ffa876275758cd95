//! JumpReLU: a latent is active, with its pre-activation as value, where that is above its threshold (Rajamanoharan et
//! al. 2024, "Jumping ahead", arXiv 2407.14435). Thresholds are trained by a straight-through gradient: that of the loss
//! smoothed over a window of `bandwidth` around the threshold. Penalties: the number of active latents ("step", of that
//! paper), its square distance from a target ("quadratic", Gemma Scope 2), or a tanh of the activations (Anthropic's
//! January 2025 update, whose loss on the pre-activations of dead latents is there too).

use burn::tensor::{Int, Tensor, activation::relu};
use lapidary_kernels::{SparseCodes, decode_sparse, encode_threshold};
use lapidary_model::settings::{Reader, SettingsError};
use serde::{Deserialize, Serialize};

use crate::coder::{SparseCoder, Weights};
use crate::coders::{Codes, Learned, Method, Now};
use crate::config::RunConfig;
use crate::ends::Batch;
use crate::losses;
use crate::parameters::Parameters;
use crate::penalized_step::{Active, Penalized, penalized_step};
use crate::schedule::rise;

/// `[coder.jumprelu]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JumpReluConfig {
    /// "step", "quadratic" or "tanh".
    pub penalty: String,
    /// Weight of the penalty against the squared error summed over dimensions.
    pub l0_coefficient: f64,
    /// "quadratic": the number of active latents a token that costs nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_l0: Option<f64>,
    /// Width of the window around a threshold in which pre-activations move it.
    pub bandwidth: f64,
    /// Where all thresholds start.
    pub initial_threshold: f64,
    /// "tanh": factor of the activations inside it.
    pub tanh_scale: f64,
    /// Weight of what dead latents' pre-activations lack to their thresholds; 0: not asked.
    pub pre_act_coefficient: f64,
    /// Whether the straight-through gradient goes to the pre-activations too.
    pub ste_to_input: bool,
}

impl JumpReluConfig {
    pub(crate) fn read(r: &mut Reader) -> Result<Self, SettingsError> {
        let read = Self {
            penalty: r.one_of(
                "coder.jumprelu.penalty",
                &["step", "quadratic", "tanh"],
                "step",
            )?,
            l0_coefficient: r.or("coder.jumprelu.l0_coefficient", 1e-3)?,
            target_l0: r.optional("coder.jumprelu.target_l0")?,
            bandwidth: r.or("coder.jumprelu.bandwidth", 0.03)?,
            initial_threshold: r.or("coder.jumprelu.initial_threshold", 0.01)?,
            tanh_scale: r.or("coder.jumprelu.tanh_scale", 4.0)?,
            pre_act_coefficient: r.or("coder.jumprelu.pre_act_coefficient", 0.0)?,
            ste_to_input: r.or("coder.jumprelu.ste_to_input", false)?,
        };
        let at_least_0 = |key: &str, value: f64| match value >= 0.0 {
            true => Ok(()),
            false => Err(r.wrong(key, value, "0 or more")),
        };
        let positive = |key: &str, value: f64| match value as f32 > 0.0 {
            true => Ok(()),
            false => Err(r.wrong(key, value, "more than 0")),
        };
        at_least_0("coder.jumprelu.l0_coefficient", read.l0_coefficient)?;
        at_least_0("coder.jumprelu.initial_threshold", read.initial_threshold)?;
        at_least_0(
            "coder.jumprelu.pre_act_coefficient",
            read.pre_act_coefficient,
        )?;
        positive("coder.jumprelu.bandwidth", read.bandwidth)?;
        positive("coder.jumprelu.tanh_scale", read.tanh_scale)?;
        match (read.penalty.as_str(), read.target_l0) {
            (_, Some(target)) => positive("coder.jumprelu.target_l0", target)?,
            ("quadratic", None) => {
                return Err(r.wrong(
                    "coder.jumprelu.target_l0",
                    "nothing",
                    "a number of latents, which penalty = \"quadratic\" needs",
                ));
            }
            _ => {}
        }
        Ok(read)
    }
}

pub(crate) struct JumpRelu;

impl Method for JumpRelu {
    fn name(&self) -> &'static str {
        "jumprelu"
    }

    fn takes_k(&self) -> bool {
        false
    }

    fn shapes(&self, d_in: usize, d_out: usize, d_sae: usize) -> Vec<(&'static str, Vec<usize>)> {
        vec![
            ("w_enc", vec![d_sae, d_in]),
            ("b_enc", vec![d_sae]),
            ("w_dec", vec![d_sae, d_out]),
            ("b_dec", vec![d_out]),
            ("threshold", vec![d_sae]),
        ]
    }

    fn init(
        &self,
        w_enc: Tensor<2>,
        w_dec: Tensor<2>,
        b_dec: Tensor<1>,
        config: &RunConfig,
    ) -> Weights {
        let start = settings(config).initial_threshold;
        let b_enc = Tensor::<1>::zeros([w_dec.dims()[0]], &w_dec.device());
        Weights::new([
            ("w_enc", w_enc.into()),
            ("b_enc", b_enc.clone().into()),
            ("w_dec", w_dec.into()),
            ("b_dec", b_dec.into()),
            ("threshold", b_enc.add_scalar(start).into()),
        ])
    }

    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        let threshold = coder.vector("threshold");
        encode_threshold(x, coder.w_enc(), coder.b_enc(), threshold)
    }

    fn has_ghosts(&self) -> bool {
        true
    }

    fn learns_end_to_end(&self) -> bool {
        true
    }

    fn crosses_layers(&self) -> bool {
        true
    }

    fn learn(&self, coder: &SparseCoder, batch: &Batch, now: &Now<'_>) -> Learned {
        penalized_step(self, coder, batch, now)
    }

    /// Below 0 a threshold means nothing.
    fn project(&self, parameters: &mut Parameters) {
        parameters.map_vectors("threshold", |t| t.clamp_min(0.0));
    }
}

impl Penalized for JumpRelu {
    fn active(
        &self,
        coder: &SparseCoder,
        x: Tensor<2>,
        parts: &[usize],
        dead: Option<Tensor<1, Int>>,
        now: &Now<'_>,
    ) -> Active {
        let how = settings(now.config);
        let latents = Latents::of(coder, x.clone(), how);
        let wanted = how.pre_act_coefficient > 0.0;
        let dead = dead.filter(|_| wanted);
        Active {
            decoded: decode_sparse(latents.codes(), coder.w_dec()),
            codes: Codes::Sparse(latents.codes()),
            penalty: latents.penalty(coder, how, parts),
            aux: dead.map(|dead| missing(coder, x, dead, parts)),
        }
    }

    fn weights(&self, now: &Now<'_>) -> (f64, f64) {
        let how = settings(now.config);
        let warmup = now.config.training.sparsity_warmup_steps.expect("resolved");
        let weight = how.l0_coefficient * rise(now.step, warmup);
        (weight, how.pre_act_coefficient)
    }
}

fn settings(config: &RunConfig) -> &JumpReluConfig {
    let found = config.coder.jumprelu.as_ref();
    found.expect("a recipe has the table of its coder")
}

/// The latents of a batch that are active or in the window below their threshold, with gradients for the thresholds.
struct Latents {
    /// `[n, k]`, any order; 0 where not active.
    values: Tensor<2>,
    /// 1 where active, `[n, k]`.
    gates: Tensor<2>,
    indices: Tensor<2, Int>,
}

impl Latents {
    /// Of `x`, centred. Forward, a value is its pre-activation z or 0. Backward, with rect 1 in the window and 0 outside, the
    /// derivative of a value in the threshold θ is −θ/bandwidth · rect, that of a gate −1/bandwidth · rect; in z with
    /// `ste_to_input` the negative of it on top.
    fn of(coder: &SparseCoder, x: Tensor<2>, how: &JumpReluConfig) -> Self {
        let half = how.bandwidth / 2.0;
        let theta = coder.vector("threshold");
        // Everything above θ − half. The same is added on both sides, for the kernel has no thresholds below 0.
        let found = encode_threshold(
            x,
            coder.w_enc(),
            coder.b_enc() + half,
            theta.clone().detach(),
        );
        let shape = found.indices.dims();
        let there = found.values.clone().greater_elem(0.0);
        let z = found.values - half;
        let places = found.indices.clone().reshape([shape[0] * shape[1]]);
        let theta = theta.select(0, places).reshape(shape); // [n, k]
        let level = theta.clone().detach();
        let above = z.clone().detach().greater(level.clone());
        let within = z.clone().detach().lower(level.clone() + half);
        let gates = above.bool_and(there.clone()).float();
        let window = within.bool_and(there).float() / how.bandwidth;
        let mut shift = level.clone() - theta; // 0, and −1 backward
        if how.ste_to_input {
            shift = shift + (z.clone() - z.clone().detach());
        }
        Self {
            values: z * gates.clone() + window.clone() * level * shift.clone(),
            gates: gates + window * shift,
            indices: found.indices,
        }
    }

    fn codes(&self) -> SparseCodes {
        SparseCodes {
            values: self.values.clone(),
            indices: self.indices.clone(),
        }
    }

    /// Mean over tokens, before its coefficient.
    fn penalty(&self, coder: &SparseCoder, how: &JumpReluConfig, parts: &[usize]) -> Tensor<1> {
        let [n, k] = self.indices.dims();
        let l0 = self.gates.clone().sum_dim(1); // [n, 1]
        let each = match (how.penalty.as_str(), how.target_l0) {
            ("quadratic", Some(target)) => (l0 - target).square() * (2.0 / target),
            ("tanh", _) => {
                let norms = losses::decoder_norms(coder.w_dec(), parts); // [d_sae, 1]
                let places = self.indices.clone().reshape([n * k]);
                let norms = norms.select(0, places).reshape([n, k]);
                (self.values.clone() * norms * how.tanh_scale)
                    .tanh()
                    .sum_dim(1)
            }
            _ => l0,
        };
        each.sum() / n.max(1) as f64
    }
}

/// Sum over dead latents of what their pre-activation of `x`, centred, lacks to the threshold, times the decoder row's norm, mean over
/// tokens.
fn missing(coder: &SparseCoder, x: Tensor<2>, dead: Tensor<1, Int>, parts: &[usize]) -> Tensor<1> {
    let n = x.dims()[0].max(1) as f64;
    let of = |t: Tensor<1>| t.select(0, dead.clone()).unsqueeze::<2>(); // [1, n_dead]
    let rows = coder.w_enc().select(0, dead.clone());
    let z = x.matmul(rows.transpose()) + of(coder.b_enc());
    let norms = coder.w_dec().select(0, dead.clone());
    let norms = losses::decoder_norms(norms, parts); // [n_dead, 1]
    relu(of(coder.vector("threshold")) - z).matmul(norms).sum() / n
}
