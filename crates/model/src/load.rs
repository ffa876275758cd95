//! Finding and loading a model.

use crate::config::ModelConfig;
use crate::generation_config::GenerationConfig;
use crate::gguf::Gguf;
use crate::hub::CachedRepository;
use crate::language_model::LanguageModel;
use crate::rotary::RopeScaling;
use crate::tensor_file::TensorFile;
use crate::tokenizer::Tokenizer;
use crate::{ModelError, embedded, found, hub};
use burn::tensor::Device;
use std::path::Path;

impl LanguageModel {
    /// Loads a model: the word `embedded`, a folder in Hugging Face layout (`config.json`,
    /// `model.safetensors` or its shards, `tokenizer.json`), a folder of the hub's cache
    /// (`models--owner--name`), a GGUF file of one of the same families (not OPT, Mistral as
    /// Llama), or the name of a model on the Hugging Face hub (fetched once into the hub's own
    /// cache; `HF_HUB_OFFLINE=1` forbids fetching).
    ///
    /// ```
    /// # fn main() -> Result<(), lapidary_model::ModelError> {
    /// use burn::tensor::Device;
    /// use lapidary_model::{HookedRun, LanguageModel};
    ///
    /// let model = LanguageModel::load("embedded", &Device::flex())?;
    /// let hook = "blocks.2.hook_resid_post".parse()?;
    /// let tokens = model.tokens(&[model.tokenizer()?.encode("The Congress of the United States")?])?;
    /// let output = model.run(tokens, &HookedRun { capture: &[hook], ..Default::default() })?;
    /// println!("{:?}", output.captured[&hook].dims()); // [1, pos, d_model]
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When nothing is found under that name, or a file is missing, truncated, or disagrees with
    /// `config.json`.
    pub fn load(source: &str, device: &Device) -> Result<Self, ModelError> {
        if source == "embedded" {
            return embedded::load(device);
        }
        let folder = Path::new(source);
        if folder.is_dir() {
            if let Some(cached) = CachedRepository::at(folder)? {
                return Self::from_folder(&cached.name, &cached.snapshot, device);
            }
            let name = folder
                .file_name()
                .map_or(source.into(), |n| n.to_string_lossy().into_owned());
            return Self::from_folder(&name, folder, device);
        }
        if folder
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
        {
            return Self::from_gguf(folder, device);
        }
        let folder = hub::fetch(source)?;
        Self::from_folder(source, &folder, device)
    }

    fn from_gguf(path: &Path, device: &Device) -> Result<Self, ModelError> {
        let file = Gguf::open(path)?;
        let mut config = ModelConfig::of_value(path, file.config)?;
        if let Some(factors) = file.rope_factors {
            for rope in config.layers.iter_mut().filter_map(|l| l.rope.as_mut()) {
                let usable = factors.iter().all(|f| f.is_finite() && *f > 0.0);
                if factors.len() != rope.dims / 2 || !usable {
                    return Err(ModelError::Field {
                        path: path.into(),
                        field: "rope_freqs.weight".into(),
                        found: format!("{} values", factors.len()),
                        expected: format!("{} positive ones", rope.dims / 2),
                    });
                }
                rope.scaling = RopeScaling::Factors(factors.clone());
            }
        }
        let tokenizer = match file.tokenizer {
            Some(json) => {
                let json = json.to_string();
                Some(Tokenizer::from_text(path, &json, config.bos, &config.eos)?)
            }
            None => None,
        };
        let name = path.file_stem().unwrap_or(path.as_os_str());
        let name = name.to_string_lossy().into_owned();
        let mut model = Self::from_parts(&name, config, &file.tensors, tokenizer, device)?;
        model.tokenizer_path = path.into();
        Ok(model)
    }

    fn from_folder(name: &str, folder: &Path, device: &Device) -> Result<Self, ModelError> {
        let config = folder.join("config.json");
        if !config.exists() {
            return Err(found::nothing(folder, "config.json"));
        }
        let config = ModelConfig::read(&config)?;
        let generation = GenerationConfig::read(&folder.join("generation_config.json"))?;
        let path = folder.join("tokenizer.json");
        let tokenizer = match path.exists() {
            true => Some(Tokenizer::read(&path, config.bos, &config.eos)?),
            false => None,
        };
        let checkpoint = TensorFile::open_model(folder)?;
        let mut model = Self::from_parts(name, config, &checkpoint, tokenizer, device)?;
        model.tokenizer_path = path;
        if let Some(generation) = generation {
            // As in transformers, the file decides alone where it is there, even if it says
            // nothing.
            model.special.extend(generation.bos);
            model.special.extend(&generation.eos);
            model.stops = generation.eos;
        }
        Ok(model)
    }
}
