//! The settings of SynthSAEBench (Chanin, Garriga-Alonso 2026) and its presets.

use lapidary_io::settings::{Reader, SettingsError};
use serde::Serialize;

use crate::error::EvaluationError;
use crate::synthetic::refusal::refuse;

/// Most children per parent.
const MOST_CHILDREN: usize = 256;

/// The kind `synth_sae_bench`: nearly orthogonal directions, firing rates that follow Zipf's law,
/// correlated firing, and trees of features. The defaults are those of the preset `16k`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Benchmark {
    /// Firing rate of the first feature: above 0 to 1; 0.4.
    pub p_max: f64,
    /// Firing rate of the last feature: above 0 to `p_max`; 0.0005.
    pub p_min: f64,
    /// Firing rates fall like (i + 1) to the minus this, rescaled to `p_min`..`p_max`: above 0 to
    /// 10; 0.5.
    pub zipf_exponent: f64,
    /// Number of trees, 0 for none; 128. A child fires only if its parent fires.
    pub roots: usize,
    /// Children per parent: 2 to 256; 4. The last parents have fewer if there are not enough
    /// features.
    pub branching: usize,
    /// Generations below a root: 1 to 64; 3.
    pub depth: usize,
    /// Share of parents of which at most one child fires per row: 0 to 1; 1.
    pub exclusive: f64,
    /// Whether a child's magnitude is multiplied by its parent's over the parent's mean; true.
    pub scale_children: bool,
    /// Whether children are drawn more often, so that they fire about as often as Zipf's law says
    /// although they need a parent; true.
    pub compensate: bool,
    /// Number of factors that correlate features, 0 for none; 25.
    pub rank: usize,
    /// Standard deviation of a feature's weight on each factor: 0 to 10; 0.1.
    pub correlation_scale: f64,
    /// Steps of Adam that make directions nearly orthogonal, 0 for random directions; 100.
    pub orthogonal_steps: usize,
    /// Learning rate of these steps: above 0 to 1; 0.0003.
    pub orthogonal_lr: f64,
    /// Mean magnitude of the first feature; 5.
    pub magnitude_first: f64,
    /// Mean magnitude of the last feature, with a straight line between the two; 4.
    pub magnitude_last: f64,
    /// The standard deviation of a feature's magnitude is |N(this, `magnitude_std_spread`²)|, drawn
    /// once per feature: 0 or more; 0.5.
    pub magnitude_std_mean: f64,
    /// See `magnitude_std_mean`: 0 or more; 0.5.
    pub magnitude_std_spread: f64,
    /// Norm of the constant vector that is added to every row: 0 or more; 0.5.
    pub bias: f64,
}

impl Benchmark {
    /// Names of the presets. `16k` is SynthSAEBench-16k.
    pub(crate) const PRESETS: [&str; 3] = ["16k", "4k", "1k"];

    /// Number of features, width of the activations and settings of a preset.
    ///
    /// The smaller ones have the same trees, but fewer, with the same share of all features (2/3),
    /// and the same correlations and magnitudes. `p_max` is chosen so that `L0 / d_in` is that of
    /// `16k` (34 / 768). `p_min` is higher, so that rare features are seen in fewer rows. The
    /// learning rate of the directions is proportional to the size of their entries, 1 / √d_in.
    pub(crate) fn preset(name: &str) -> Option<(usize, usize, Self)> {
        let large = Self {
            p_max: 0.4,
            p_min: 5e-4,
            zipf_exponent: 0.5,
            roots: 128,
            branching: 4,
            depth: 3,
            exclusive: 1.0,
            scale_children: true,
            compensate: true,
            rank: 25,
            correlation_scale: 0.1,
            orthogonal_steps: 100,
            orthogonal_lr: 3e-4,
            magnitude_first: 5.0,
            magnitude_last: 4.0,
            magnitude_std_mean: 0.5,
            magnitude_std_spread: 0.5,
            bias: 0.5,
        };
        match name {
            "16k" => Some((16_384, 768, large)),
            "4k" => {
                let own = Self {
                    roots: 32,
                    p_max: 0.25,
                    p_min: 1e-3,
                    orthogonal_lr: 5e-4,
                    ..large
                };
                Some((4096, 256, own))
            }
            "1k" => {
                let own = Self {
                    roots: 8,
                    p_max: 0.2,
                    p_min: 2e-3,
                    orthogonal_lr: 8e-4,
                    ..large
                };
                Some((1024, 96, own))
            }
            _ => None,
        }
    }

