//! Which heads, MLPs and edges of a language model do the work of a task.
//!
//! - [`Task`]: prompts with and without the behaviour, and the [`Metric`] that measures it;
//! - [`Graph`]: a model's components, and the edges between them;
//! - [`Attribution`]: how much each edge and each component matters, by a [`Method`];
//! - [`discrete`]: heads by the codes of a small autoencoder over what they write;
//! - [`acdc()`], [`information_flow()`]: other scores of edges;
//! - [`Scorer`] and [`Comparison`]: all methods on one task, judged in the same way;
//! - [`faithfulness`] and [`edge_faithfulness`]: how much of the behaviour the best components keep
//!   without the others;
//! - [`path_effects`] and [`reuse`]: what heads do through chosen receivers, and which heads two
//!   tasks share;
//! - [`force_attention`]: what becomes of a task if heads look at chosen words;
//! - [`attribution_graph`]: which features of transcoders make a logit, on one prompt.

mod ablation;
mod acdc;
mod acdc_heads;
mod attribution;
pub mod attribution_graph;
mod autoencoder;
mod circuit_metric;
mod compare;
mod components;
pub mod discrete;
mod discrete_settings;
mod divergence;
mod edge_circuits;
mod error;
mod forced_attention;
mod graph;
mod information_flow;
mod metric;
mod page;
mod patching;
mod path_patching;
mod probing;
mod ranker;
pub mod ranking;
pub mod reuse;
mod scorer;
mod task;
pub mod tasks;
mod truth;

pub use ablation::Ablation;
pub use acdc::{Acdc, acdc};
pub use acdc_heads::{AcdcHeads, acdc_heads};
pub use attribution::{Attribution, Method, attribute};
pub use circuit_metric::CircuitMetric;
pub use compare::{CircuitPoint, Comparison, FAITHFUL, Judgement, Level};
pub use components::{Components, PromptBatch};
pub use edge_circuits::{edge_effects, edge_faithfulness, prune};
pub use error::CircuitError;
pub use forced_attention::{Forced, Performance, Words, force_attention};
pub use graph::{Graph, Receiver, Sender};
pub use information_flow::information_flow;
pub use metric::Metric;
pub use patching::{HeadEffects, faithfulness, head_effects, patched};
pub use path_patching::path_effects;
pub use probing::{ProbingSettings, subnetwork_probing};
pub use ranker::Ranker;
pub use scorer::{MOST_EDGES, Scorer, Scores};
pub use task::{Prompt, Task};
pub use truth::{PUBLISHED, Published, Truth};
