//! `lapidary circuit`: which heads of a model do the work of a task, and which features that of a
//! prompt.

use super::circuit_attention::AttentionCommand;
use super::circuit_graph::GraphCommand;
use super::circuit_paths::PathsCommand;
use super::figures::number;
use super::timing::memory;
use crate::arguments::{DeviceArgument, ModelArgument};
use crate::once::each_once;
use crate::progress::Stage;
use crate::terminal::shown;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use lapidary_circuits::{Comparison, Graph, Judgement, Ranker, Task, tasks};
use lapidary_features::{RunRow, write_runs};
use lapidary_io::{check_target, read_text};
use lapidary_model::LanguageModel;
use serde_json::{Value, json};
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

/// Circuits: find the attention heads that do the work of a task, or the features that make a model
/// continue a prompt
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary circuit heads --model ./smollm2 --task ioi --method relp --out heads.parquet
  lapidary circuit compare --model ./smollm2 --task ioi --out ioi.parquet
  lapidary circuit compare --model ./smollm2 --task mine.jsonl --truth heads.json --out mine.parquet
  lapidary circuit graph --transcoders transcoders --prompt 'The Congress of the United' --out graph")]
pub struct Circuit {
    #[command(subcommand)]
    command: CircuitCommand,
}

#[derive(Subcommand)]
enum CircuitCommand {
    Compare(Compare),
    Heads(Heads),
    Graph(GraphCommand),
    Paths(PathsCommand),
    Attention(AttentionCommand),
}

impl Circuit {
    pub fn run(self) -> Result<()> {
        match self.command {
            CircuitCommand::Compare(command) => command.run(),
            CircuitCommand::Heads(command) => command.run(),
            CircuitCommand::Graph(command) => command.run(),
            CircuitCommand::Paths(command) => command.run(),
            CircuitCommand::Attention(command) => command.run(),
        }
    }
}

