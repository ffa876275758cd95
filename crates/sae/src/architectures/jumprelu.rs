//! Training of JumpReLU coders (Rajamanoharan et al. 2024, "Jumping ahead", arXiv 2407.14435).
//! Thresholds are trained by a straight-through gradient: that of the loss smoothed over a window
//! of `bandwidth` around the threshold. Penalties: the number of active latents ("step", of that
//! paper), its squared distance from a target ("quadratic", Gemma Scope 2), or a tanh of the
//! activations (Anthropic's January 2025 update, whose loss on the pre-activations of dead latents
//! is there too).

use burn::tensor::{Int, Tensor, activation::relu};
use lapidary_coder::{Coder, SparseCoder, Weights};
use lapidary_kernels::{SparseCodes, encode_threshold};

use super::start::level;
use super::{
    ArchitectureTables, Choices, Method, ResolvedTables, StartContext, StepContext, Wrong,
};
use crate::encoded::{Backward, Codes, Encoded, LayerInput, Weighted};
use crate::keys::{Facts, names, table};
use crate::losses;
use crate::parameters::Parameters;

/// Where thresholds start if nothing else says it.
const INITIAL_THRESHOLD: f64 = 0.01;
names! {
    /// The sparsity penalty of a "jumprelu" coder.
    JumpReluPenalty {
        /// The number of active latents.
        Step = "step",
        /// The squared distance of that number from a target.
        Quadratic = "quadratic",
        /// The sum of the hyperbolic tangents of activations times decoder norms.
        Tanh = "tanh",
    }
}

table! {
    /// `[coder.jumprelu]`: what only `jumprelu` has. Sizes are in normalized activations; SAELens's
    /// are in activations of norm √d.
    JumpReluConfig -> ResolvedJumpRelu, "coder.jumprelu";
    /// The penalty. `step`: the number of active latents. `quadratic`: (2 / t) × (number of active
    /// latents − t)², where t is `coder.jumprelu.target_l0`. `tanh`: the sum over latents of
    /// tanh(`tanh_scale` × activation × decoder norm).
    penalty: JumpReluPenalty = fixed(JumpReluPenalty::Step);
    /// Weight of the penalty in the loss. The squared error, summed over dimensions, has weight 1.
    l0_coefficient: f64 = fixed(1e-3), "0 or more" => |v| *v >= 0.0;
    /// For `quadratic`: the target number of active latents per token.
    target_l0: f64 = optional("absent; required for `quadratic`"), "more than 0" => |v| *v as f32 > 0.0;
    /// Width of the window around a threshold, in units of the normalized activations. Only
    /// pre-activations in this window contribute to the gradient of the threshold.
    bandwidth: f64 = fixed(0.03), "more than 0" => |v| *v as f32 > 0.0;
    /// Start value of all thresholds.
    initial_threshold: f64 = optional("with `coder.target_l0`: the value at which about 2 × `coder.target_l0` latents per token are active in the first batch; otherwise 0.01"), "0 or more" => |v| *v >= 0.0;
    /// For `tanh`: the factor inside the tanh.
    tanh_scale: f64 = fixed(4.0), "more than 0" => |v| *v as f32 > 0.0;
    /// Weight of a loss on dead latents. For each token, this loss is the sum of (threshold −
    /// pre-activation) × decoder norm over the dead latents whose pre-activation is below the
    /// threshold.
    pre_act_coefficient: f64 = fixed(0.0), "0 or more" => |v| *v >= 0.0;
    /// Whether the straight-through gradient ([definition](../methods/jumprelu.md)) also flows to
    /// the pre-activations, and not only to the thresholds.
    ste_to_input: bool = fixed(false);
}

pub(crate) struct JumpRelu;

impl Method for JumpRelu {
    fn facts(&self) -> Facts {
        Facts {
            has_ghost_gradients: true,
            can_be_resampled: true,
            penalty_weight: Some("coder.jumprelu.l0_coefficient"),
            lr_factor: 1.5,
            trains_end_to_end: true,
            ..Facts::DEFAULT
        }
    }

    fn wrong(&self, tables: &ArchitectureTables) -> Option<Wrong> {
        let how = &tables.jumprelu;
        let lacks = how.penalty == JumpReluPenalty::Quadratic && how.target_l0.is_none();
        lacks.then(|| Wrong {
            key: "coder.jumprelu.target_l0",
            found: "nothing".to_owned(),
            expected: "a number of latents, which penalty = \"quadratic\" needs",
        })
    }

    fn contradiction(&self, choices: &Choices<'_>) -> Option<String> {
        let quadratic = choices.tables.jumprelu.penalty == JumpReluPenalty::Quadratic;
        (quadratic && choices.coder.target_l0.is_some()).then(|| {
            "`coder.target_l0` does not go with `coder.jumprelu.penalty` = \"quadratic\", which has \
             `coder.jumprelu.target_l0`: it is for \"step\" and \"tanh\""
                .to_owned()
        })
    }

