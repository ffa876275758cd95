//! Where a coder reads and where its reconstruction belongs.

use lapidary_model::HookPoint;
use lapidary_sae::{Dictionary, SaeError};

/// The encoder reads at `sources`; the reconstruction is compared with the activations at `targets` and spliced in there. For an
/// autoencoder they are one and the same point, for a transcoder they differ, for a crosscoder they are several, whose
/// activations stand side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Where the encoder reads.
    pub sources: Vec<HookPoint>,
    /// What is reconstructed.
    pub targets: Vec<HookPoint>,
}

impl From<HookPoint> for Hooks {
    /// An autoencoder's.
    fn from(hook: HookPoint) -> Self {
        Self {
            sources: vec![hook],
            targets: vec![hook],
        }
    }
}

impl Hooks {
    /// Those of a dictionary.
    ///
    /// # Errors
    /// The dictionary does not say, or says one that no model here has.
    pub fn of(dictionary: &Dictionary) -> Result<Self, SaeError> {
        Ok(Self {
            sources: dictionary.read_hook_points()?,
            targets: dictionary.written_hook_points()?,
        })
    }
}
