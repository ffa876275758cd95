//! A prompt, a model and its transcoders: what attribution starts from.

use crate::arguments::DeviceArgument;
use crate::progress::Watched;
use anyhow::{Result, bail};
use clap::Args;
use lapidary::{DictionaryOptions, dictionary_model, open_transcoders};
use lapidary_coder::Dictionary;
use lapidary_formats::Format;
use lapidary_io::read_text;
use lapidary_model::LanguageModel;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// A prompt of a model with transcoders.
#[derive(Args)]
pub struct PromptArgument {
    /// Language model: `embedded` (inside the program), a folder in Hugging Face layout, a GGUF
    /// file, or a name on the Hugging Face hub; default: the model that the transcoders name
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Transcoders, separated by commas. Each is a dictionary in any format, a run's folder, a
    /// folder of runs, a folder with a transcoder set of circuit-tracer, or hf:OWNER/NAME/PATH on
    /// the Hugging Face hub
    #[arg(long, value_name = "DIR", value_delimiter = ',', required = true)]
    transcoders: Vec<PathBuf>,
    /// Format of the transcoders, as for `lapidary eval`. Needed only if the files fit several
    /// formats
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// The prompt
    #[arg(long, value_name = "TEXT", required_unless_present = "prompt_file")]
    prompt: Option<String>,
    /// File with the prompt. A line break at the end of the file is left out
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// Do not put the beginning-of-sequence token before the prompt
    #[arg(long)]
    no_bos: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

/// One of several things of a layer, as it is written: `LAYER.NUMBER`.
#[derive(Clone, Copy)]
pub struct InLayer(pub [usize; 2]);

impl FromStr for InLayer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('.');
        let parsed = parts.and_then(|(l, i)| Some([l.parse().ok()?, i.parse().ok()?]));
        let wrong = || format!("found `{text}`, expected a layer and a number, such as 1.2");
        parsed.map(Self).ok_or_else(wrong)
    }
}

/// What the arguments name.
pub struct Opened {
    pub model: Arc<LanguageModel>,
    /// Each with its place.
    pub transcoders: Vec<(String, Dictionary)>,
    /// The prompt, after the beginning of a sequence if it is to have one.
    pub tokens: Vec<u32>,
}

impl PromptArgument {
    pub fn open(&self) -> Result<Opened> {
        let prompt = match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => {
                let text = read_text(path)?;
                let line = text.strip_suffix('\n').unwrap_or(&text);
                line.strip_suffix('\r').unwrap_or(line).to_owned()
            }
            (None, None) => unreachable!("clap asks for one of them"),
        };
        let device = self.device.open()?;
        let how = DictionaryOptions {
            format: self.format,
            hook_point: None,
        };
        let opened = open_transcoders(&self.transcoders, how, &device)?;
        let (path, first) = &opened[0];
        check_of_one_model(&opened)?;
        let model = self.model.as_deref();
        let model = dictionary_model::load(&Watched, first, path, model, &device)?;
        let tokens = self.tokens(&model, &prompt)?;
        let transcoders = opened.into_iter();
        let transcoders = transcoders.map(|(path, dictionary)| {
            let name = path.display().to_string();
            (name, dictionary)
        });
        Ok(Opened {
            transcoders: transcoders.collect(),
            model,
            tokens,
        })
    }

    fn tokens(&self, model: &LanguageModel, prompt: &str) -> Result<Vec<u32>> {
        let text = model.tokenizer()?.encode(prompt)?;
        let Some(first) = text.first() else {
            bail!("the prompt is empty");
        };
        let bos = model.config().bos.filter(|_| !self.no_bos);
        let bos = bos.filter(|bos| bos != first); // it has one already
        Ok(bos.into_iter().chain(text).collect())
    }
}

/// Refuses transcoders that name different models, or that need the model changed in different
/// ways.
fn check_of_one_model(opened: &[(PathBuf, Dictionary)]) -> Result<()> {
    let (first_path, first) = &opened[0];
    for (path, dictionary) in &opened[1..] {
        let [a, b] = [first, dictionary].map(|d| d.provenance.model_name.as_deref());
        if let (Some(a), Some(b)) = (a, b)
            && a != b
        {
            bail!(
                "{} is of the model `{b}`, but {} of `{a}`",
                path.display(),
                first_path.display()
            );
        }
        if dictionary.provenance.loading != first.provenance.loading {
            bail!(
                "{} and {} were trained on a model that was loaded in different ways",
                path.display(),
                first_path.display()
            );
        }
    }
    Ok(())
}
