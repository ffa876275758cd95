//! Settings of discrete sparse autoencoders, and what no code is.

/// The code of a head that no latent explains: none is active.
pub const INACTIVE: i32 = -1;

/// Which vectors of a head have codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Positions {
    /// The mean of its outputs at all positions of a prompt: the paper's.
    #[default]
    Mean,
    /// The output at the last position.
    Last,
    /// The output at each position, counted from the last one. Codes are only compared with those
    /// at the same position.
    Each,
}

/// How the autoencoder is trained. The defaults are those of the paper's code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiscreteSettings {
    /// Latents, and so codes.
    pub latents: usize,
    /// Prompts to train on, clean or corrupted; the codes are of all prompts.
    pub examples: usize,
    /// With [`Positions::Each`], the most vectors to train on; if there are more, they are drawn.
    pub vectors: usize,
    /// Steps on all of them.
    pub epochs: usize,
    /// Adam's learning rate.
    pub lr: f64,
    /// Weight of the L1 penalty.
    pub l1_coefficient: f64,
    /// How positions are reduced.
    pub positions: Positions,
    /// Of the prompts to train on and the initial weights.
    pub seed: u64,
}

impl Default for DiscreteSettings {
    fn default() -> Self {
        Self {
            latents: 200,
            examples: 10,
            vectors: 2048,
            epochs: 500,
            lr: 1e-3,
            l1_coefficient: 0.02,
            positions: Positions::Mean,
            seed: 0,
        }
    }
}
