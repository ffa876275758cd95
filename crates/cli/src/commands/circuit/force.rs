//! `lapidary circuit force`: what becomes of a task if heads look at chosen words.

use super::TaskArgument;
use super::prompt::InLayer;
use crate::commands::figures::number;
use crate::once::each_once;
use crate::progress::Stage;
use crate::terminal::shown;
use anyhow::Result;
use clap::{Args, ValueEnum};
use lapidary_circuits::{Graph, Words, force_attention};
use lapidary_io::{check_target, write_atomically};
use serde_json::json;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Make heads attend to the answers or to wrong answers, and measure how well the model then does
/// the task
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary circuit force --model ./gpt2-medium --task colored-objects --heads 12.3,13.4,13.13,19.1 --look-at wrong --out forced.json

From the last position of each prompt, each head of --heads attends only to the chosen words, with equal weights. The chosen words are
the answers or the wrong answers, where the prompt contains them. A prompt that contains none is left out.
docs/methods/circuits.md defines the file.")]
pub struct Force {
    #[command(flatten)]
    task: TaskArgument,
    /// Heads, as LAYER.HEAD, separated by commas
    #[arg(long, value_name = "HEADS", value_delimiter = ',', required = true)]
    heads: Vec<InLayer>,
    /// Words of the prompt that the heads attend to
    #[arg(long, value_name = "WORDS", value_enum)]
    look_at: LookAt,
    /// JSON file for metric and accuracy before and after the change
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum LookAt {
    /// The answers
    Answer,
    /// The wrong answers
    Wrong,
}

impl Force {
    pub fn run(self) -> Result<()> {
        check_target(&self.out)?;
        let heads: Vec<(usize, usize)> = self.heads.iter().map(|h| (h.0[0], h.0[1])).collect();
        let names: Vec<String> = heads.iter().map(|(l, h)| format!("{l}.{h}")).collect();
        each_once("--heads", &names)?;
        let (words, name) = match self.look_at {
            LookAt::Answer => (Words::Answer, "answer"),
            LookAt::Wrong => (Words::Wrong, "wrong"),
        };
        let device = self.task.device.open()?;
        let model = self.task.model.load(&device)?;
        let graph = Graph::of(&model)?;
        let task = self.task.read(&model)?;
        let stage = Stage::new("run", 1);
        let found = force_attention(&model, &graph, &task, &heads, words, self.task.prompts.seed)?;
        stage.done(format!(
            "{} prompts, {} left out because no token of them is such a word",
            found.prompts, found.left_out
        ));
        let mut file = json!({
            "model": model.name(),
            "task": task.name,
            "heads": heads,
            "look_at": name,
        });
        let result = serde_json::to_value(&found)?;
        for (key, value) in result.as_object().into_iter().flatten() {
            file[key] = value.clone();
        }
        write_atomically(&self.out, format!("{file:#}\n").as_bytes())?;
        let mut text = String::from("                   metric  accuracy\n");
        let rows = [
            ("before", Some(found.before)),
            ("after", Some(found.after)),
            ("random heads", found.random),
        ];
        for (name, performance) in rows {
            if let Some(performance) = performance {
                let (metric, accuracy) = (number(performance.metric), number(performance.accuracy));
                text += &format!("  {name:<14} {metric:>8} {accuracy:>9}\n");
            }
        }
        write!(stdout(), "{}", shown(&text))?;
        writeln!(stdout(), "{}", shown(&self.out.display().to_string()))?;
        Ok(())
    }
}
