//! `lapidary absorption`.

use super::figures::{line, number};
use super::probe::dense;
use crate::arguments::{DeviceArgument, DictionaryArgument};
use crate::progress::Stage;
use anyhow::{Result, bail};
use clap::Args;
use lapidary::run_folder::write_json;
use lapidary_evaluation::Hooks;
use lapidary_evaluation::probing::{
    Absorption as Found, AbsorptionConfig, Rows, absorption_of, first_letter_task, represent,
};
use lapidary_io::check_target;
use lapidary_io::tensors::TensorWriter;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

/// Feature absorption: measure how often the latents of a letter miss words that begin with the
/// letter
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary absorption out
  lapidary absorption my-dictionary --model ./smollm2 --words 5000 --out absorption.json

Each word is a single token of the model's vocabulary. Its prompt has ten examples with other words, such as \"house has the first
letter: H\", and then the word. The activation is read at the word.
The means in the results are over the letters whose probe on the activations has an F1 above 0.6.")]
pub struct Absorption {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Language model; default: the model that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Maximum number of words: 80 % of them are for training, 20 % for testing
    #[arg(long, default_value_t = 5000)]
    words: usize,
    /// Seed for the choice of words and examples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Also write the results to this JSON file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also write the activations, the probes and the result for each word to this safetensors file
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Print the results as JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Absorption {
    pub fn run(self) -> Result<()> {
        for path in self.out.iter().chain(&self.data) {
            check_target(path)?;
        }
        let device = self.device.open()?;
        let opened = self
            .from
            .open_with_model(&self.dictionary, self.model.as_deref(), &device)?;
        let Hooks { sources, targets } = Hooks::of(&opened.dictionary)?;
        let hook = match sources[..] {
            [hook] if sources == targets => hook,
            _ => bail!(
                "found a dictionary from {sources:?} to {targets:?}, expected one of one hook point: decoder rows are compared with a probe there"
            ),
        };
        let coder = opened.dictionary.coder.clone().to_device(&device);
        let task = first_letter_task(&opened.model, self.words, self.seed)?;
        let longest = task
            .prompts
            .iter()
            .map(|(tokens, _)| tokens.len())
            .max()
            .unwrap_or(0);
        let n_ctx = opened.model.config().n_ctx;
        if longest > n_ctx {
            bail!("the longest prompt has {longest} tokens, the model's context {n_ctx}");
        }
        let context = n_ctx.min(longest.max(256));
        let stage = Stage::new("represent", task.prompts.len() as u64);
        let represented = represent(
            &opened.model,
            &coder,
            hook,
            &task.prompts,
            context,
            &mut |n| {
                stage.at(n as u64, format!("{n} words"));
            },
        )?;
        stage.done(format!("{} words", task.words.len()));
        let stage = Stage::new("absorption", 26);
        let found = absorption_of(
            &task,
            &represented,
            &coder,
            &AbsorptionConfig::default(),
            &mut |n| {
                stage.at(n as u64, format!("{n} letters"));
            },
        )?;
        stage.done(format!("{} letters that the model knows", found.letters));
        if let Some(path) = &self.out {
            write_json(path, &found)?;
        }
        if let Some(path) = &self.data {
            write_data(path, &represented.activations, &found)?;
        }
        if self.json {
            writeln!(stdout(), "{}", serde_json::to_string_pretty(&found)?)?;
        } else {
            write!(stdout(), "{}", table(&found))?;
        }
        Ok(())
    }
}

/// Activations of all words, and for each letter the probe's direction, its words and what becomes
/// of it there.
fn write_data(path: &Path, activations: &Rows, found: &Found) -> Result<()> {
    let mut file = TensorWriter::default();
    let shape = [activations.len(), activations.columns()];
    file.f32("activations", &shape, &dense(activations)?);
    for l in &found.details {
        let (e, letter) = (&l.evidence, l.letter);
        let n = [e.words.len()];
        let f32s = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let fraction: Vec<f64> = e.absorbed.iter().map(|a| a.fraction).collect();
        let full: Vec<i32> = e.absorbed.iter().map(|a| i32::from(a.full)).collect();
        let words: Vec<i32> = e.words.iter().map(|w| *w as i32).collect();
        let direction = f32s(&e.direction);
        file.f32(
            &format!("{letter}.direction"),
            &[direction.len()],
            &direction,
        );
        file.i32(&format!("{letter}.words"), &n, &words);
        file.f32(&format!("{letter}.fraction"), &n, &f32s(&fraction));
        file.i32(&format!("{letter}.full"), &n, &full);
    }
    Ok(file.write_atomically(path, None)?)
}

fn table(found: &Found) -> String {
    let mut text =
        String::from("  letter   probe F1   latents F1   seen   absorbed   in full   latents\n");
    for l in &found.details {
        let latents: Vec<String> = l.split_features.iter().map(usize::to_string).collect();
        text += &format!(
            "  {:<6} {:>10} {:>12} {:>6} {:>10} {:>9}   {}\n",
            l.letter,
            number(l.probe_f1),
            number(l.latents_f1),
            l.num_probe_true_positives,
            number(l.mean_absorption_fraction),
            number(l.full_absorption_rate),
            latents.join(" ")
        );
    }
    for (name, value) in [
        (
            "mean_absorption_fraction_score",
            found.mean_absorption_fraction_score,
        ),
        (
            "mean_full_absorption_score",
            found.mean_full_absorption_score,
        ),
        ("mean_num_split_features", found.mean_num_split_features),
    ] {
        text += &line(name, value, "");
    }
    text += &format!(
        "  over {} letters, {} words to test on\n",
        found.letters, found.words[1]
    );
    text
}