/// The model and its task.
#[derive(Args)]
struct TaskArgument {
    #[command(flatten)]
    model: ModelArgument,
    /// ioi, greater-than, induction, or a JSON Lines file of your own. Each line of the file is an
    /// object with `clean` and `corrupted`, prompts with the same number of tokens, and `answer`
    /// and `wrong`, the token that should follow `clean` and one that should not (or lists of them)
    #[arg(long, value_name = "TASK")]
    task: String,
    /// Number of prompts that are drawn, at most 10000; a file is read whole
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    prompts: u32,
    /// Seed of the prompts, and of methods that draw random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Do not put the beginning-of-sequence token before prompts
    #[arg(long)]
    no_bos: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

impl TaskArgument {
    fn read(&self, model: &LanguageModel) -> Result<Task> {
        let bos = !self.no_bos;
        let path = Path::new(&self.task);
        Ok(match path.extension().is_some_and(|e| e == "jsonl") {
            true => Task::read(path, model, bos)?,
            false => tasks::generate(&self.task, model, self.prompts as usize, self.seed, bos)?,
        })
    }
}

/// Rank all heads by several methods and judge the rankings
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary circuit compare --model ./smollm2 --task ioi --out ioi.parquet
  lapidary circuit compare --model ./smollm2 --task mine.jsonl --truth heads.json --methods relp,discrete-sae --out mine.parquet

FILE gets one row for each method. FILE without its extension, plus .scores.parquet, gets the score of each head by each method.
docs/methods/circuits.md defines the methods and the columns.")]
struct Compare {
    #[command(flatten)]
    task: TaskArgument,
    /// Methods, separated by commas; default: all
    #[arg(long, value_delimiter = ',', value_name = "METHODS")]
    methods: Vec<Ranker>,
    /// The true circuit, if it is known: a JSON list of `[layer, head]`
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// The table, as Parquet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Compare {
    fn run(self) -> Result<()> {
        let scores_path = self.out.with_extension("scores.parquet");
        check_target(&self.out)?;
        check_target(&scores_path)?;
        each_once("--methods", &self.methods)?;
        let truth = self.truth.as_deref().map(read_truth).transpose()?;
        let device = self.task.device.open()?;
        let model = self.task.model.load(&device)?;
        let task = self.task.read(&model)?;
        let rankers = match self.methods.is_empty() {
            true => Ranker::ALL.map(|(ranker, _)| ranker).to_vec(),
            false => self.methods.clone(),
        };
        let stage = Stage::new("rank", 1 + rankers.len() as u64);
        memory::forget_peak();
        let comparison = Comparison::new(&model, &task, truth.as_deref(), self.task.seed)?;
        let exact_peak = memory::peak();
        let mut judged: Vec<Judgement> = vec![];
        for (done, ranker) in rankers.into_iter().enumerate() {
            stage.at(1 + done as u64, ranker.to_string());
            memory::forget_peak();
            let mut judgement = comparison.judge(ranker)?;
            judgement.peak_bytes = match ranker {
                Ranker::Patching => exact_peak,
                _ => memory::peak(),
            };
            judged.push(judgement);
        }
        let exact = comparison.exact();
        stage.done(format!(
            "{} heads on {} prompts: metric {:.3}, {:.3} on corrupted prompts",
            exact.effects.len(),
            task.prompts.len(),
            exact.clean,
            exact.corrupted
        ));
        let rows: Vec<RunRow> = judged.iter().map(row).collect::<Result<_>>()?;
        write_runs(&self.out, &rows)?;
        let scores: Vec<RunRow> = judged
            .iter()
            .flat_map(|j| score_rows(comparison.graph(), &j.method, &j.scores))
            .collect();
        write_runs(&scores_path, &scores)?;
        write!(stdout(), "{}", shown(&table(&judged)))?;
        writeln!(stdout(), "{}", shown(&self.out.display().to_string()))?;
        Ok(())
    }
}

/// Rank all heads by one method
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary circuit heads --model ./smollm2 --task ioi --method relp --out heads.parquet
  lapidary circuit heads --task induction --method patching --out heads.parquet")]
struct Heads {
    #[command(flatten)]
    task: TaskArgument,
    /// discrete-sae, discrete-sae-tv, attribution-patching, relp, hisp, eap-ig-inputs,
    /// eap-ig-activations or patching
    #[arg(long, value_name = "NAME", default_value = "relp")]
    method: Ranker,
    /// The table, as Parquet: method, layer, head, score
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Heads {
    fn run(self) -> Result<()> {
        check_target(&self.out)?;
        let device = self.task.device.open()?;
        let model = self.task.model.load(&device)?;
        let task = self.task.read(&model)?;
        let graph = Graph::of(&model)?;
        let stage = Stage::new("rank", 1);
        let scores = self.method.scores(&model, &graph, &task, self.task.seed)?;
        stage.done(format!(
            "{} heads on {} prompts by {}",
            scores.len(),
            task.prompts.len(),
            self.method
        ));
        let rows = score_rows(&graph, &self.method.to_string(), &scores);
        write_runs(&self.out, &rows)?;
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let mut text = String::from("  layer  head     score\n");
        for head in order.into_iter().take(10) {
            let (layer, number_in_layer) = (head / graph.heads, head % graph.heads);
            text += &format!(
                "  {layer:>5} {number_in_layer:>5} {:>9}\n",
                number(scores[head])
            );
        }
        write!(stdout(), "{}", shown(&text))?;
        writeln!(stdout(), "{}", shown(&self.out.display().to_string()))?;
        Ok(())
    }
}

fn read_truth(path: &Path) -> Result<Vec<(usize, usize)>> {
    let text = read_text(path)?;
    let heads: Vec<(usize, usize)> = serde_json::from_str(&text)
        .with_context(|| format!("{}: expected a JSON list of [layer, head]", path.display()))?;
    if heads.is_empty() {
        bail!("{}: found no head, expected at least one", path.display());
    }
    Ok(heads)
}

fn row(judgement: &Judgement) -> Result<RunRow> {
    // As it is declared: a map of JSON would be sorted.
    let names = [
        "method",
        "task",
        "level",
        "auc",
        "correlation_exact",
        "cpr",
        "cmd",
        "seconds",
        "peak_bytes",
        "n_heads",
    ];
    let values = serde_json::to_value(judgement)?;
    let cell = |name: &str| (name.to_owned(), values[name].clone());
    Ok(names.map(cell).to_vec())
}

fn score_rows(graph: &Graph, method: &str, scores: &[f64]) -> Vec<RunRow> {
    let heads = graph.all_heads().zip(scores);
    heads
        .map(|((layer, head), score)| {
            let cells: [(&str, Value); 4] = [
                ("method", json!(method)),
                ("layer", json!(layer)),
                ("head", json!(head)),
                ("score", json!(score)),
            ];
            cells.map(|(name, value)| (name.to_owned(), value)).to_vec()
        })
        .collect()
}

fn table(judged: &[Judgement]) -> String {
    let mut text = String::from(
        "  method                  auc   correlation     cpr     cmd   seconds   heads for 80 %\n",
    );
    let some = |value: Option<f64>| value.map_or("–".into(), number);
    for j in judged {
        text += &format!(
            "  {:<20} {:>6} {:>13} {:>7} {:>7} {:>9.1} {:>16}\n",
            j.method,
            some(j.auc),
            some(j.correlation_exact),
            number(j.cpr),
            number(j.cmd),
            j.seconds,
            j.n_heads.map_or("–".into(), |n| n.to_string())
        );
    }
    text
}
