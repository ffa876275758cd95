//! `lapidary convert`.

use crate::arguments::open_dictionary;
use anyhow::{Result, bail};
use burn::tensor::Device;
use clap::Args;
use lapidary_formats::{Format, SAMPLE};
use lapidary_model::HookPoint;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Write a dictionary in another format
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary convert --from out --to sparsify/layers.2 --format sparsify
  lapidary convert --from out --to trainer_0 --format dictionary_learning
  lapidary convert --from trainer_0/checkpoints/ae_5000.pt --to my-dictionary --format saelens
  lapidary convert --from hf:google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71 --to my-dictionary --format saelens

Written are saelens, sparsify and dictionary_learning; circuit_tracer, gemma_scope, llama_scope, llamascopium and openai are read only.
What is written is read again, and must give the codes of the dictionary that was read.")]
pub struct Convert {
    /// The dictionary to read: a folder of any format, a file of it, a run's folder, or hf:OWNER/NAME/PATH of the hub
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The format to write: saelens, sparsify or dictionary_learning
    #[arg(long, value_name = "FORMAT")]
    format: Format,
    /// The format to read, where the files could be several
    #[arg(long, value_name = "FORMAT")]
    from_format: Option<Format>,
    /// The hook point that the dictionary explains, where its files do not say
    #[arg(long, value_name = "HOOK")]
    hook_point: Option<HookPoint>,
    /// Replace a dictionary that is there
    #[arg(long)]
    overwrite: bool,
}

impl Convert {
    pub fn run(self) -> Result<()> {
        let device = Device::flex(); // weights are only moved
        let dictionary = open_dictionary(&self.from, self.from_format, self.hook_point, &device)?;
        if !self.overwrite && lapidary_formats::exists(&self.to) {
            bail!(
                "{} holds a dictionary already: give --overwrite to replace it, or another --to",
                self.to.display()
            );
        }
        lapidary_formats::save(&dictionary, &self.to, self.format)?;
        lapidary_formats::open(&self.to, Some(self.format), &device)?;
        let coder = &dictionary.coder;
        writeln!(
            stdout(),
            "{} coder, {} latents on {} dimensions, written to {} as {} (codes of a sample agree: {SAMPLE})",
            coder.architecture,
            coder.d_sae(),
            coder.d_in(),
            self.to.display(),
            self.format
        )?;
        Ok(())
    }
}
