//! `lapidary convert`.

use crate::progress::Stage;
use anyhow::Result;
use burn::tensor::Device;
use clap::Args;
use lapidary::{DictionaryOptions, check_replacement, open_dictionary};
use lapidary_coder::Coder;
use lapidary_formats::Format;
use lapidary_io::StagedFolder;
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
  lapidary convert --from layer0 layer1 layer2 --to transcoders --format circuit_tracer

Formats that can be read and written: saelens, sparsify, dictionary_learning and circuit_tracer. circuit_tracer is only for
transcoders and cross-layer transcoders. Formats that can only be read: gemma_scope, llama_scope, llamascopium, openai
and quantized (quantize writes it).

At the end, convert reads the written files and checks that they give the same codes on a sample of inputs.")]
pub struct Convert {
    /// Dictionary to read: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on
    /// the Hugging Face hub. With --format circuit_tracer, several transcoders can be given; they
    /// are written as one set
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    from: Vec<PathBuf>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Format to write: saelens, sparsify, dictionary_learning or circuit_tracer
    #[arg(long, value_name = "FORMAT")]
    format: Format,
    /// Format of the dictionary to read. Needed only if the files fit several formats
    #[arg(long, value_name = "FORMAT")]
    from_format: Option<Format>,
    /// Hook point that the dictionary reads; default: the hook point that its files name
    #[arg(long, value_name = "HOOK")]
    hook_point: Option<HookPoint>,
    /// Replace the dictionary in the folder --to
    #[arg(long)]
    overwrite: bool,
}

impl Convert {
    pub fn run(self) -> Result<()> {
        // The folder is this process's from here to the end.
        let staged = StagedFolder::begin(&self.to)?;
        let device = Device::flex(); // weights are only moved
        let each = self.from.iter();
        let how = DictionaryOptions {
            format: self.from_format,
            hook_point: self.hook_point,
        };
        let dictionaries = each
            .map(|from| open_dictionary(from, how, &device))
            .collect::<Result<Vec<_>, _>>()?;
        check_replacement(&self.to, &self.from, self.overwrite)?;
        let stage = Stage::new("convert", dictionaries.len() as u64);
        let _lock = lapidary_formats::save_begun(&dictionaries, staged, self.format)?;
        for (done, dictionary) in dictionaries.iter().enumerate() {
            let written = lapidary_formats::place_of(dictionary, &self.to, self.format);
            lapidary_formats::open(&written, Some(self.format), &device)?;
            let coder = &dictionary.coder;
            writeln!(
                stdout(),
                "{} coder, {} latents on {} dimensions, written to {} as {} (codes of a sample agree)",
                coder.architecture(),
                coder.d_sae(),
                coder.d_in(),
                written.display(),
                self.format
            )?;
            stage.at(done as u64 + 1, written.display().to_string());
        }
        stage.done(format!("{} written", dictionaries.len()));
        Ok(())
    }
}
