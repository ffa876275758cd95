//! SAELens 6: `cfg.json` and `sae_weights.safetensors`. The layout itself is that of `lapidary_sae`.

use std::path::Path;

use burn::tensor::Device;
use lapidary_sae::{Dictionary, Fields, SaeError};

use crate::error::FormatError;
use crate::format::Layout;
use crate::place::Place;

pub(crate) struct SaeLens;

impl Layout for SaeLens {
    fn name(&self) -> &'static str {
        "saelens"
    }

    fn signature(&self) -> &'static str {
        "cfg.json with sae_weights.safetensors"
    }

    fn signs(&self, place: &Place) -> Result<Option<String>, FormatError> {
        if !place.has("cfg.json") {
            return Ok(None);
        }
        if place.means("sae_weights.safetensors") {
            return Ok(Some(self.signature().into()));
        }
        // Some other file of the folder was named.
        if !place.means("cfg.json") {
            return Ok(None);
        }
        // One whose weights are missing is still one, and its reader says so.
        let cfg = Fields::read(&place.join("cfg.json"))?;
        let named = cfg.has("architecture") || cfg.has("d_sae");
        Ok(named.then(|| "cfg.json with architecture or d_sae".into()))
    }

    fn read(&self, place: &Place, device: &Device) -> Result<Dictionary, FormatError> {
        place.expect(&["cfg.json", "sae_weights.safetensors"])?;
        Ok(Dictionary::load(&place.folder, device)?)
    }

    fn cannot_hold(&self, dictionary: &Dictionary) -> Option<String> {
        let why = dictionary.coder.architecture.not_stored();
        why.map(|why| format!("it as it is: {why}"))
    }

    fn write(&self, dictionary: &Dictionary, folder: &Path) -> Result<(), SaeError> {
        dictionary.save(folder)
    }
}
