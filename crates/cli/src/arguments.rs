//! Arguments that several commands share.

use crate::progress::count;
use crate::run_folder::RunFolder;
use crate::terminal::note;
use anyhow::{Context, Result};
use burn::tensor::Device;
use clap::Args;
use lapidary_activations::TEXT_FIELD;
use lapidary_coder::Dictionary;
use lapidary_formats::Format;
use lapidary_kernels::device::{self, DeviceChoice};
use lapidary_model::{HookPoint, LanguageModel};
use lapidary_sae::recipe::CorpusConfig;
use std::path::Path;
use std::sync::Arc;

/// Where to compute.
#[derive(Args)]
pub struct DeviceArgument {
    /// auto, cpu, wgpu, wgpu:N, cuda or cuda:N; auto takes CUDA, then a hardware WGPU adapter, then the CPU
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// CPU threads; default: $RAYON_NUM_THREADS, else all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

impl DeviceArgument {
    pub fn open(&self) -> Result<Device> {
        if let Some(threads) = self.threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
            pool.build_global().context("--threads")?;
        }
        Ok(device::open(self.device)?)
    }
}

/// Which language model.
#[derive(Args)]
pub struct ModelArgument {
    /// `embedded`, a folder in Hugging Face layout, a GGUF file, or a model's name on the Hugging Face hub
    #[arg(long, default_value = "embedded", value_name = "MODEL")]
    model: String,
}

impl ModelArgument {
    pub fn load(&self, device: &Device) -> Result<Arc<LanguageModel>> {
        load_model(&self.model, device)
    }
}

/// A model, whose warnings are said.
pub fn load_model(name: &str, device: &Device) -> Result<Arc<LanguageModel>> {
    let model = LanguageModel::load(name, device)?;
    model.warnings().iter().for_each(|warning| note(warning));
    Ok(Arc::new(model))
}

/// What a dictionary's files may leave open.
#[derive(Args)]
pub struct DictionaryArgument {
    /// The dictionary's format where its files could be several: saelens, sparsify, dictionary_learning, circuit_tracer,
    /// gemma_scope, llama_scope, llamascopium or openai
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// The hook point that the dictionary explains, where its files do not say
    #[arg(long, value_name = "HOOK")]
    hook_point: Option<HookPoint>,
}

impl DictionaryArgument {
    /// Reads a dictionary of any format: a folder, a file of it, a run's folder, or `hf:OWNER/NAME/PATH` of the hub.
    pub fn open(&self, path: &Path, device: &Device) -> Result<Dictionary> {
        open_dictionary(path, self.format, self.hook_point, device)
    }
}

/// As [`DictionaryArgument::open`], with what it was given.
pub fn open_dictionary(
    path: &Path,
    format: Option<Format>,
    hook_point: Option<HookPoint>,
    device: &Device,
) -> Result<Dictionary> {
    let in_run = RunFolder::new(path).dictionary();
    let place = match lapidary_formats::saelens::exists(&in_run) {
        true => in_run,
        false => lapidary_formats::local(path)?,
    };
    let mut dictionary = lapidary_formats::open(&place, format, device)?;
    if let Some(hook) = hook_point {
        dictionary.provenance.sites.set_read(hook.to_string());
    }
    Ok(dictionary)
}

/// How a text is read.
#[derive(Args)]
pub struct TextArgument {
    /// The field of JSON lines, or the column of Parquet, that holds the text; default: `text`, or the recipe's
    #[arg(long, value_name = "NAME")]
    pub text_field: Option<String>,
    /// Let a document's tokens see those of the documents before it in a block
    #[arg(long)]
    pub attend_across_documents: bool,
}

impl TextArgument {
    /// The field's name, that of `recipe` unless one was given.
    pub fn field(&self, recipe: Option<&CorpusConfig>) -> String {
        let recipe = recipe.map(|corpus| &corpus.text_field);
        let given = self.text_field.as_ref().or(recipe);
        given.cloned().unwrap_or_else(|| TEXT_FIELD.into())
    }
}

/// What a device calls itself.
pub fn device_name(device: &Device) -> String {
    if *device == Device::flex() {
        return format!(
            "CPU, {}",
            count(rayon::current_num_threads() as u64, "thread")
        );
    }
    device
        .identity()
        .map_or_else(|| format!("{device:?}"), |identity| identity.name)
}
