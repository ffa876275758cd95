//! `lapidary absorption`.

use super::eval::Opened;
use super::figures::number;
use crate::arguments::{DeviceArgument, DictionaryArgument};
use crate::progress::Stage;
use crate::run_folder::write_json;
use anyhow::{Result, bail};
use clap::Args;
use lapidary_evaluation::probing::{
    Absorption as Found, AbsorptionConfig, absorption_of, first_letter_task, represent,
};
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Feature absorption: do a letter's latents fire on every word that begins with it?
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary absorption out
  lapidary absorption my-dictionary --model ./smollm2 --words 5000 --out absorption.json

The task is made of the model's own vocabulary: words of one token after ten examples (\"word has the first letter: W\"). A letter
counts if a probe on the activations finds it with an F1 above 0.6.")]
pub struct Absorption {
    /// A run's folder, a dictionary of any format, or hf:OWNER/NAME/PATH of the hub
    #[arg(value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// The model; default: the one that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Words, at most; four in five are to train on
    #[arg(long, default_value_t = 5000)]
    words: usize,
    /// Seed of the words and the examples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Also write the figures to this JSON file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the figures as JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Absorption {
    pub fn run(self) -> Result<()> {
        let device = self.device.open()?;
        let opened = Opened::new(&self.dictionary, &self.from, self.model.as_deref(), &device)?;
        let hook = opened.dictionary.hook_point()?;
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
        if self.json {
            writeln!(stdout(), "{}", serde_json::to_string_pretty(&found)?)?;
        } else {
            write!(stdout(), "{}", table(&found))?;
        }
        Ok(())
    }
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
        text += &format!("  {name:<32} {:>11}\n", number(value));
    }
    text += &format!(
        "  over {} letters, {} words to test on\n",
        found.letters, found.words[1]
    );
    text
}
