//! One file a command.

pub mod absorption;
pub mod bench;
mod bench_model;
mod bench_pursuit;
mod bench_store;
pub mod circuit;
pub mod codebook;
pub mod completions;
pub mod convert;
pub mod devices;
pub mod dkvb;
pub mod encode;
pub mod eval;
pub mod features;
mod figures;
pub mod generate;
pub mod harvest;
pub mod inspect;
mod peers;
pub mod pretrain;
pub mod probe;
pub mod run;
mod step_parts;
pub mod synthetic;
pub mod template;
mod timing;
pub mod train;
