//! Rotary position embedding (Su et al. 2021) in the half-split layout that Hugging Face
//! checkpoints use, on all or the first dimensions of a head, with the scalings of long-context
//! models: position interpolation (Chen et al. 2023), Llama 3's, and YaRN (Peng et al. 2023).
//! Source of the formulas: transformers, `modeling_rope_utils.py`.

use crate::ModelError;
use crate::fields::Fields;
use burn::tensor::{Tensor, TensorData};
use lapidary_kernels::{Angles, fused_on, rotate_heads};
use serde_json::Value;
use std::sync::Arc;

/// Angles of a rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base.
    pub theta: f64,
    /// How many of a head's first dimensions turn.
    pub dims: usize,
    /// How frequencies are changed for long contexts.
    pub scaling: RopeScaling,
}

/// How a rotary embedding's frequencies are stretched.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by one factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Each divided by its own factor (GGUF files of Llama 3 have these).
    Factors(
        /// The factors, `dims / 2`.
        Vec<f64>,
    ),
    /// Slow ones divided, fast ones kept, the rest in between (Llama 3).
    Llama3 {
        /// Divides slow frequencies.
        factor: f64,
        /// Turns in the original context below which a frequency is slow.
        low_freq_factor: f64,
        /// Turns in the original context above which a frequency is fast.
        high_freq_factor: f64,
        /// The original context.
        original: f64,
    },
    /// YaRN: as Llama 3 with a ramp over dimensions, and sines and cosines multiplied.
    Yarn {
        /// Divides slow frequencies.
        factor: f64,
        /// Turns in the original context above which a frequency is kept.
        beta_fast: f64,
        /// Turns in the original context below which a frequency is divided.
        beta_slow: f64,
        /// The original context.
        original: f64,
        /// Multiplies sines and cosines.
        attention_factor: f64,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
}

impl Rope {
    /// Reads the rotary embedding of a `config.json`: `rope_theta` and `rope_scaling` up to
    /// transformers 4, `rope_parameters` from 5 on. What is not implemented is refused, since
    /// running it unscaled would be silently wrong.
    pub(crate) fn read(
        fields: &Fields,
        d_head: usize,
        default_theta: f64,
    ) -> Result<Self, ModelError> {
        let theta = fields.number_or("rope_theta", default_theta)?;
        let share = fields.number_or("partial_rotary_factor", 1.0)?;
        Self::with(fields, theta, share, d_head)
    }

    /// The same where base and share of the dimensions have other keys: they hold unless the
    /// parameters say otherwise.
    pub(crate) fn with(
        fields: &Fields,
        theta: f64,
        share: f64,
        d_head: usize,
    ) -> Result<Self, ModelError> {
        // Where both are there, transformers takes the older one, unless it is empty.
        let older = fields.get("rope_scaling");
        let older = older.filter(|p| p.as_object().is_none_or(|p| !p.is_empty()));
        let (place, parameters) = match (older, fields.get("rope_parameters")) {
            (Some(older), _) => ("rope_scaling", Some(older)),
            (None, Some(newer)) => ("rope_parameters", Some(newer)),
            (None, None) => ("rope_theta", None),
        };
        Self::of(fields, place, parameters, theta, share, d_head)
    }

    /// Reads one set of parameters, `field` of `config.json`; `theta` and `share` hold unless it
    /// says otherwise.
    pub(crate) fn of(
        fields: &Fields,
        field: &str,
        parameters: Option<&Value>,
        theta: f64,
        share: f64,
        d_head: usize,
    ) -> Result<Self, ModelError> {
        let get = |name: &str| {
            parameters
                .and_then(|p| p.get(name))
                .filter(|v| !v.is_null())
        };
        let number = |name: &str| match get(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
                _ => Err(fields.wrong(field, &format!("a positive {name}"))),
            },
        };
        let need = |name: &str| {
            number(name)?.ok_or_else(|| fields.wrong(field, &format!("a positive {name}")))
        };
        let theta = number("rope_theta")?.unwrap_or(theta);
        let share = number("partial_rotary_factor")?.unwrap_or(share);
        if !(theta.is_finite() && theta > 0.0) {
            return Err(fields.wrong(field, "a positive base"));
        }
        if !(share > 0.0 && share <= 1.0) {
            return Err(fields.wrong(field, "a share of rotary dimensions in (0, 1]"));
        }
        let length = "original_max_position_embeddings";
        let original = || match (fields.optional_number(length)?, number(length)?) {
            (Some(n), _) | (None, Some(n)) => Ok::<f64, ModelError>(n),
            (None, None) => Ok(fields.size("max_position_embeddings")? as f64),
        };
        let kind = get("rope_type")
            .or_else(|| get("type"))
            .map_or(Some("default"), Value::as_str);
        let scaling = match kind {
            Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear {
                factor: need("factor")?,
            },
            Some("llama3") => {
                let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
                if low >= high {
                    return Err(fields.wrong(field, "low_freq_factor below high_freq_factor"));
                }
                RopeScaling::Llama3 {
                    factor: need("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original: original()?,
                }
            }
            Some("yarn") => {
                let factor = need("factor")?;
                let magnitude = |scale: f64| match factor > 1.0 {
                    true => 0.1 * scale * factor.ln() + 1.0,
                    false => 1.0,
                };
                let by_scales = match (number("mscale")?, number("mscale_all_dim")?) {
                    (Some(m), Some(all)) => magnitude(m) / magnitude(all),
                    _ => magnitude(1.0),
                };
                RopeScaling::Yarn {
                    factor,
                    beta_fast: number("beta_fast")?.unwrap_or(32.0),
                    beta_slow: number("beta_slow")?.unwrap_or(1.0),
                    original: original()?,
                    attention_factor: number("attention_factor")?.unwrap_or(by_scales),
                    truncate: get("truncate").and_then(Value::as_bool).unwrap_or(true),
                }
            }
            _ => {
                let expected = "rope_type \"default\", \"linear\", \"llama3\" or \"yarn\"";
                return Err(fields.wrong(field, expected));
            }
        };
        Ok(Self {
            theta,
            dims: (d_head as f64 * share) as usize,
            scaling,
        })
    }

