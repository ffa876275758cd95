//! What the metrics say of dictionaries and models that are known: in one program, since each links
//! everything.

#![allow(clippy::unwrap_used)]

mod biased;
mod core;
mod hierarchy;
mod hooks;
mod model_loading;
mod stored;
