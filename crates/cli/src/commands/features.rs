//! `lapidary features`.

use crate::arguments::{DeviceArgument, DictionaryArgument, TextArgument};
use crate::progress::Watched;
use anyhow::{Result, bail};
use clap::Args;
use lapidary::run_folder::{Maker, RunFolder, RunWriter, table_files};
use lapidary::{Tables, document_ids};
use std::path::PathBuf;

/// Write the feature tables and the report of a dictionary
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary features out
  lapidary features out --codes --tokens 1000000
  lapidary features out --corpus articles.parquet --id-field url --out features-of-articles
  lapidary features my-dictionary --model ./smollm2 --corpus text.jsonl --tokens 500000 --out my-features")]
pub struct Features {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Language model; default: the model that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Text: `embedded`, a file, a folder, or hf:OWNER/NAME (a dataset on the Hugging Face hub);
    /// default: the text that the dictionary was trained on
    #[arg(long)]
    corpus: Option<String>,
    #[command(flatten)]
    text: TextArgument,
    /// Number of tokens; default: `features.tokens` of the dictionary's recipe, else 200000
    #[arg(long)]
    tokens: Option<u64>,
    /// Number of contexts per latent (those with the highest activations); default:
    /// `features.examples_per_feature` of the dictionary's recipe, else 16
    #[arg(long)]
    examples: Option<usize>,
    /// Also write features/codes.parquet: the active latents of every token. Before compression, it
    /// has 8 bytes for each active latent of each token
    #[arg(long)]
    codes: bool,
    /// JSON field or Parquet column with the documents' own ids, for features/documents.parquet;
    /// default: `title` for the embedded text, else none
    #[arg(long, value_name = "NAME")]
    id_field: Option<String>,
    /// Folder for features/ and report.html; default: DIR
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Features {
    pub fn run(self) -> Result<()> {
        let device = self.device.open()?;
        let mut opened =
            self.from
                .open_with_model(&self.dictionary, self.model.as_deref(), &device)?;
        let recipe = opened.recipe();
        let tokens = self
            .tokens
            .or_else(|| {
                let tokens = recipe.as_ref().map(|r| r.features.tokens);
                tokens.filter(|n| *n > 0)
            })
            .unwrap_or(200_000);
        let examples = self
            .examples
            .or_else(|| recipe.as_ref().map(|r| r.features.examples_per_feature))
            .unwrap_or(16);
        let in_run = opened.folder.take();
        let (metrics, log) = match &in_run {
            Some(folder) => (folder.read_metrics()?, folder.read_log()),
            None => (None, vec![]),
        };
        let other = opened.second()?;
        let folder = match (&self.out, in_run) {
            (Some(out), _) => RunFolder::new(out),
            (None, Some(folder)) => folder,
            (None, None) if !self.dictionary.is_dir() => {
                bail!(
                    "give --out: {} is no folder of this machine",
                    self.dictionary.display()
                )
            }
            (None, None) => RunFolder::new(&self.dictionary),
        };
        opened.model.check_head()?;
        let mut writer = RunWriter::claim(&folder.path, Maker::Features, &table_files())?;
        let corpus = self.corpus.as_deref();
        let blocks = opened.read_text(corpus, &self.text.options(), tokens, &Watched)?;
        writer.add(table_files())?;
        let models = (&*opened.model, other.as_ref());
        let mut tables = Tables::new(models, &opened.dictionary, &blocks, examples)?;
        let trained_on = opened.dictionary.provenance.corpus.as_deref();
        if let Some(name) = corpus.or(trained_on) {
            let ids = document_ids(name, self.id_field.as_deref(), &blocks)?;
            tables = tables.of_text(name, ids);
        }
        if self.codes {
            tables = tables.with_codes();
        }
        Ok(tables.write(&Watched, &folder, metrics.as_ref(), &log)?)
    }
}
