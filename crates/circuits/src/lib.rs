//! Which heads, MLPs and edges of a language model do the work of a task.
//!
//! - [`Task`]: prompts with and without the behaviour, and the [`Metric`] that measures it;
//! - [`Graph`]: a model's components, and the edges between them;
//! - [`Attribution`]: how much each edge and each component matters, by a [`Method`];
//! - [`discrete`]: heads by the codes of a small autoencoder over what they write;
//! - [`faithfulness`]: how much of the behaviour the best components keep without the others;
//! - [`attribution_graph`]: which features of transcoders make a logit, on one prompt.

mod attribution;
pub mod attribution_graph;
mod compare;
mod components;
pub mod discrete;
mod error;
mod graph;
mod metric;
mod patching;
pub mod ranking;
mod task;
pub mod tasks;

pub use attribution::{Attribution, Method, attribute};
pub use compare::{Comparison, FAITHFUL, Judgement, Ranker};
pub use components::{Components, PromptBatch};
pub use error::CircuitError;
pub use graph::{Graph, Receiver, Sender};
pub use metric::Metric;
pub use patching::{HeadEffects, faithfulness, head_effects, patched};
pub use task::{Prompt, Task};
