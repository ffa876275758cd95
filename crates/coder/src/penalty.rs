//! Sparsity penalties of one number and their proximal operators: `prox(u)` is the x of least ½(x −
//! u)² + penalty(x). Here all numbers are at least 0, as activations are.
//!
//! l0, l1; l½ (Xu, Chang, Xu, Zhang 2012); log-sum (Candès et al. 2008); CEL0, the tightest
//! continuous relaxation of l0 (Soubies, Blanc-Féraud, Aubert 2015), for atoms of norm 1; SCAD
//! (Fan, Li 2001); MCP (Zhang 2010).

use lapidary_io::settings::Named;
use serde::{Deserialize, Serialize};

/// The shape of a penalty; its weight λ comes with each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// λx.
    L1,
    /// λ where x is not 0.
    L0,
    /// λ√x.
    LHalf,
    /// λ ln(1 + x/ε).
    LogSum,
    /// λ − ½(x − √(2λ))² up to √(2λ), then λ.
    Cel0,
    /// λx at first, bending over a λ to a constant.
    Scad,
    /// λx − x²/2γ up to γλ, then a constant.
    Mcp,
}

impl Named for Shape {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Mcp, "mcp"),
        (Self::Scad, "scad"),
        (Self::LogSum, "log_sum"),
        (Self::LHalf, "l_half"),
        (Self::L0, "l0"),
        (Self::Cel0, "cel0"),
        (Self::L1, "l1"),
    ];
}

impl Shape {
    /// The usual [`Penalty::shape_param`]; 0 where there is none.
    #[must_use]
    pub const fn usual_shape_param(self) -> f64 {
        match self {
            Self::Mcp => 2.0,
            Self::Scad => 3.7,
            Self::LogSum => 0.05,
            Self::LHalf | Self::L0 | Self::Cel0 | Self::L1 => 0.0,
        }
    }
}

/// A penalty with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Penalty {
    /// Which.
    pub shape: Shape,
    /// λ.
    pub weight: f64,
    /// SCAD's a (above 2), MCP's γ (above 1), log-sum's ε (above 0).
    #[serde(rename = "bend")]
    pub shape_param: f64,
}

impl Penalty {
    /// The penalty of a coder for which nothing else is said.
    pub const DEFAULT: Self = Self {
        shape: Shape::Mcp,
        weight: 0.01,
        shape_param: 2.0,
    };

