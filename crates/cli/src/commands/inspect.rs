//! `lapidary inspect`: what a file or folder is, by its headers. Weights, rows and shards are not
//! read.

mod files;
mod folders;
mod hub;
mod json_lines;
mod recipes;
mod tables;
mod view;

use anyhow::{Result, bail};
use clap::Args;
use lapidary_activations::{Store, StoreManifest};
use lapidary_formats::Format;
use std::io::{Write, stdout};
use std::path::PathBuf;

use crate::progress::Stage;
use view::View;

/// Show what is in a file or folder: a run, a sweep, a checkpoint, a dictionary, a store, a model,
/// tensors or a table
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary inspect out
  lapidary inspect out --all
  lapidary inspect out/features/features.parquet
  lapidary inspect x.safetensors --json
  lapidary inspect hf:google/gemma-scope-2b-pt-res/layer_20/width_16k
  lapidary inspect trainer_0 --format dictionary_learning
  lapidary inspect acts --verify

Files: .safetensors, .pt, .pth, .bin, .npz, .gguf, .parquet, .json, .jsonl and .toml. Weights and activations are not read, so the
command is also fast for large files. There is one exception: the weights of a dictionary in a format other than saelens are read if
they are not larger than 1 GiB.")]
pub struct Inspect {
    /// A file, a folder, or a repository on the Hugging Face hub: hf:OWNER/NAME@REVISION/PATH
    /// (@REVISION and /PATH are optional)
    #[arg(value_name = "FILE_OR_FOLDER")]
    path: PathBuf,
    /// Show all metrics of a run, all entries of lists (tensors, fields, …), and long values in
    /// full
    #[arg(long)]
    all: bool,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
    /// Read FILE_OR_FOLDER as a dictionary in this format: saelens, sparsify, dictionary_learning,
    /// circuit_tracer, gemma_scope, llama_scope, llamascopium, openai or quantized. Needed only if
    /// the files fit several formats. With --format, a dictionary on the hub is downloaded
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Read a store of activations completely and check its checksums
    #[arg(long, conflicts_with = "format")]
    verify: bool,
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        let path = &self.path;
        if self.verify {
            return self.verify();
        }
        let view = match path.to_string_lossy().strip_prefix("hf:") {
            _ if self.format.is_some() => {
                folders::dictionary(&lapidary_formats::local(path)?, self.format, self.all)?
            }
            Some(address) => hub::view(address, self.all)?,
            None if path.is_dir() => folders::view(path, self.all)?,
            None if path.exists() => files::view(path, self.all)?,
            None => bail!(
                "{}: not found; a repository on the hub is hf:OWNER/NAME",
                path.display()
            ),
        };
        view.print(&mut stdout(), self.json)
    }

    fn verify(&self) -> Result<()> {
        let path = &self.path;
        if !Store::exists(path) {
            bail!(
                "{}: --verify is for stores of activations, and this is none",
                path.display()
            );
        }
        let total = StoreManifest::read(path)?
            .shards
            .iter()
            .map(|s| s.bytes)
            .sum();
        let stage = Stage::new("verify", total);
        let manifest = Store::verify(path, &mut |bytes| {
            stage.at(
                bytes,
                format!("{:.0} MB/s", bytes as f64 / 1e6 / stage.seconds()),
            );
        })?;
        stage.done(format!("{:.1} MB", total as f64 / 1e6));
        let (rows, shards) = (manifest.rows, manifest.shards.len());
        let mut view = View::new("verified store");
        view.fact("rows", rows);
        view.fact("shards", shards);
        if self.json {
            return view.print(&mut stdout(), true);
        }
        writeln!(
            stdout(),
            "{rows} rows in {shards} shards: every byte is as it was written"
        )?;
        Ok(())
    }
}
