//! `lapidary export`.

use crate::arguments::{DeviceArgument, DictionaryArgument};
use crate::progress::Watched;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use lapidary::{Viewer, export};
use lapidary_features::exports::ExportNames;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Write feature tables for Neuronpedia or SAEDashboard
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary export out --to neuronpedia --source-set res-4k --creator-id USER --creator-name \"Our Lab\" --release our-release --out np
  lapidary export out --to sae-dashboard --source-set res-4k --creator-id USER --creator-name \"Our Lab\" --release our-release --out batches

The run needs feature tables (`lapidary features`). With DIR/labels.parquet (`lapidary label`), the export has explanations too.
For Neuronpedia, the folder to import is OUT/MODEL_ID/LAYER-SOURCE_SET. The user --creator-id must exist there.")]
pub struct Export {
    /// Folder of the run
    #[arg(value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Viewer to write for
    #[arg(long, value_name = "VIEWER")]
    to: To,
    /// Name of the source set, which has the dictionaries of all layers. Allowed characters are
    /// letters, digits, and the signs . - _
    #[arg(long, value_name = "NAME")]
    source_set: String,
    /// What the source set is, in a few words; default: its name
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Id of the model at the viewer; default: the name of the model, without the part before /
    #[arg(long, value_name = "ID")]
    model_id: Option<String>,
    /// Suffix of the name, which distinguishes this dictionary from others of the same source set
    /// and layer
    #[arg(long, value_name = "NAME")]
    suffix: Option<String>,
    /// Id that the owner of the features has as a user of the viewer
    #[arg(long, value_name = "ID")]
    creator_id: String,
    /// Name of the authors
    #[arg(long, value_name = "NAME")]
    creator_name: String,
    /// Id of the release
    #[arg(long, value_name = "ID")]
    release: String,
    /// Address of a page about the release; can be given several times
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
    /// Folder to write; it must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Clone, Copy, ValueEnum)]
enum To {
    /// Neuronpedia's import folder
    Neuronpedia,
    /// The batch files that SAEDashboard's Neuronpedia runner writes
    SaeDashboard,
}

impl Export {
    pub fn run(self) -> Result<()> {
        if let Ok(mut entries) = self.out.read_dir()
            && entries.next().is_some()
        {
            bail!(
                "--out {}: found files in it, expected a new or empty folder",
                self.out.display()
            );
        }
        let device = self.device.open()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let names = ExportNames {
            model_id: self.model_id.unwrap_or_default(),
            source_set_description: self.description.unwrap_or_else(|| self.source_set.clone()),
            source_set: self.source_set,
            suffix: self.suffix,
            creator_id: self.creator_id,
            creator_name: self.creator_name,
            release_description: self.release.clone(),
            release: self.release,
            urls: self.url,
            created_at: now.context("the clock is before 1970")?.as_secs(),
            ..ExportNames::default()
        };
        let viewer = match self.to {
            To::Neuronpedia => Viewer::Neuronpedia,
            To::SaeDashboard => Viewer::SaeDashboard,
        };
        let from = self.from.options();
        Ok(export(
            &self.run, from, viewer, names, &self.out, &device, &Watched,
        )?)
    }
}
