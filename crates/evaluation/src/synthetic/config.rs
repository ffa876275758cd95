//! `[synthetic]` of a recipe: which features there are and how they fire.

use lapidary_io::settings::Reader;
use serde::Serialize;

use super::benchmark::Benchmark;
use super::refusal::refuse;
use crate::error::EvaluationError;

/// Largest `n_features * d_in`: 1 GiB of directions in f64.
const MOST_NUMBERS: usize = 1 << 27;

/// Which features there are and how they fire.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SyntheticConfig {
    /// How features depend on one another.
    pub kind: Kind,
    /// Width of the activations.
    pub d_in: usize,
    /// Number of features; in a hierarchy its own.
    pub n_features: usize,
    /// Share of rows in which a feature fires, mean over features.
    pub density: f64,
    /// Feature i has a density proportional to (i + 1) to the minus this; 0: all the same.
    pub density_skew: f64,
    /// Whether directions are orthonormal, and not random ones of norm 1.
    pub orthonormal: bool,
    /// Mean of how strongly a feature fires.
    pub magnitude: f64,
    /// Its standard deviation; what would be negative does not fire.
    pub magnitude_std: f64,
    /// Standard deviation of noise in each dimension.
    pub noise: f64,
}

/// How features depend on one another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Each by itself.
    Independent,
    /// In groups: a feature takes its group's random number with probability √correlation, else its
    /// own, so two features of one density in a group have this correlation.
    Correlated {
        /// Features a group.
        group: usize,
        /// Of two features of a group.
        correlation: f64,
    },
    /// Children that fire only with their parent.
    Hierarchical(Tree),
    /// The benchmark of Chanin and Garriga-Alonso 2026, which has its own rates and magnitudes.
    SynthSaeBench(Benchmark),
}

/// The hierarchical toy of Costa et al. 2025 ("From Flat to Hierarchical"): each row has one root,
/// a parent or a single feature, and a parent has at most one child. Parent p is feature p
/// (children + 1), its children follow it, singles come last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tree {
    /// Features with children.
    pub parents: usize,
    /// Children of each.
    pub children: usize,
    /// Roots without children.
    pub singles: usize,
    /// Of each parent.
    pub parent_probability: f64,
    /// Of each child when its parent fires.
    pub child_probability: f64,
    /// Of each single feature.
    pub single_probability: f64,
    /// Cosine of two children of one parent.
    pub child_cosine: f64,
    /// Cosine of two roots.
    pub root_cosine: f64,
}

impl Tree {
    /// Number of features.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.parents * (self.children + 1) + self.singles
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The features that are roots, parents first.
    pub(crate) fn roots(&self) -> Vec<usize> {
        let singles = self.len() - self.singles..self.len();
        (0..self.parents)
            .map(|p| self.parent(p))
            .chain(singles)
            .collect()
    }

    pub(crate) const fn parent(&self, p: usize) -> usize {
        p * (self.children + 1)
    }

    /// Pairs of a parent and its child.
    pub(crate) fn families(&self) -> Vec<(usize, usize)> {
        let family = |p| (1..=self.children).map(move |c| (self.parent(p), self.parent(p) + c));
        (0..self.parents).flat_map(family).collect()
    }
}

impl SyntheticConfig {
    /// Reads the table `synthetic` of a recipe's text, named `file`; `set` are items
    /// `synthetic.key=value`.
    ///
    /// # Errors
    /// A key is unknown, or of the wrong type.
    pub fn parse(file: &str, text: &str, set: &[String]) -> Result<Self, EvaluationError> {
        let mut r = Reader::new(file, text, set)?;
        let kind = r.one_of(
            "synthetic.kind",
            &[
                "independent",
                "correlated",
                "hierarchical",
                "synth_sae_bench",
            ],
            "independent",
        )?;
        // All keys are read, so that a mistake in one shows.
        let (group, correlation) = (
            r.or("synthetic.group", 4)?,
            r.or("synthetic.correlation", 0.5)?,
        );
        let tree = Tree {
            parents: r.or("synthetic.parents", 3)?,
            children: r.or("synthetic.children", 3)?,
            singles: r.or("synthetic.singles", 8)?,
            parent_probability: r.or("synthetic.parent_probability", 0.2)?,
            child_probability: r.or("synthetic.child_probability", 0.2)?,
            single_probability: r.or("synthetic.single_probability", 0.05)?,
            child_cosine: r.or("synthetic.child_cosine", 0.0)?,
            root_cosine: r.or("synthetic.root_cosine", 0.0)?,
        };
        let (preset_features, preset_d_in, benchmark) = Benchmark::read(&mut r)?;
        let kind = match kind.as_str() {
            "correlated" => Kind::Correlated { group, correlation },
            "hierarchical" => Kind::Hierarchical(tree),
            "synth_sae_bench" => Kind::SynthSaeBench(benchmark),
            _ => Kind::Independent,
        };
        let given = r.optional("synthetic.n_features")?;
        let n_features = match kind {
            Kind::Hierarchical(tree) => {
                let counts = [tree.parents, tree.children, tree.singles];
                if counts.iter().any(|n| *n > 1 << 20) {
                    return Err(refuse(
                        "synthetic.parents",
                        format!("{counts:?} parents, children, singles"),
                        "at most 1048576 of each",
                    ));
                }
                if let Some(n) = given.filter(|n| *n != tree.len()) {
                    return Err(refuse(
                        "synthetic.n_features",
                        n,
                        format!("{} or nothing, which the hierarchy has", tree.len()),
                    ));
                }
                tree.len()
            }
            Kind::SynthSaeBench(_) => given.unwrap_or(preset_features),
            _ => given.unwrap_or(128),
        };
        let d_in = match kind {
            Kind::Hierarchical(_) => n_features,
            Kind::SynthSaeBench(_) => preset_d_in,
            _ => 64,
        };
        let d_in = r.or("synthetic.d_in", d_in)?;
        let config = Self {
            kind,
            n_features,
            d_in,
            density: r.or("synthetic.density", 0.02)?,
            density_skew: r.or("synthetic.density_skew", 0.0)?,
            orthonormal: r.or("synthetic.orthonormal", n_features <= d_in)?,
            magnitude: r.or("synthetic.magnitude", 1.5)?,
            magnitude_std: r.or("synthetic.magnitude_std", 0.25)?,
            noise: r.or("synthetic.noise", 0.0)?,
        };
        r.finish()?;
        Ok(config)
    }

