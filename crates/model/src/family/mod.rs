//! One file a model family: how its `config.json` and its tensors' names map to the one transformer underneath.

pub(crate) mod gpt2;
pub(crate) mod llama;
