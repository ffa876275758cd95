//! One file a command.

pub mod bench;
mod bench_model;
mod bench_store;
pub mod convert;
pub mod devices;
pub mod encode;
pub mod eval;
pub mod features;
pub mod generate;
pub mod harvest;
pub mod inspect;
mod peers;
pub mod pretrain;
pub mod run;
pub mod train;
