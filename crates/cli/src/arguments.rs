//! Arguments that several commands share.

use crate::progress::Watched;
use anyhow::{Context, Result};
use burn::tensor::Device;
use clap::Args;
use lapidary::dictionary_model::load_model;
use lapidary::{DictionaryOptions, Opened, TextOptions, open_dictionary};
use lapidary_coder::Dictionary;
use lapidary_formats::Format;
use lapidary_kernels::device::{self, DeviceChoice};
use lapidary_model::{HookPoint, LanguageModel, Sampling};
use std::path::Path;
use std::sync::Arc;

/// How text is generated.
#[derive(Args)]
pub struct SamplingArguments {
    /// Maximum number of tokens to add
    #[arg(long, default_value_t = 60)]
    tokens: usize,
    /// Number by which the logits are divided; 0 always chooses the most probable token
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Draw only from this number of most probable tokens; 0 means all tokens
    #[arg(long, default_value_t = 40)]
    top_k: usize,
    /// Draw only from the smallest set of most probable tokens whose probabilities sum to at least
    /// this value; 1 means all tokens
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Seed for drawing the tokens
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl SamplingArguments {
    /// The options as the library takes them.
    ///
    /// # Errors
    /// A value is outside of its range.
    pub fn sampling(&self) -> Result<Sampling> {
        let sampling = Sampling {
            max_tokens: self.tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
        };
        sampling.check()?;
        Ok(sampling)
    }
}

/// Where to compute.
#[derive(Args)]
pub struct DeviceArgument {
    /// Where to compute: auto, cpu, wgpu, wgpu:N, cuda or cuda:N (see `lapidary devices`). With
    /// auto: CUDA if available, else a hardware WGPU adapter, else the CPU
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// Number of CPU threads; default: $RAYON_NUM_THREADS, else one per logical core
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
    /// Language model: `embedded` (inside the program), a folder in Hugging Face layout, a GGUF
    /// file, or a name on the Hugging Face hub
    #[arg(long, default_value = "embedded", value_name = "MODEL")]
    model: String,
}

impl ModelArgument {
    pub fn load(&self, device: &Device) -> Result<Arc<LanguageModel>> {
        Ok(load_model(&Watched, &self.model, device)?)
    }
}

/// What a dictionary's files may leave open.
#[derive(Args)]
pub struct DictionaryArgument {
    /// Format of the dictionary: saelens, sparsify, dictionary_learning, circuit_tracer,
    /// gemma_scope, llama_scope, llamascopium, openai or quantized. Needed only if the files fit
    /// several formats
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Hook point that the dictionary reads; default: the hook point that its files name
    #[arg(long, value_name = "HOOK")]
    hook_point: Option<HookPoint>,
}

impl DictionaryArgument {
    pub const fn options(&self) -> DictionaryOptions {
        DictionaryOptions {
            format: self.format,
            hook_point: self.hook_point,
        }
    }

    /// Reads a dictionary of any format: a folder, a file of it, a run's folder, or
    /// `hf:OWNER/NAME/PATH` of the hub.
    pub fn open(&self, path: &Path, device: &Device) -> Result<Dictionary> {
        Ok(open_dictionary(path, self.options(), device)?)
    }

    /// The same with its model: `model`, or the one that it names.
    pub fn open_with_model(
        &self,
        path: &Path,
        model: Option<&str>,
        device: &Device,
    ) -> Result<Opened> {
        Ok(Opened::new(path, self.options(), model, device, &Watched)?)
    }
}

/// How a text is read.
#[derive(Args)]
pub struct TextArgument {
    /// JSON field or Parquet column that holds the text; default: the field in the dictionary's
    /// recipe, or `text` if there is no recipe
    #[arg(long, value_name = "NAME")]
    pub text_field: Option<String>,
    /// Let the tokens of a document attend to earlier documents in the same block
    #[arg(long)]
    pub attend_across_documents: bool,
}

impl TextArgument {
    pub fn options(&self) -> TextOptions {
        TextOptions {
            text_field: self.text_field.clone(),
            attend_across_documents: self.attend_across_documents,
        }
    }
}
