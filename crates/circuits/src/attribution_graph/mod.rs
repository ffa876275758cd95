//! Attribution graphs: which transcoder features, errors and tokens make which features and logits,
//! on one prompt (Ameisen et al. 2025, "Circuit Tracing: Revealing Computational Graphs in Language
//! Models").
//!
//! Three steps: a [`ReplacementModel`] is a language model with a transcoder for each of its MLPs;
//! [`ReplacementModel::attribute`] gives the [`AttributionGraph`] of a prompt, every edge exact
//! while attention patterns and the divisors of norms are constants; [`AttributionGraph::prune`]
//! keeps what matters for the logits, as a [`PrunedGraph`] that can be written and looked at.
//! [`ReplacementModel::intervene`] sets features and shows what follows.

mod attention;
mod attribute;
mod graph;
mod influence;
mod intervention;
mod json;
mod local;
mod names;
mod paths;
mod pruning;
mod replacement;
mod rows;
mod tensors;
mod trace;

pub use attention::{EdgeEnd, HeadLoading, ScoreAttribution, ScorePair, ScorePart};
pub use attribute::AttributionOptions;
pub use graph::{AttributionGraph, Feature, LogitTarget, Node, NodeValue};
pub use intervention::{ChangedFeature, FeatureChange, Intervened, Propagation};
pub use names::GraphNames;
pub use paths::{FeatureWeights, PathNode, PathOptions, Step};
pub use pruning::{GraphScores, PrunedGraph, Pruning};
pub use replacement::ReplacementModel;
pub use rows::Edge;