    /// What is expected of [`Self::shape_param`], if it is not that.
    #[must_use]
    pub fn expected_shape_param(&self) -> Option<&'static str> {
        match self.shape {
            Shape::Scad if self.shape_param <= 2.0 => Some("more than 2 for scad"),
            Shape::Mcp if self.shape_param <= 1.0 => Some("more than 1 for mcp"),
            Shape::LogSum if self.shape_param <= 0.0 => Some("more than 0 for log_sum"),
            _ => None,
        }
    }

    /// The penalty of x ≥ 0.
    #[must_use]
    pub fn value(&self, x: f64) -> f64 {
        let (w, b) = (self.weight, self.shape_param);
        match self.shape {
            Shape::L1 => w * x,
            Shape::L0 => w * f64::from(u8::from(x > 0.0)),
            Shape::LHalf => w * x.sqrt(),
            Shape::LogSum => w * (x / b).ln_1p(),
            Shape::Cel0 => {
                let left = ((2.0 * w).sqrt() - x).max(0.0);
                w - 0.5 * left * left
            }
            Shape::Scad if x <= w => w * x,
            Shape::Scad if x <= b * w => (2.0 * b * w * x - x * x - w * w) / (2.0 * (b - 1.0)),
            Shape::Scad => w * w * (b + 1.0) / 2.0,
            Shape::Mcp if x <= b * w => w * x - x * x / (2.0 * b),
            Shape::Mcp => 0.5 * b * w * w,
        }
    }

    /// Its derivative at x > 0.
    #[must_use]
    pub fn slope(&self, x: f64) -> f64 {
        let (w, b) = (self.weight, self.shape_param);
        match self.shape {
            Shape::L1 => w,
            Shape::L0 => 0.0,
            Shape::LHalf => w / (2.0 * x.sqrt()),
            Shape::LogSum => w / (b + x),
            Shape::Cel0 => ((2.0 * w).sqrt() - x).max(0.0),
            Shape::Scad if x <= w => w,
            Shape::Scad => ((b * w - x) / (b - 1.0)).max(0.0),
            Shape::Mcp => (w - x / b).max(0.0),
        }
    }

    /// Its second derivative at x > 0.
    fn curvature(&self, x: f64) -> f64 {
        let (w, b) = (self.weight, self.shape_param);
        match self.shape {
            Shape::L1 | Shape::L0 => 0.0,
            Shape::LHalf => -w / (4.0 * x.powf(1.5)),
            Shape::LogSum => -w / (b + x).powi(2),
            Shape::Cel0 if x < (2.0 * w).sqrt() => -1.0,
            Shape::Scad if x > w && x < b * w => -1.0 / (b - 1.0),
            Shape::Mcp if x < b * w => -1.0 / b,
            Shape::Cel0 | Shape::Scad | Shape::Mcp => 0.0,
        }
    }

    /// The proximal operator at u; 0 for u ≤ 0.
    #[must_use]
    pub fn prox(&self, u: f64) -> f64 {
        let (w, b) = (self.weight, self.shape_param);
        if u <= 0.0 || w == 0.0 {
            return u.max(0.0);
        }
        match self.shape {
            Shape::L1 => (u - w).max(0.0),
            Shape::L0 | Shape::Cel0 => {
                if u > (2.0 * w).sqrt() {
                    u
                } else {
                    0.0
                }
            }
            Shape::LHalf => {
                if u <= 1.5 * w.powf(2.0 / 3.0) {
                    return 0.0;
                }
                let angle = (w / 4.0 * (u / 3.0).powf(-1.5)).min(1.0).acos();
                2.0 / 3.0 * u * (1.0 + (2.0 / 3.0 * (std::f64::consts::PI - angle)).cos())
            }
            Shape::LogSum => {
                // Where the slope is 0, if anywhere, and then only if that is better than 0.
                let under = (u + b).powi(2) - 4.0 * w;
                let x = 0.5 * ((u - b) + under.max(0.0).sqrt());
                let cost = |x: f64| 0.5 * (x - u).powi(2) + self.value(x);
                if under >= 0.0 && x > 0.0 && cost(x) < cost(0.0) {
                    x
                } else {
                    0.0
                }
            }
            Shape::Scad if u <= 2.0 * w => (u - w).max(0.0),
            Shape::Scad if u <= b * w => ((b - 1.0) * u - b * w) / (b - 2.0),
            Shape::Mcp if u <= w => 0.0,
            Shape::Mcp if u <= b * w => (u - w) / (1.0 - 1.0 / b),
            Shape::Scad | Shape::Mcp => u,
        }
    }

    /// The derivative of [`Penalty::prox`] where it gives x > 0: the condition x + slope(x) = u
    /// says 1 / (1 + curvature).
    #[must_use]
    pub fn prox_slope(&self, x: f64) -> f64 {
        match self.shape {
            Shape::Cel0 => 1.0, // only values beyond the bend are given
            _ => 1.0 / (1.0 + self.curvature(x)),
        }
    }

    /// The penalty of activations that are `scale` times smaller, for which the operator gives
    /// `scale` times smaller values.
    #[must_use]
    pub fn shrunk(&self, scale: f64) -> Self {
        let (weight, shape_param) = match self.shape {
            Shape::L1 | Shape::Scad | Shape::Mcp => (self.weight / scale, self.shape_param),
            Shape::L0 | Shape::Cel0 => (self.weight / scale.powi(2), self.shape_param),
            Shape::LHalf => (self.weight / scale.powf(1.5), self.shape_param),
            Shape::LogSum => (self.weight / scale.powi(2), self.shape_param / scale),
        };
        Self {
            weight,
            shape_param,
            ..*self
        }
    }

    /// The least u that the operator does not make 0, for those operators that leave all others as
    /// they are.
    #[must_use]
    pub fn threshold(&self) -> Option<f64> {
        let hard = matches!(self.shape, Shape::L0 | Shape::Cel0);
        hard.then(|| (2.0 * self.weight).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(Shape, f64); 7] = [
        (Shape::L1, 0.0),
        (Shape::L0, 0.0),
        (Shape::LHalf, 0.0),
        (Shape::LogSum, 0.3),
        (Shape::Cel0, 0.0),
        (Shape::Scad, 3.7),
        (Shape::Mcp, 2.0),
    ];

    fn all(weight: f64) -> impl Iterator<Item = Penalty> {
        ALL.into_iter().map(move |(shape, shape_param)| Penalty {
            shape,
            weight,
            shape_param,
        })
    }

    #[test]
    fn no_point_of_a_grid_beats_the_proximal_operator() {
        for weight in [0.05, 0.4, 1.3] {
            for p in all(weight) {
                for i in 0..40 {
                    let u = f64::from(i) * 0.11 + 0.013;
                    let cost = |x: f64| 0.5 * (x - u).powi(2) + p.value(x);
                    let found = p.prox(u);
                    let best = (0..40_001)
                        .map(|j| cost(f64::from(j) * 5e-5 * 2.5))
                        .fold(f64::INFINITY, f64::min);
                    assert!(
                        found >= 0.0 && cost(found) <= best + 1e-9,
                        "{p:?} at {u}: {found}"
                    );
                }
                assert_eq!(p.prox(-1.0), 0.0);
            }
        }
    }

    #[test]
    fn slopes_are_those_of_differences() {
        let step = 1e-6;
        for p in all(0.4) {
            for i in 1..40 {
                let x = f64::from(i) * 0.117;
                let expected = (p.value(x + step) - p.value(x - step)) / (2.0 * step);
                assert!((p.slope(x) - expected).abs() < 1e-5, "{p:?} at {x}");
                let (low, high) = (p.prox(x - step), p.prox(x + step));
                if low > 0.0 {
                    let expected = (high - low) / (2.0 * step);
                    let found = p.prox_slope(p.prox(x));
                    assert!(
                        (found - expected).abs() < 1e-3 * expected,
                        "{p:?} at {x}: {found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_shrunk_penalty_gives_shrunk_values() {
        for p in all(0.4) {
            for u in [0.3, 0.7, 1.1, 2.5] {
                let small = p.shrunk(8.0).prox(u / 8.0);
                assert!((small - p.prox(u) / 8.0).abs() < 1e-12, "{p:?} at {u}");
            }
        }
    }
}
