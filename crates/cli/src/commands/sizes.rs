//! The sizes that benchmarks measure.

use serde::Serialize;

/// Sizes of a coder and its batch.
#[derive(Clone, Copy, Serialize)]
pub struct Sizes {
    pub d_in: usize,
    pub d_sae: usize,
    pub k: usize,
    pub batch_tokens: usize,
}

impl Sizes {
    /// The first line of a table.
    pub fn headline(self, device: &str) -> String {
        format!(
            "{device}; d {}, F {}, k {}, {} tokens per step, f32\n",
            self.d_in, self.d_sae, self.k, self.batch_tokens
        )
    }

    /// What a batch takes, and the tokens a second that this is.
    pub fn timed(self, seconds: f64) -> String {
        format!(
            "{:>9.1} ms {:>9.0} tokens/s",
            seconds * 1e3,
            self.batch_tokens as f64 / seconds
        )
    }

    pub fn arguments(self) -> [(&'static str, String); 4] {
        [
            ("--d-in", self.d_in.to_string()),
            ("--d-sae", self.d_sae.to_string()),
            ("-k", self.k.to_string()),
            ("--batch-tokens", self.batch_tokens.to_string()),
        ]
    }
}