    fn init(
        &self,
        w_enc: Tensor<2>,
        w_dec: Tensor<2>,
        b_dec: Tensor<1>,
        tables: &ResolvedTables,
    ) -> Weights {
        let start = tables
            .jumprelu
            .initial_threshold
            .unwrap_or(INITIAL_THRESHOLD);
        let b_enc = Tensor::<1>::zeros([w_dec.dims()[0]], &w_dec.device());
        Weights::new([
            ("w_enc", w_enc.into()),
            ("b_enc", b_enc.clone().into()),
            ("w_dec", w_dec.into()),
            ("b_dec", b_dec.into()),
            ("threshold", b_enc.add_scalar(start).into()),
        ])
    }

    fn start(&self, coder: SparseCoder, x: Tensor<2>, given: &StartContext<'_>) -> SparseCoder {
        let threshold = given.tables.jumprelu.threshold_at_start(given.target_l0);
        match (threshold, given.target_l0) {
            (None, Some(target)) => {
                let level = level(&coder, x, "b_enc", target).clamp_min(0.0);
                let weights = coder.weights.with("threshold", level);
                SparseCoder { weights, ..coder }
            }
            _ => coder,
        }
    }

    fn encode(&self, layer: &LayerInput<'_>, context: &StepContext<'_>) -> Encoded {
        let how = &context.tables.jumprelu;
        let coder = layer.coder.tracked();
        let x = coder.centre(layer.x.clone().autodiff());
        let latents = Latents::of(&coder, x.clone(), how);
        let penalty = latents.penalty(&coder, how, layer.widths);
        let dead = layer.dead.clone().filter(|_| how.pre_act_coefficient > 0.0);
        let own_aux = dead.map(|dead| Weighted {
            term: missing(&coder, x, dead, layer.widths),
            weight: how.pre_act_coefficient,
        });
        let codes = SparseCodes {
            values: latents.values.clone().inner(),
            indices: latents.indices.inner(),
        };
        Encoded {
            penalty: Some(Weighted {
                term: penalty,
                weight: how.l0_coefficient * context.penalty_factor(),
            }),
            own_aux,
            ..Encoded::new(
                Codes::Sparse(codes),
                Backward::Tracked {
                    coder,
                    values: latents.values,
                },
            )
        }
    }

    /// Below 0 a threshold means nothing.
    fn project(&self, parameters: &mut Parameters) {
        parameters.map_vectors("threshold", |t| t.clamp_min(0.0));
    }

    /// The penalty alone would be too slow: it moves thresholds with the learning rate, which falls
    /// to 0 at the end of a run.
    fn steer(&self, parameters: &mut Parameters, change: f64) {
        parameters.map_vectors("threshold", |t| t * change.exp());
    }
}

impl ResolvedJumpRelu {
    /// Where thresholds start in a run with this `coder.target_l0`, if the activations do not
    /// decide it.
    pub(crate) fn threshold_at_start(&self, target_l0: Option<f64>) -> Option<f64> {
        let of_data = target_l0.is_some();
        self.initial_threshold
            .or_else(|| (!of_data).then_some(INITIAL_THRESHOLD))
    }
}

/// The latents of a batch that are active or in the window below their threshold, with gradients
/// for the thresholds.
struct Latents {
    /// `[n, k]`, any order; 0 where not active.
    values: Tensor<2>,
    /// 1 where active, `[n, k]`.
    gates: Tensor<2>,
    indices: Tensor<2, Int>,
}

impl Latents {
    /// Of `x`, centred. Forward, a value is its pre-activation z or 0. Backward, with rect 1 in the
    /// window and 0 outside, the derivative of a value in the threshold θ is −θ/bandwidth · rect,
    /// that of a gate −1/bandwidth · rect; in z with `ste_to_input` the negative of it on top.
    fn of(coder: &SparseCoder, x: Tensor<2>, how: &ResolvedJumpRelu) -> Self {
        let half = how.bandwidth / 2.0;
        let theta = coder.vector("threshold");
        // Everything above θ − half. The same is added on both sides, for the kernel has no
        // thresholds below 0.
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

    /// Mean over tokens, before its coefficient.
    fn penalty(&self, coder: &SparseCoder, how: &ResolvedJumpRelu, parts: &[usize]) -> Tensor<1> {
        let [n, k] = self.indices.dims();
        let l0 = self.gates.clone().sum_dim(1); // [n, 1]
        let each = match (how.penalty, how.target_l0) {
            (JumpReluPenalty::Quadratic, Some(target)) => (l0 - target).square() * (2.0 / target),
            (JumpReluPenalty::Tanh, _) => {
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

/// Sum over dead latents of what their pre-activation of `x`, centred, lacks to the threshold,
/// times the decoder row's norm, mean over tokens.
fn missing(coder: &SparseCoder, x: Tensor<2>, dead: Tensor<1, Int>, parts: &[usize]) -> Tensor<1> {
    let n = x.dims()[0].max(1) as f64;
    let of = |t: Tensor<1>| t.select(0, dead.clone()).unsqueeze::<2>(); // [1, n_dead]
    let rows = coder.w_enc().select(0, dead.clone());
    let z = x.matmul(rows.transpose()) + of(coder.b_enc());
    let norms = coder.w_dec().select(0, dead.clone());
    let norms = losses::decoder_norms(norms, parts); // [n_dead, 1]
    relu(of(coder.vector("threshold")) - z).matmul(norms).sum() / n
}