    /// Angles a position, `dims / 2` of them, in f32 as the reference implementations have them.
    fn frequencies(&self) -> Vec<f32> {
        let dims = self.dims as f64;
        let plain = |i: usize| self.theta.powf(-2.0 * i as f64 / dims);
        let turn = std::f64::consts::TAU;
        let half = 0..self.dims / 2;
        match self.scaling {
            RopeScaling::None => half.map(|i| plain(i) as f32).collect(),
            RopeScaling::Linear { factor } => half.map(|i| (plain(i) / factor) as f32).collect(),
            RopeScaling::Factors(ref factors) => half
                .zip(factors)
                .map(|(i, factor)| (plain(i) / factor) as f32)
                .collect(),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original,
            } => half
                .map(|i| {
                    let frequency = plain(i);
                    let turns = original * frequency / turn;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (frequency * (kept + (1.0 - kept) / factor)) as f32
                })
                .collect(),
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original,
                truncate,
                ..
            } => {
                let dimension =
                    |turns: f64| dims * (original / (turns * turn)).ln() / (2.0 * self.theta.ln());
                let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
                if low == high {
                    high += 0.001;
                }
                half.map(|i| {
                    let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    (plain(i) * (1.0 - divided + divided / factor)) as f32
                })
                .collect()
            }
        }
    }
}

/// Sines and cosines of the positions of one pass.
pub(crate) struct Rotary {
    angles: Arc<Angles>,
    /// `[1 | batch, pos]`
    places: [usize; 2],
}

impl Rotary {
    /// For `positions`, `[rows, pos]` row by row: one row that all sequences share, or one each.
    pub fn new(rope: &Rope, positions: &[usize], rows: usize) -> Self {
        let frequency = rope.frequencies();
        let factor = match rope.scaling {
            RopeScaling::Yarn {
                attention_factor, ..
            } => attention_factor as f32,
            _ => 1.0,
        };
        let angles = || {
            let of = |p: &usize| {
                frequency.iter().map({
                    let p = *p as f32;
                    move |f| p * f
                })
            };
            positions.iter().flat_map(of)
        };
        let angles = Angles {
            cos: angles().map(|a| a.cos() * factor).collect(),
            sin: angles().map(|a| a.sin() * factor).collect(),
            dims: rope.dims,
        };
        Self {
            angles: Arc::new(angles),
            places: [rows, positions.len() / rows],
        }
    }

    /// Turns heads, `[batch * pos, heads * d_head]`.
    pub fn apply(&self, x: Tensor<2>, d_head: usize) -> Tensor<2> {
        if fused_on(&x.device()) {
            return rotate_heads(x, d_head, self.angles.clone());
        }
        let ([n, width], [rows, pos]) = (x.dims(), self.places);
        let (dims, half) = (self.angles.dims, self.angles.dims / 2);
        let table = |values: &Vec<f32>| {
            let table = TensorData::new(values.clone(), [rows, pos, 1, half]);
            Tensor::<4>::from_data(table, &x.device())
        };
        let (cos, sin) = (table(&self.angles.cos), table(&self.angles.sin));
        let x = x.reshape([n / pos, pos, width / d_head, d_head]);
        let (low, high) = (
            x.clone().narrow(3, 0, half),
            x.clone().narrow(3, half, half),
        );
        let mut parts = vec![
            low.clone() * cos.clone() - high.clone() * sin.clone(),
            high * cos + low * sin,
        ];
        if dims < d_head {
            parts.push(x.narrow(3, dims, d_head - dims));
        }
        Tensor::cat(parts, 3).reshape([n, width])
    }
}
