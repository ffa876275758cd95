//! Training of coders with proximal operators: of the squared error plus twice the penalty, of
//! whose half the operator is.

use burn::tensor::{Tensor, TensorData};
use lapidary_coder::{Architecture, ArchitectureKind, Coder, Penalty, Shape, SparseCoder};
use lapidary_io::settings::Reader;
use lapidary_kernels::{SparseCodes, encode_threshold};

use super::start::lowered;
use super::{ArchitectureTables, Choices, Method, StartContext, StepContext, Wrong};
use crate::encoded::{Backward, Codes, Encoded, LayerInput, Weighted};
use crate::keys::{Facts, table};

table! {
    /// `[coder.proximal]`: what only `proximal` has.
    ProximalConfig -> ResolvedProximal, "coder.proximal";
    /// The penalty: `l0`, `l1`, `l_half`, `log_sum`, `cel0`, `scad` or `mcp`
    /// ([formulas](../methods/proximal.md)).
    shape: Shape = fixed(Penalty::DEFAULT.shape);
    /// The weight λ in the formula of the penalty. λ is for normalized activations. The penalty is
    /// added to half the squared error of each token. λ rises from 0 over
    /// `training.sparsity_warmup_steps` steps.
    weight: f64 = fixed(Penalty::DEFAULT.weight), "0 or more" => |v| *v >= 0.0;
    /// The second parameter of the penalty: γ for `mcp` (above 1), *a* for `scad` (above 2), ε for
    /// `log_sum` (above 0). The other penalties have none.
    bend: f64 = read(|_, r| shape(r).usual_shape_param(), "2 for `mcp`, 3.7 for `scad`, 0.05 for `log_sum`");
}

pub(crate) struct Proximal;

impl Method for Proximal {
    fn facts(&self) -> Facts {
        Facts {
            penalty_weight: Some("coder.proximal.weight"),
            lr_factor: 1.5,
            ..Facts::DEFAULT
        }
    }

    fn architecture(
        &self,
        _: ArchitectureKind,
        _: usize,
        tables: &ArchitectureTables,
    ) -> Architecture {
        Architecture::Proximal(penalty(&tables.proximal))
    }

    fn wrong(&self, tables: &ArchitectureTables) -> Option<Wrong> {
        let expected = penalty(&tables.proximal).expected_shape_param()?;
        Some(Wrong {
            key: "coder.proximal.bend",
            found: tables.proximal.bend.to_string(),
            expected,
        })
    }

    /// The penalty is part of how codes are found, so it must have its whole weight before training
    /// ends.
    fn contradiction(&self, choices: &Choices<'_>) -> Option<String> {
        let (rises, steps) = (choices.training.sparsity_warmup_steps?, choices.steps);
        (rises > 0 && rises >= steps).then(|| {
            format!(
                "`training.sparsity_warmup_steps` = {rises} is not less than the {steps} steps of the run: the penalty would never \
                 have its whole weight, with which a \"proximal\" coder encodes"
            )
        })
    }

    fn start(&self, coder: SparseCoder, x: Tensor<2>, given: &StartContext<'_>) -> SparseCoder {
        lowered(coder, x, "b_enc", given.target_l0)
    }

    fn encode(&self, layer: &LayerInput<'_>, context: &StepContext<'_>) -> Encoded {
        let mut penalty = match layer.coder.architecture {
            Architecture::Proximal(penalty) => penalty,
            _ => Penalty::DEFAULT,
        };
        penalty.weight *= context.penalty_rise(); // the controller's factor is in it already
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

/// The shape of the penalty, before its table is read.
fn shape(r: &Reader) -> Shape {
    r.peek_as("coder.proximal.shape", Penalty::DEFAULT.shape)
}

fn penalty(keys: &ProximalConfig) -> Penalty {
    Penalty {
        shape: keys.shape,
        weight: keys.weight,
        shape_param: keys.bend,
    }
}

/// A function of every value, on the host.
fn each(values: &Tensor<2>, f: impl Fn(f64) -> f64) -> Tensor<2> {
    let (shape, device) = (values.dims(), values.device());
    let values: Vec<f32> = values.to_data().iter().collect();
    let mapped: Vec<f32> = values.iter().map(|v| f(f64::from(*v)) as f32).collect();
    Tensor::from_data(TensorData::new(mapped, shape), &device)
}
