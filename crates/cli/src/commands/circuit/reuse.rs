//! `lapidary circuit reuse`: which heads two tasks have in common.

use super::PromptArguments;
use crate::arguments::{DeviceArgument, ModelArgument};
use crate::commands::figures::number;
use crate::once::each_once;
use crate::progress;
use crate::terminal::shown;
use anyhow::{Result, bail};
use clap::Args;
use lapidary_circuits::reuse::{Overlap, STRONGEST, Stage, overlap, stages};
use lapidary_circuits::{Graph, tasks};
use lapidary_io::{check_target, write_atomically};
use serde_json::{Value, json};
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Find the heads that two tasks share, at each stage of path patching
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary circuit reuse --model ./gpt2-medium --tasks ioi,colored-objects --out reuse.json

docs/methods/circuits.md defines the stages and the file.")]
pub struct Reuse {
    #[command(flatten)]
    model: ModelArgument,
    #[arg(long, value_delimiter = ',', value_name = "TASKS", required = true, help = tasks_help())]
    tasks: Vec<String>,
    #[command(flatten)]
    prompts: PromptArguments,
    /// Share of the heads that each stage keeps, above 0 and at most 1
    #[arg(long, value_name = "SHARE", default_value_t = STRONGEST)]
    top: f64,
    /// JSON file for the heads of each task and their overlap
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgument,
}

fn tasks_help() -> String {
    let names = tasks::TASKS.map(|(name, _)| name).join(", ");
    format!("Two tasks, separated by a comma. Each is one of {names}, or your own .jsonl file")
}

impl Reuse {
    pub fn run(self) -> Result<()> {
        check_target(&self.out)?;
        each_once("--tasks", &self.tasks)?;
        let [first, second] = &self.tasks[..] else {
            bail!("--tasks: found {}, expected two tasks", self.tasks.len());
        };
        if !(self.top > 0.0 && self.top <= 1.0) {
            bail!("--top: found {}, expected above 0 and at most 1", self.top);
        }
        let device = self.device.open()?;
        let model = self.model.load(&device)?;
        let graph = Graph::of(&model)?;
        let both = [first, second].map(|task| self.prompts.read(task, &model));
        let [first, second] = both;
        let (first, second) = (first?, second?);
        let progress = progress::Stage::new("patch", 2);
        let mut found: Vec<Vec<Stage>> = vec![];
        for (done, task) in [&first, &second].into_iter().enumerate() {
            progress.at(done as u64, task.name.clone());
            found.push(stages(&model, &graph, task, self.top)?);
        }
        let n = found[0].len().max(found[1].len());
        progress.done(format!(
            "{n} stages of {} heads",
            graph.layers * graph.heads
        ));
        let heads = |task: usize, stage: usize| -> Vec<(usize, usize)> {
            let found = found[task].get(stage).map_or(&[][..], |stage| &stage.heads);
            found
                .iter()
                .map(|(layer, head, _)| (*layer, *head))
                .collect()
        };
        let overlaps: Vec<Overlap> = (0..n)
            .map(|stage| overlap(&heads(0, stage), &heads(1, stage)))
            .collect();
        // As in the paper: heads at different stages are different.
        let of_all = |task: usize| -> usize { (0..n).map(|stage| heads(task, stage).len()).sum() };
        let shared: usize = overlaps.iter().map(|o| o.shared.len()).sum();
        let share = |of: usize| (of > 0).then(|| shared as f64 / of as f64);
        let (a, b) = (of_all(0), of_all(1));
        let pooled = json!({
            "shared": shared,
            "heads": [a, b],
            "of_first": share(a),
            "of_second": share(b),
            "jaccard": share(a + b - shared),
        });
        let rows: Vec<Value> = overlaps
            .iter()
            .enumerate()
            .map(|(stage, overlap)| {
                json!({
                    "first": found[0].get(stage),
                    "second": found[1].get(stage),
                    "overlap": overlap,
                })
            })
            .collect();
        let file = json!({
            "model": model.name(),
            "tasks": [first.name, second.name],
            "top": self.top,
            "stages": rows,
            "pooled": pooled,
        });
        write_atomically(&self.out, format!("{file:#}\n").as_bytes())?;
        let some = |value: Option<f64>| value.map_or("–".into(), number);
        let mut text = String::from("  stage  shared  of first  of second   jaccard\n");
        let mut line = |name: String, shared: usize, shares: [Option<f64>; 3]| {
            let [first, second, jaccard] = shares.map(some);
            text += &format!("  {name:<5} {shared:>7} {first:>9} {second:>10} {jaccard:>9}\n");
        };
        for (stage, o) in overlaps.iter().enumerate() {
            let shares = [o.of_first, o.of_second, o.jaccard];
            line((stage + 1).to_string(), o.shared.len(), shares);
        }
        line(
            "all".into(),
            shared,
            [share(a), share(b), share(a + b - shared)],
        );
        write!(stdout(), "{}", shown(&text))?;
        writeln!(stdout(), "{}", shown(&self.out.display().to_string()))?;
        Ok(())
    }
}
