//! Which latents of two dictionaries, or units of two models, represent the same thing
//! (Li et al. 2015, "Convergent Learning").
//!
//! - [`CodeCorrelation`]: correlations of all pairs of latents over the same tokens;
//!   [`DecoderCosines`]: cosines of all pairs of decoder rows; both are a [`Similarity`];
//! - [`match_latents`]: one-to-one and many-to-one matches, with a null;
//!   [`stability`]: which latents come back in dictionaries of other seeds;
//! - [`predict_units`]: how many units of one model it takes to predict a unit of the other;
//! - [`cluster_units`]: groups of units that span both models;
//! - [`write_comparison_page`]: all of it for a reader.

mod auction;
mod correlation;
mod cosine;
mod eigen;
mod k_means;
mod matching;
mod page;
mod random;
mod similarity;
mod sparse_prediction;
mod spectral;
mod stability;

pub use correlation::{CodeCorrelation, Correlations};
pub use cosine::DecoderCosines;
pub use matching::{
    Bipartite, BipartiteConfig, MatchingReport, MatchingSummary, Pair, THRESHOLDS, bipartite_match,
    match_latents, semi_match,
};
pub use page::{ComparedLatents, ComparisonPage, write_comparison_page};
pub use similarity::{Neighbour, Similarity, SimilarityMatrix};
pub use sparse_prediction::{
    PredictionConfig, PredictionCurve, PredictionPoint, UnitPrediction, predict_unit, predict_units,
};
pub use spectral::{Affinity, ClusterSize, Clustering, SpectralConfig, cluster_units};
pub use stability::{LatentStability, StabilitySummary, stability};
