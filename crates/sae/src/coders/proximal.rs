//! ReLU coders with non-convex penalties. A latent is what a penalty's proximal operator makes of its pre-activation: the step by
//! which sparse coding shrinks (Daubechies, Defrise, De Mol 2004), here the only one (Gregor, LeCun 2010). For l1 that is a
//! ReLU coder whose bias is lower by λ, for l0 and CEL0 a JumpReLU with one threshold; finished coders of these kinds are stored
//! as such.

use burn::tensor::{Tensor, TensorData};
use lapidary_kernels::{SparseCodes, encode_threshold};
use lapidary_model::settings::{Reader, SettingsError};
use serde_json::{Value, json};

use crate::coder::{Architecture, SparseCoder};
use crate::coders::{Codes, Learned, Method, Now, Terms, differentiate};
use crate::config::RunConfig;
use crate::ends::{Batch, Scaling};
use crate::error::SaeError;
use crate::fold::{Fold, fold};
use crate::formats::saelens::Cfg;
use crate::losses;
use crate::penalty::{Penalty, Shape};
use crate::schedule::rise;

const SHAPES: [(&str, Shape, f64); 7] = [
    ("mcp", Shape::Mcp, 2.0),
    ("scad", Shape::Scad, 3.7),
    ("log_sum", Shape::LogSum, 0.05),
    ("l_half", Shape::LHalf, 0.0),
    ("l0", Shape::L0, 0.0),
    ("cel0", Shape::Cel0, 0.0),
    ("l1", Shape::L1, 0.0),
];

/// The penalty of a coder of which no recipe speaks.
pub(crate) const DEFAULT: Penalty = Penalty {
    shape: Shape::Mcp,
    weight: 0.01,
    bend: 2.0,
};

/// Reads `[coder.proximal]`.
pub(crate) fn read(r: &mut Reader) -> Result<Penalty, SettingsError> {
    let (shape, weight, bend) = (
        "coder.proximal.shape",
        "coder.proximal.weight",
        "coder.proximal.bend",
    );
    let name = r.one_of(shape, &SHAPES.map(|(name, ..)| name), "mcp")?;
    let found = SHAPES.into_iter().find(|(n, ..)| *n == name);
    let (_, shape, usual) = found.expect("one of these names");
    let read = Penalty {
        shape,
        weight: r.or(weight, DEFAULT.weight)?,
        bend: r.or(bend, usual)?,
    };
    if read.weight < 0.0 {
        return Err(r.wrong(weight, read.weight, "0 or more"));
    }
    match wrong_bend(&read) {
        Some(expected) => Err(r.wrong(bend, read.bend, expected)),
        None => Ok(read),
    }
}

/// What is expected of a bend that cannot be.
fn wrong_bend(p: &Penalty) -> Option<&'static str> {
    match p.shape {
        Shape::Scad if p.bend <= 2.0 => Some("more than 2 for scad"),
        Shape::Mcp if p.bend <= 1.0 => Some("more than 1 for mcp"),
        Shape::LogSum if p.bend <= 0.0 => Some("more than 0 for log_sum"),
        _ => None,
    }
}

pub(crate) struct Proximal;

/// SAELens has nothing of the kind.
const OURS: &str = "lapidary_proximal";

