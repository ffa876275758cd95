//! The forest of features: who is whose parent, which siblings exclude one another, and how often
//! each fires for it (Chanin, Garriga-Alonso 2026).

use std::ops::Range;

use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

use super::config::Benchmark;

/// Features that are drawn together outside a group of siblings.
const WIDTH: usize = 64;

/// Trees whose features are numbered breadth first: roots come first, then their children, parent
/// by parent, then the children of those. Features in no tree come last.
#[derive(Clone, Debug)]
pub(super) struct Forest {
    n_features: usize,
    roots: usize,
    branching: usize,
    /// Whether the children of each parent exclude one another. Parents are the first features.
    exclusive: Vec<bool>,
}

impl Forest {
    /// Trees among `n_features` features. Which parents have exclusive children is drawn from
    /// `rng`.
    pub(super) fn new(n_features: usize, config: &Benchmark, rng: &mut ChaCha8Rng) -> Self {
        let roots = config.roots.min(n_features);
        let (mut parents, mut level) = (0usize, roots);
        for _ in 0..config.depth {
            // Parents beyond the last feature have no children: there are never so many.
            parents = parents.saturating_add(level).min(n_features);
            level = level.saturating_mul(config.branching);
        }
        let mut forest = Self {
            n_features,
            roots,
            branching: config.branching,
            exclusive: vec![false; parents],
        };
        let eligible: Vec<usize> = (0..parents)
            .filter(|p| forest.children(*p).len() >= 2)
            .collect();
        let amount = (eligible.len() as f64 * config.exclusive) as usize;
        for at in sample(rng, eligible.len(), amount) {
            forest.exclusive[eligible[at]] = true;
        }
        forest
    }

    /// The children of a feature, none if it is a leaf or in no tree.
    pub(super) fn children(&self, feature: usize) -> Range<usize> {
        if feature >= self.exclusive.len() {
            return 0..0;
        }
        let first = self.roots + feature * self.branching;
        first.min(self.n_features)..(first + self.branching).min(self.n_features)
    }

    /// Whether the children of a feature exclude one another.
    pub(super) fn exclusive(&self, feature: usize) -> bool {
        self.exclusive.get(feature).is_some_and(|e| *e)
    }

    /// Pairs of a parent and its child.
    pub(super) fn families(&self) -> Vec<(usize, usize)> {
        let family = |p| self.children(p).map(move |c| (p, c));
        (0..self.exclusive.len()).flat_map(family).collect()
    }

    /// Roots, in ranges of at most 64 features.
    pub(super) fn root_blocks(&self) -> impl Iterator<Item = Range<usize>> {
        blocks(0..self.roots)
    }

    /// Features in no tree, in ranges of at most 64 features.
    pub(super) fn free_blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let parents = self.exclusive.len();
        let last = parents.checked_sub(1).map_or(0, |p| self.children(p).end);
        blocks(last.max(self.roots)..self.n_features)
    }

    /// All features in the ranges that are drawn together: roots, siblings, features in no tree.
    pub(super) fn blocks(&self) -> Vec<Range<usize>> {
        let siblings = (0..self.exclusive.len()).map(|p| self.children(p));
        self.root_blocks()
            .chain(siblings.filter(|s| !s.is_empty()))
            .chain(self.free_blocks())
            .collect()
    }

    /// The probabilities to draw features with, so that they fire about as often as `base` says
    /// although they need a parent and lose to siblings: p / p_parent for a child, times
    /// 1 + Σ p_sibling / p_parent if siblings exclude it; at most 1.
    pub(super) fn compensated(&self, base: &[f64]) -> Vec<f64> {
        let mut p = base.to_vec();
        for (parent, exclusive) in self.exclusive.iter().enumerate() {
            let of = self.children(parent);
            let all: f64 = base[of.clone()].iter().sum();
            for child in of {
                let mut factor = 1.0 / base[parent];
                if *exclusive {
                    factor *= 1.0 + (all - base[child]).max(0.0) / base[parent];
                }
                p[child] = (base[child] * factor).min(1.0);
            }
        }
        p
    }

    /// Share of rows in which each feature fires, if each is drawn with its probability
    /// independently of the others.
    pub(super) fn rates(&self, drawn: &[f64]) -> Vec<f64> {
        let mut rates = drawn.to_vec();
        for (parent, exclusive) in self.exclusive.iter().enumerate() {
            let of = self.children(parent);
            for child in of.clone() {
                rates[child] *= rates[parent];
                if *exclusive {
                    let others = of.clone().filter(|c| *c != child).map(|c| drawn[c]);
                    rates[child] *= wins(others);
                }
            }
        }
        rates
    }
}

fn blocks(of: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = of.end;
    of.step_by(WIDTH)
        .map(move |first| first..(first + WIDTH).min(end))
}

/// The mean of 1 / (1 + number of rivals), each of which is there with its probability.
fn wins(rivals: impl Iterator<Item = f64>) -> f64 {
    let mut count = vec![1.0];
    for p in rivals {
        count.push(0.0);
        for k in (0..count.len()).rev() {
            let fewer = if k > 0 { count[k - 1] } else { 0.0 };
            count[k] = count[k] * (1.0 - p) + fewer * p;
        }
    }
    let share = |(k, p): (usize, &f64)| p / (k + 1) as f64;
    count.iter().enumerate().map(share).sum()
}
