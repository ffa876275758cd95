//! A finished dictionary: a coder for activations as the model makes them, and where it comes from.

use crate::architectures::{Architecture, ArchitectureKind};
use crate::coder::{AnyCoder, Coder};
use crate::provenance::Provenance;
use crate::sites::Sites;

/// A trained coder with its provenance.
#[derive(Clone, Debug)]
pub struct Dictionary {
    /// The coder; it takes raw activations.
    pub coder: AnyCoder,
    /// Where it comes from.
    pub provenance: Provenance,
}

impl Dictionary {
    /// What it reads and what it reconstructs.
    #[must_use]
    pub const fn sites(&self) -> &Sites {
        &self.provenance.sites
    }

    /// Whether it reconstructs other activations than it reads.
    #[must_use]
    pub const fn transcodes(&self) -> bool {
        self.sites().transcodes()
    }
}

/// What a dictionary's files say of it without its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Its architecture.
    pub architecture: ArchitectureKind,
    /// Active latents per token, for a TopK coder.
    pub k: Option<usize>,
    /// The width of what it reads.
    pub d_in: usize,
    /// The width of what it reconstructs.
    pub d_out: usize,
    /// The number of latents, in all layers together.
    pub d_sae: usize,
    /// Where it comes from.
    pub provenance: Provenance,
}

impl Description {
    /// That of a dictionary.
    #[must_use]
    pub fn of(dictionary: &Dictionary) -> Self {
        let coder = &dictionary.coder;
        Self {
            architecture: coder.architecture().kind(),
            k: match coder.architecture() {
                Architecture::TopK { k } => Some(k),
                _ => None,
            },
            d_in: coder.d_in(),
            d_out: coder.d_out(),
            d_sae: coder.d_sae(),
            provenance: dictionary.provenance.clone(),
        }
    }
}