    /// Whether there can be such features.
    ///
    /// # Errors
    /// Names the key, what was found and what was expected.
    pub fn check(&self) -> Result<(), EvaluationError> {
        let (n, d) = (self.n_features, self.d_in);
        if d == 0 {
            return Err(refuse("synthetic.d_in", d, "at least 1"));
        }
        if n == 0 || n.checked_mul(d).is_none_or(|all| all > MOST_NUMBERS) {
            return Err(refuse(
                "synthetic.n_features",
                n,
                format!("1 to {} for d_in {d}", MOST_NUMBERS / d),
            ));
        }
        let between = |key: &'static str, value: f64, least: f64, most: f64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(refuse(key, value, format!("{least} to {most}")))
        };
        between("synthetic.magnitude", self.magnitude, 1e-9, 1e9)?;
        between("synthetic.magnitude_std", self.magnitude_std, 0.0, 1e9)?;
        between("synthetic.noise", self.noise, 0.0, 1e9)?;
        if let Kind::Hierarchical(tree) = self.kind {
            if n > d {
                return Err(refuse(
                    "synthetic.d_in",
                    d,
                    format!("at least {n}, the features of the hierarchy"),
                ));
            }
            between("synthetic.child_cosine", tree.child_cosine, 0.0, 0.99)?;
            between("synthetic.root_cosine", tree.root_cosine, 0.0, 0.99)?;
            let roots = tree.parents as f64 * tree.parent_probability
                + tree.singles as f64 * tree.single_probability;
            between(
                "synthetic.parent_probability",
                tree.parent_probability,
                0.0,
                1.0,
            )?;
            between(
                "synthetic.single_probability",
                tree.single_probability,
                0.0,
                1.0,
            )?;
            between(
                "synthetic.child_probability",
                tree.child_probability,
                0.0,
                1.0 / tree.children.max(1) as f64,
            )?;
            if roots > 1.0 + 1e-9 {
                return Err(refuse(
                    "synthetic.parent_probability",
                    format!("{roots} for all roots together"),
                    "at most 1",
                ));
            }
            return Ok(());
        }
        if let Kind::SynthSaeBench(benchmark) = self.kind {
            return benchmark.check(n, MOST_NUMBERS);
        }
        if self.orthonormal && n > d {
            return Err(refuse(
                "synthetic.orthonormal",
                format!("true with {n} features in {d} dimensions"),
                "false, or fewer features",
            ));
        }
        between("synthetic.density", self.density, 1e-9, 1.0)?;
        between("synthetic.density_skew", self.density_skew, 0.0, 10.0)?;
        let most = self.densities().into_iter().fold(0.0, f64::max);
        if most > 1.0 {
            return Err(refuse(
                "synthetic.density_skew",
                format!(
                    "{}, with which the first feature fires {most} times per row",
                    self.density_skew
                ),
                "less, or a lower density",
            ));
        }
        if let Kind::Correlated { group, correlation } = self.kind {
            if group == 0 {
                return Err(refuse("synthetic.group", 0, "at least 1"));
            }
            between("synthetic.correlation", correlation, 0.0, 1.0)?;
        }
        Ok(())
    }

    /// Share of rows in which each feature fires, if it is independent or correlated.
    pub(crate) fn densities(&self) -> Vec<f64> {
        let weight = |i: usize| ((i + 1) as f64).powf(-self.density_skew);
        let mean = (0..self.n_features).map(weight).sum::<f64>() / self.n_features as f64;
        (0..self.n_features)
            .map(|i| self.density * weight(i) / mean)
            .collect()
    }
}
