//! The registry of metrics, from which pages and tables are made.

use crate::cosines::DecoderCosines;
use crate::latents::LatentFigures;
use crate::metric::Metric;
use crate::metrics::Metrics;
use crate::synthetic::Recovery;

/// All metrics, by the struct that holds their values.
pub const REGISTRY: [(&str, &[Metric]); 4] = [
    ("Metrics", Metrics::METRICS),
    ("DecoderCosines", DecoderCosines::METRICS),
    ("LatentFigures", LatentFigures::METRICS),
    ("Recovery", Recovery::METRICS),
];
