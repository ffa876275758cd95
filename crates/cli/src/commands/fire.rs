//! `lapidary fire`.

use crate::arguments::{DeviceArgument, DictionaryArgument};
use crate::progress::Watched;
use crate::terminal::shown;
use anyhow::Result;
use clap::Args;
use lapidary::{FiringToken, fire};
use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::path::PathBuf;

/// Show which latents fire on which tokens of a text
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary fire out --text \"The war is over.\"
  lapidary fire out --text \"The war is over.\" --latent 1457,3790 --json

Each latent is printed with its activation. If DIR is a run's folder, a label can follow: the label of the latent in DIR/labels.parquet
(see `lapidary label`). Without such a label, it is the most frequent peak token of the latent in the feature tables.")]
pub struct Fire {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Language model; default: the model that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Text
    #[arg(long)]
    text: String,
    /// Maximum number of latents per token, those with the largest activations
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// Only these latents, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "ID,ID…")]
    latent: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Fire {
    pub fn run(self) -> Result<()> {
        let device = self.device.open()?;
        let model = self.model.as_deref();
        let opened = self
            .from
            .open_with_model(&self.dictionary, model, &device)?;
        let tokens = fire(
            &opened,
            &self.text,
            (self.top as usize, &self.latent),
            &Watched,
        )?;
        match self.json {
            true => writeln!(stdout(), "{}", serde_json::to_string_pretty(&tokens)?)?,
            false => write!(stdout(), "{}", shown(&table(&tokens)))?,
        }
        Ok(())
    }
}

/// A line per token.
fn table(tokens: &[FiringToken]) -> String {
    let names: Vec<String> = tokens
        .iter()
        .map(|token| format!("{:?}", token.token))
        .collect();
    let width = names
        .iter()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (token, name) in tokens.iter().zip(names) {
        let latents = token.latents.iter().map(|latent| {
            let about = latent
                .about
                .as_ref()
                .map_or(String::new(), |about| format!(" {about:?}"));
            format!("{}: {:.2}{about}", latent.feature_id, latent.activation)
        });
        let latents: Vec<String> = latents.collect();
        let _ = writeln!(text, "{name:<width$}  {}", latents.join(", "));
    }
    text
}