impl Method for Proximal {
    fn name(&self) -> &'static str {
        "proximal"
    }

    fn takes_k(&self) -> bool {
        false
    }

    fn has_encoder(&self) -> bool {
        false
    }

    /// The penalty is part of how codes are found, so it must have its whole weight before training ends.
    fn contradiction(&self, config: &RunConfig, _d_sae: usize) -> Option<String> {
        let (rises, steps) = (config.training.sparsity_warmup_steps?, config.steps());
        (rises > 0 && rises >= steps).then(|| {
            format!(
                "`training.sparsity_warmup_steps` = {rises} is not less than the {steps} steps of the run: the penalty would never \
                 have its whole weight, with which a \"proximal\" coder encodes"
            )
        })
    }

    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        let found = positive(coder, x);
        let values = each(&found.values, |u| penalty(coder).prox(u));
        SparseCodes {
            values,
            indices: found.indices,
        }
    }

    fn learn(&self, coder: &SparseCoder, batch: &Batch, now: &Now<'_>) -> Learned {
        let warmup = now.config.training.sparsity_warmup_steps.expect("resolved");
        let mut p = penalty(coder);
        p.weight *= rise(now.step, warmup);
        let coder = coder.tracked();
        let (x, y) = (batch.x.clone().autodiff(), batch.y.clone().autodiff());
        let found = positive(&coder, coder.centre(x));
        // The operator and the penalty by their values and slopes at this batch: f(u) + f'(u) (u − u), the last u tracked.
        let u = found.values.clone().inner();
        let constant = |values: Tensor<2>| values.autodiff();
        let values = each(&u, |u| p.prox(u));
        let steep = each(&values, |x| if x > 0.0 { p.prox_slope(x) } else { 0.0 });
        let moved = found.values - constant(u);
        let latents = constant(values.clone()) + moved.clone() * constant(steep);
        let slope = each(&values, |x| if x > 0.0 { p.slope(x) } else { 0.0 });
        let cost = constant(each(&values, |x| p.value(x)));
        let moved = latents.clone() - constant(values);
        let n = y.dims()[0].max(1) as f64;
        let term = (cost + moved * constant(slope)).sum() / n;

        let codes = SparseCodes {
            values: latents,
            indices: found.indices,
        };
        let mse = losses::mse(y.clone(), coder.decode(codes.clone()));
        let fvu = mse.clone() / losses::batch_variance(y);
        // The operator is that of half the squared error.
        let total = mse.clone() + term.clone() * 2.0;
        Learned {
            gradients: differentiate(&coder, &total),
            terms: Terms {
                total,
                mse,
                fvu,
                penalty: Some(term),
                aux: None,
                codes: Codes::Sparse(codes),
                threshold: None,
            },
        }
    }

    fn finish(
        &self,
        coder: &SparseCoder,
        _threshold: f64,
        scaling: &Scaling,
    ) -> Result<SparseCoder, SaeError> {
        let p = penalty(coder);
        let how = Fold {
            unit_rows: false, // they have norm 1, and another would be another penalty
            threshold: p.threshold(),
            ..Fold::default()
        };
        let folded = fold(coder, scaling, how)?;
        let p = p.shrunk(scaling.unit());
        let architecture = match p.shape {
            Shape::L0 | Shape::Cel0 => Architecture::JumpRelu,
            Shape::L1 => Architecture::Standard,
            _ => Architecture::Proximal(p),
        };
        let b_enc = match p.shape {
            Shape::L1 => folded.b_enc() - p.weight,
            _ => folded.b_enc(),
        };
        Ok(SparseCoder {
            architecture,
            weights: folded.weights.clone().with("b_enc", b_enc),
            ..folded
        })
    }

    fn other_names(&self) -> &'static [&'static str] {
        &[OURS]
    }

    fn cfg(&self, coder: &SparseCoder) -> Vec<(&'static str, Value)> {
        let p = penalty(coder);
        vec![("architecture", json!(OURS)), ("penalty", json!(p))]
    }

    fn read_cfg(&self, cfg: &Cfg, mut coder: SparseCoder) -> Result<SparseCoder, SaeError> {
        let expected = "an object with shape, weight (0 or more) and bend";
        let read = cfg.read_as::<Penalty>("penalty");
        let good = read.filter(|p| p.weight >= 0.0 && wrong_bend(p).is_none());
        let p = good.ok_or_else(|| cfg.wrong("penalty", expected))?;
        coder.architecture = Architecture::Proximal(p);
        Ok(coder)
    }
}

fn penalty(coder: &SparseCoder) -> Penalty {
    match coder.architecture {
        Architecture::Proximal(p) => p,
        _ => DEFAULT,
    }
}

/// The positive pre-activations of `x`, centred. An operator keeps their order.
fn positive(coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
    let b_enc = coder.b_enc();
    let threshold = b_enc.zeros_like();
    encode_threshold(x, coder.w_enc(), b_enc, threshold)
}

/// A function of every value, on the host.
fn each(values: &Tensor<2>, f: impl Fn(f64) -> f64) -> Tensor<2> {
    let (shape, device) = (values.dims(), values.device());
    let values: Vec<f32> = values.to_data().iter().collect();
    let mapped: Vec<f32> = values.iter().map(|v| f(f64::from(*v)) as f32).collect();
    Tensor::from_data(TensorData::new(mapped, shape), &device)
}
