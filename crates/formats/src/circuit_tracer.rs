//! circuit-tracer: sets of transcoders (`config.yaml`, `layer_N.safetensors`) and cross-layer transcoders
//! (`W_enc_N.safetensors`, `W_dec_N.safetensors`).

use burn::tensor::Device;
use lapidary_sae::Dictionary;

use crate::error::FormatError;
use crate::format::Layout;
use crate::place::Place;

pub(crate) struct CircuitTracer;

impl Layout for CircuitTracer {
    fn name(&self) -> &'static str {
        "circuit_tracer"
    }

    fn signature(&self) -> &'static str {
        "layer_N.safetensors or W_enc_N.safetensors"
    }

    fn signs(&self, place: &Place) -> Result<Option<String>, FormatError> {
        let set = place
            .meant()
            .iter()
            .any(|name| numbered(name, "layer_").is_some());
        let across = place
            .meant()
            .iter()
            .any(|name| numbered(name, "W_enc_").is_some());
        Ok(match (set, across) {
            (true, _) => Some("layer_N.safetensors".into()),
            (_, true) => Some("W_enc_N.safetensors".into()),
            _ => None,
        })
    }

    fn read(&self, place: &Place, _device: &Device) -> Result<Dictionary, FormatError> {
        Err(FormatError::Foreign {
            path: place.path.clone(),
            found: "transcoders".into(),
            why: "coders that read one place and write another are not there yet".into(),
        })
    }
}

/// N of `prefixN.safetensors`.
fn numbered(name: &str, prefix: &str) -> Option<usize> {
    let number = name.strip_prefix(prefix)?.strip_suffix(".safetensors")?;
    number.parse().ok()
}
