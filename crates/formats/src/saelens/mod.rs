//! SAELens 6: `cfg.json` and `sae_weights.safetensors`. Our own dictionaries have this layout too.

mod cfg;
mod layout;

use std::path::Path;

use burn::tensor::Device;
use lapidary_coder::{Coder, CoderError, Description, Dictionary, Provenance, Sites};
use lapidary_io::Fields;

use crate::error::FormatError;
use crate::hooks;
use crate::layout::Layout;
use crate::place::Place;

pub(crate) const CONFIG: &str = "cfg.json";
const WEIGHTS: &str = "sae_weights.safetensors";

/// The key of `cfg.json` and the file that a dictionary has whose weights are integers: the rest of
/// its `cfg.json` is in this format.
pub(crate) const QUANTIZATION: &str = "quantization";
pub(crate) const QUANTIZED_WEIGHTS: &str = "quantized_weights.safetensors";

/// Repositories whose files lack an option that SAELens's registry (`pretrained_saes.yaml`) adds to
/// them.
const CENTRED: [&str; 3] = [
    "jbloom/GPT2-Small-SAEs-Reformatted",
    "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8",
    "tommmcgrath/gpt2-small-mlp-out-saes",
];

pub(crate) use cfg::cfg;
pub(crate) use layout::{Plan, stored_name};
pub use layout::{describe, exists, load, save, write};

pub(crate) struct SaeLens;

impl Layout for SaeLens {
    fn name(&self) -> &'static str {
        "saelens"
    }

    fn signature(&self) -> &'static str {
        "cfg.json with sae_weights.safetensors"
    }

    fn signs(&self, place: &Place) -> Result<Option<String>, FormatError> {
        if !place.has(CONFIG) {
            return Ok(None);
        }
        if place.means(WEIGHTS) {
            return Ok(Some(self.signature().into()));
        }
        // Some other file of the folder was named.
        if !place.means(CONFIG) {
            return Ok(None);
        }
        // One whose weights are missing is still one, and its reader says so.
        let cfg = Fields::read(&place.join(CONFIG))?;
        let named = cfg.has("architecture") || cfg.has("d_sae");
        let named = named && !cfg.has(QUANTIZATION) && !place.has(QUANTIZED_WEIGHTS);
        Ok(named.then(|| "cfg.json with architecture or d_sae".into()))
    }

    fn read(&self, place: &Place, device: &Device) -> Result<Dictionary, FormatError> {
        place.has_all(&[CONFIG, WEIGHTS])?;
        let mut dictionary = load(&place.folder, device)?;
        complete_provenance(&mut dictionary.provenance, place);
        Ok(dictionary)
    }

    fn describe(&self, place: &Place) -> Result<Option<Description>, FormatError> {
        place.has_all(&[CONFIG, WEIGHTS])?;
        let mut description = describe(&place.folder)?;
        complete_provenance(&mut description.provenance, place);
        Ok(Some(description))
    }

    fn cannot_hold(&self, dictionary: &Dictionary) -> Option<String> {
        let why = dictionary.coder.architecture().kind().not_stored();
        why.map(|why| format!("it as it is: {why}"))
    }

    fn write(&self, dictionary: &Dictionary, folder: &Path) -> Result<(), CoderError> {
        write(dictionary, folder)
    }
}

/// What the file leaves to its place: SAELens's registry, and names of hook points in Hugging Face
/// models.
fn complete_provenance(from: &mut Provenance, place: &Place) {
    let folders = place.components();
    let is_of = |repository: &&str| {
        let cached = format!("models--{}", repository.replace('/', "--"));
        let (owner, name) = repository.split_once('/').unwrap_or_default();
        folders.contains(&cached) || folders.windows(2).any(|w| w[0] == name && w[1] == owner)
    };
    if from.loading.options.is_empty() && CENTRED.iter().any(is_of) {
        let option = ("center_writing_weights".to_owned(), true.into());
        from.loading.options.extend([option]);
    }
    if from.loading.class.as_deref() == Some("AutoModelForCausalLM") {
        let model = from.model_name.clone();
        let names = match &mut from.sites {
            Sites::Autoencoder { at } => [Some(at), None],
            Sites::Transcoder { from, to } => [Some(from), Some(to)],
            _ => [None, None],
        };
        for name in names.into_iter().flatten() {
            let module = name.as_deref().unwrap_or_default();
            if let Some(hook) = hooks::of_module(module, model.as_deref()) {
                *name = Some(hook.to_string());
                from.loading.class = None;
            }
        }
    }
}
