//! Where a coder reads and where its reconstruction belongs.

use lapidary_model::HookPoint;
use lapidary_sae::{Dictionary, SaeError};

/// The encoder reads at `source`; the reconstruction is compared with the activation at `target` and spliced in there. For an
/// autoencoder they are the same, for a transcoder they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Where the encoder reads.
    pub source: HookPoint,
    /// What is reconstructed.
    pub target: HookPoint,
}

impl From<HookPoint> for Hooks {
    /// An autoencoder's.
    fn from(hook: HookPoint) -> Self {
        Self {
            source: hook,
            target: hook,
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
            source: dictionary.hook_point()?,
            target: dictionary.hook_point_out()?,
        })
    }
}