    /// Reads the settings from a recipe: number of features and width of the preset, and the
    /// settings, which are the preset's where the recipe has no others.
    pub(crate) fn read(r: &mut Reader) -> Result<(usize, usize, Self), SettingsError> {
        let name = r.one_of("synthetic.preset", &Self::PRESETS, Self::PRESETS[0])?;
        let Some((n_features, d_in, p)) = Self::preset(&name) else {
            return Err(r.wrong("synthetic.preset", name, "a preset"));
        };
        let config = Self {
            p_max: r.or("synthetic.p_max", p.p_max)?,
            p_min: r.or("synthetic.p_min", p.p_min)?,
            zipf_exponent: r.or("synthetic.zipf_exponent", p.zipf_exponent)?,
            roots: r.or("synthetic.roots", p.roots)?,
            branching: r.or("synthetic.branching", p.branching)?,
            depth: r.or("synthetic.depth", p.depth)?,
            exclusive: r.or("synthetic.exclusive", p.exclusive)?,
            scale_children: r.or("synthetic.scale_children", p.scale_children)?,
            compensate: r.or("synthetic.compensate", p.compensate)?,
            rank: r.or("synthetic.rank", p.rank)?,
            correlation_scale: r.or("synthetic.correlation_scale", p.correlation_scale)?,
            orthogonal_steps: r.or("synthetic.orthogonal_steps", p.orthogonal_steps)?,
            orthogonal_lr: r.or("synthetic.orthogonal_lr", p.orthogonal_lr)?,
            magnitude_first: r.or("synthetic.magnitude_first", p.magnitude_first)?,
            magnitude_last: r.or("synthetic.magnitude_last", p.magnitude_last)?,
            magnitude_std_mean: r.or("synthetic.magnitude_std_mean", p.magnitude_std_mean)?,
            magnitude_std_spread: r.or("synthetic.magnitude_std_spread", p.magnitude_std_spread)?,
            bias: r.or("synthetic.bias", p.bias)?,
        };
        Ok((n_features, d_in, config))
    }

    /// Whether there can be `n_features` such features, `most_numbers` of the largest array.
    ///
    /// # Errors
    /// Names the key, what was found and what was expected.
    pub(crate) fn check(
        &self,
        n_features: usize,
        most_numbers: usize,
    ) -> Result<(), EvaluationError> {
        for (key, value, least, most) in [
            ("synthetic.p_max", self.p_max, 1e-9, 1.0),
            ("synthetic.p_min", self.p_min, 1e-9, self.p_max),
            ("synthetic.zipf_exponent", self.zipf_exponent, 1e-3, 10.0),
            ("synthetic.exclusive", self.exclusive, 0.0, 1.0),
            (
                "synthetic.correlation_scale",
                self.correlation_scale,
                0.0,
                10.0,
            ),
            ("synthetic.orthogonal_lr", self.orthogonal_lr, 1e-9, 1.0),
            ("synthetic.magnitude_first", self.magnitude_first, 1e-6, 1e6),
            ("synthetic.magnitude_last", self.magnitude_last, 1e-6, 1e6),
            (
                "synthetic.magnitude_std_mean",
                self.magnitude_std_mean,
                0.0,
                1e6,
            ),
            (
                "synthetic.magnitude_std_spread",
                self.magnitude_std_spread,
                0.0,
                1e6,
            ),
            ("synthetic.bias", self.bias, 0.0, 1e6),
        ] {
            if !(least..=most).contains(&value) {
                return Err(refuse(key, value, format!("{least} to {most}")));
            }
        }
        let most_factors = most_numbers / n_features.max(1);
        for (key, value, least, most) in [
            ("synthetic.roots", self.roots, 0, n_features),
            ("synthetic.branching", self.branching, 2, MOST_CHILDREN),
            ("synthetic.depth", self.depth, 1, 64),
            ("synthetic.rank", self.rank, 0, most_factors.min(4096)),
            (
                "synthetic.orthogonal_steps",
                self.orthogonal_steps,
                0,
                100_000,
            ),
        ] {
            if !(least..=most).contains(&value) {
                return Err(refuse(key, value, format!("{least} to {most}")));
            }
        }
        Ok(())
    }

    /// Firing rates by Zipf's law, before trees change them.
    pub(super) fn zipf(&self, n_features: usize) -> Vec<f64> {
        let weight = |i: usize| ((i + 1) as f64).powf(-self.zipf_exponent);
        // A single feature is the first and not the last.
        let last = if n_features > 1 {
            weight(n_features - 1)
        } else {
            0.0
        };
        let share = |i| (weight(i) - last) / (1.0 - last);
        (0..n_features)
            .map(|i| self.p_min + (self.p_max - self.p_min) * share(i))
            .collect()
    }
}
