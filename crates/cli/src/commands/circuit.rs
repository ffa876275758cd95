//! `lapidary circuit`: which heads of a model do the work of a task, and which features that of a
//! prompt.

mod attention;
mod force;
mod graph;
mod intervene;
mod paths;
mod prompt;
mod reuse;

use super::figures::number;
use super::timing::memory;
use crate::arguments::{DeviceArgument, ModelArgument};
use crate::once::each_once;
use crate::progress::{Stage, note};
use crate::terminal::shown;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use lapidary_circuits::{
    Ablation, Comparison, Graph, Judgement, Level, MOST_EDGES, PUBLISHED, Ranker, Scorer, Task,
    Truth, tasks,
};
use lapidary_features::{RunRow, write_runs};
use lapidary_io::{check_target, write_atomically};
use lapidary_model::LanguageModel;
use serde_json::{Value, json};
use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

/// Circuits: find the attention heads that a model uses for a task, or the features that it uses to
/// continue a prompt
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary circuit heads --model ./smollm2 --task ioi --method relp --out heads.parquet
  lapidary circuit compare --model ./smollm2 --task ioi --out ioi.parquet
  lapidary circuit compare --model ./smollm2 --task mine.jsonl --truth heads.json --out mine.parquet
  lapidary circuit reuse --model ./gpt2-medium --tasks ioi,colored-objects --out reuse.json
  lapidary circuit graph --transcoders transcoders --prompt 'The Congress of the United' --out graph")]
pub struct Circuit {
    #[command(subcommand)]
    command: CircuitCommand,
}

#[derive(Subcommand)]
enum CircuitCommand {
    Compare(Compare),
    Heads(Heads),
    Reuse(reuse::Reuse),
    Force(force::Force),
    Graph(graph::GraphCommand),
    Paths(paths::PathsCommand),
    Attention(attention::AttentionCommand),
    Intervene(intervene::InterveneCommand),
}

impl Circuit {
    pub fn run(self) -> Result<()> {
        match self.command {
            CircuitCommand::Compare(command) => command.run(),
            CircuitCommand::Heads(command) => command.run(),
            CircuitCommand::Reuse(command) => command.run(),
            CircuitCommand::Force(command) => command.run(),
            CircuitCommand::Graph(command) => command.run(),
            CircuitCommand::Paths(command) => command.run(),
            CircuitCommand::Attention(command) => command.run(),
            CircuitCommand::Intervene(command) => command.run(),
        }
    }
}

/// The model and its task.
#[derive(Args)]
struct TaskArgument {
    #[command(flatten)]
    model: ModelArgument,
    #[arg(long, value_name = "TASK", help = task_help())]
    task: String,
    #[command(flatten)]
    prompts: PromptArguments,
    #[command(flatten)]
    device: DeviceArgument,
}

impl TaskArgument {
    fn read(&self, model: &LanguageModel) -> Result<Task> {
        self.prompts.read(&self.task, model)
    }
}

/// How prompts are made.
#[derive(Args)]
struct PromptArguments {
    /// Number of prompts to generate, at most 10000. With a file, all its prompts are used
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    prompts: u32,
    /// Seed of the generated prompts and of the methods that use random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Do not put the beginning-of-sequence token before the prompts
    #[arg(long)]
    no_bos: bool,
}

impl PromptArguments {
    fn read(&self, task: &str, model: &LanguageModel) -> Result<Task> {
        let bos = !self.no_bos;
        let path = Path::new(task);
        Ok(match path.extension().is_some_and(|e| e == "jsonl") {
            true => Task::read(path, model, bos)?,
            false => tasks::generate(task, model, self.prompts as usize, self.seed, bos)?,
        })
    }
}

/// Rank heads and edges by several methods, and evaluate the rankings
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary circuit compare --model ./smollm2 --task ioi --out ioi.parquet
  lapidary circuit compare --model ./smollm2 --task mine.jsonl --truth heads.json --methods relp,discrete-sae --out mine.parquet

The table has one row per method and level. Level node is a ranking of heads, level edge is a ranking of edges.

More files have the name of FILE, with another ending in place of .parquet:
  .scores.parquet  score of each head by each method; only if rankings of heads are evaluated
  .edges.parquet   score of each edge by each method; only if rankings of edges are evaluated
  .curves.parquet  metric and faithfulness of the circuits of each method
  .html            a page that shows the table, the curves and the scores of heads

docs/methods/circuits.md defines the methods, the columns and the values of --ablation.")]
struct Compare {
    #[command(flatten)]
    task: TaskArgument,
    #[arg(long, value_delimiter = ',', value_name = "METHODS", help = methods_help())]
    methods: Vec<Ranker>,
    #[arg(long, value_name = "NAME|FILE", help = truth_help())]
    truth: Option<String>,
    #[arg(long, value_name = "N", default_value_t = MOST_EDGES, help = most_edges_help())]
    most_edges: usize,
    /// Evaluate only rankings of heads (node) or only rankings of edges (edge); default: both
    #[arg(long, value_enum)]
    level: Option<LevelArgument>,
    #[arg(long, value_name = "KIND", default_value_t, help = ablation_help())]
    ablation: Ablation,
    /// Parquet file for the table
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum LevelArgument {
    /// Heads
    Node,
    /// Edges
    Edge,
}

impl From<LevelArgument> for Level {
    fn from(level: LevelArgument) -> Self {
        match level {
            LevelArgument::Node => Self::Node,
            LevelArgument::Edge => Self::Edge,
        }
    }
}

impl Compare {
    fn run(self) -> Result<()> {
        for path in [&self.out].into_iter().chain(&self.files_beside()) {
            check_target(path)?;
        }
        each_once("--methods", &self.methods)?;
        let truth = self.truth.as_deref().map(read_truth).transpose()?;
        let device = self.task.device.open()?;
        let model = self.task.model.load(&device)?;
        let task = self.task.read(&model)?;
        let rankers = self.rankers(&model, &task)?;
        let stage = Stage::new("rank", 1 + rankers.len() as u64);
        memory::forget_peak();
        let (truth, seed) = (truth.as_ref(), self.task.prompts.seed);
        let comparison =
            Comparison::new(&model, &task, truth, self.ablation, seed, self.most_edges)?;
        let exact_peak = memory::peak();
        let mut exact_edges_peak = None;
        if rankers.contains(&Ranker::ExactEdges) {
            // First, because the scores of all other methods are compared with them.
            stage.at(1, Ranker::ExactEdges.to_string());
            memory::forget_peak();
            comparison.scorer().scores(Ranker::ExactEdges)?;
            exact_edges_peak = memory::peak();
        }
        let mut judged: Vec<Judgement> = vec![];
        for (done, ranker) in rankers.into_iter().enumerate() {
            stage.at(1 + done as u64, ranker.to_string());
            memory::forget_peak();
            let level = self.level.map(Level::from);
            let mut judgements = comparison.judge(ranker, level)?;
            let peak = match ranker {
                Ranker::Patching => exact_peak,
                Ranker::ExactEdges => exact_edges_peak,
                _ => memory::peak(),
            };
            judgements.iter_mut().for_each(|j| j.peak_bytes = peak);
            judged.extend(judgements);
            // What is done stays, if the rest is interrupted.
            self.write(&comparison, &judged)?;
        }
        let (graph, exact) = (comparison.graph(), comparison.exact()?);
        let ablated = judged.first().map(|j| {
            let parts = match j.level {
                "node" => "heads",
                _ => "edges",
            };
            format!(", {:.3} with all {parts} ablated", j.metric_ablated)
        });
        stage.done(format!(
            "{} heads and {} edges on {} prompts: metric {:.3}, {:.3} on corrupted prompts{}",
            exact.effects.len(),
            graph.edges(),
            task.prompts.len(),
            exact.clean,
            exact.corrupted,
            ablated.unwrap_or_default()
        ));
        write!(stdout(), "{}", shown(&table(&judged)))?;
        writeln!(stdout(), "{}", shown(&self.out.display().to_string()))?;
        Ok(())
    }

    /// The files beside the table: scores of heads, scores of edges, curves, the page.
    fn files_beside(&self) -> [PathBuf; 4] {
        ["scores.parquet", "edges.parquet", "curves.parquet", "html"]
            .map(|ending| beside(&self.out, ending))
    }

    /// Writes the table and the files beside it.
    fn write(&self, comparison: &Comparison<'_>, judged: &[Judgement]) -> Result<()> {
        let graph = comparison.graph();
        let [scores_path, edges_path, curves_path, page_path] = self.files_beside();
        let rows: Vec<RunRow> = judged.iter().map(row).collect::<Result<_>>()?;
        write_runs(&self.out, &rows)?;
        let of_level = |level: &'static str| judged.iter().filter(move |j| j.level == level);
        let scores: Vec<RunRow> = of_level("node")
            .flat_map(|j| score_rows(graph, &j.method, &j.scores))
            .collect();
        write_or_remove(&scores_path, &scores)?;
        let edges: Vec<RunRow> = of_level("edge")
            .flat_map(|j| edge_rows(graph, &j.method, &j.scores))
            .collect();
        write_or_remove(&edges_path, &edges)?;
        let curves: Vec<RunRow> = judged.iter().flat_map(curve_rows).collect();
        write_runs(&curves_path, &curves)?;
        write_atomically(&page_path, comparison.page(judged)?.as_bytes())?;
        Ok(())
    }

    /// The methods to compare. Without `--methods`, those that the graph is too large for are left
    /// out.
    fn rankers(&self, model: &LanguageModel, task: &Task) -> Result<Vec<Ranker>> {
        let scorer = Scorer::new(model, task, self.task.prompts.seed, self.most_edges)?;
        let mut rankers = vec![];
        let chosen = match self.methods.is_empty() {
            true => Ranker::ALL.map(|(ranker, _)| ranker).to_vec(),
            false => self.methods.clone(),
        };
        let judged = |ranker: Ranker| match self.level {
            Some(LevelArgument::Node) => ranker.ranks_heads(),
            Some(LevelArgument::Edge) => ranker.ranks_edges(),
            None => true,
        };
        for ranker in chosen {
            if !judged(ranker) {
                match self.methods.is_empty() {
                    true => continue,
                    false => {
                        let (ranked, asked) = match ranker.ranks_heads() {
                            true => ("heads", "edge"),
                            false => ("edges", "node"),
                        };
                        bail!("--methods: {ranker} ranks {ranked} alone, found --level {asked}")
                    }
                }
            }
            match scorer.check(ranker) {
                Ok(()) => rankers.push(ranker),
                Err(error) if self.methods.is_empty() => {
                    note(format!("left out: {error} (--most-edges)"));
                }
                Err(error) => bail!("{error}; set --most-edges, or leave the method out"),
            }
        }
        Ok(rankers)
    }
}

/// Rank all attention heads by one method
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary circuit heads --model ./smollm2 --task ioi --method relp --out heads.parquet
  lapidary circuit heads --task induction --method patching --out heads.parquet")]
struct Heads {
    #[command(flatten)]
    task: TaskArgument,
    #[arg(long, value_name = "NAME", default_value = "relp", help = method_help())]
    method: Ranker,
    #[arg(long, value_name = "N", default_value_t = MOST_EDGES, help = most_edges_of_heads_help())]
    most_edges: usize,
    /// Parquet file for the table, with the columns method, layer, head and score
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Heads {
    fn run(self) -> Result<()> {
        check_target(&self.out)?;
        let device = self.task.device.open()?;
        let model = self.task.model.load(&device)?;
        let task = self.task.read(&model)?;
        let scorer = Scorer::new(&model, &task, self.task.prompts.seed, self.most_edges)?;
        let graph = scorer.graph();
        let stage = Stage::new("rank", 1);
        let scores = scorer.heads(self.method)?;
        stage.done(format!(
            "{} heads on {} prompts by {}",
            scores.len(),
            task.prompts.len(),
            self.method
        ));
        let rows = score_rows(graph, &self.method.to_string(), &scores);
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

fn task_help() -> String {
    format!(
        "{}, or your own .jsonl file. Each line of the file is an object. `clean` and `corrupted` \
         are prompts with the same number of tokens. `answer` is the token that should follow \
         `clean`. `wrong` is a token that should not follow it. Both can be lists of tokens",
        tasks::TASKS.map(|(name, _)| name).join(", ")
    )
}

fn methods_help() -> String {
    let all = Ranker::names(|_| true);
    format!("Methods, separated by commas; default: all of {all}")
}

fn method_help() -> String {
    Ranker::names(Ranker::ranks_heads)
}

fn most_edges_help() -> String {
    let methods = Ranker::names(Ranker::runs_per_edge);
    format!(
        "Maximum number of edges for the methods that run the model at least once per edge \
         ({methods}). If the model has more edges, these methods are left out. If --methods names \
         one of them, this is an error"
    )
}

fn most_edges_of_heads_help() -> String {
    let methods = Ranker::names(|ranker| ranker.runs_per_edge() && ranker.ranks_heads());
    format!(
        "Maximum number of edges for {methods}, which runs the model at least once per edge. If the \
         model has more edges, {methods} is refused"
    )
}

fn ablation_help() -> String {
    let kinds = Ablation::ALL.map(|(_, name)| name).join(", ");
    format!(
        "What replaces the outputs of heads and edges outside a circuit when the faithfulness of \
         the circuit is measured: {kinds}"
    )
}

fn published() -> String {
    PUBLISHED.map(|circuit| circuit.name).join(", ")
}

fn truth_help() -> String {
    format!(
        "The known circuit of the task, to compute the AUC of rankings: one of {}, or a JSON file. \
         The file is a list of `[layer, head]`. It can also be an object with this list as \
         `heads`, and with an optional list `edges` such as `[\"a0.h1->a2.h3<q>\"]`",
        published()
    )
}

fn read_truth(given: &str) -> Result<Truth> {
    if let Some(truth) = Truth::published(given) {
        return Ok(truth);
    }
    let path = Path::new(given);
    if !path.exists() && path.extension().is_none() {
        bail!(
            "--truth: found {given}, expected {}, or a JSON file",
            published()
        );
    }
    Ok(Truth::read(path)?)
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

fn edge_rows(graph: &Graph, method: &str, scores: &[f64]) -> Vec<RunRow> {
    let edges = scores.iter().enumerate();
    edges
        .map(|(edge, score)| {
            let (sender, receiver) = graph.edge(edge);
            let cells: [(&str, Value); 4] = [
                ("method", json!(method)),
                ("source", json!(sender.to_string())),
                ("target", json!(receiver.to_string())),
                ("score", json!(score)),
            ];
            cells.map(|(name, value)| (name.to_owned(), value)).to_vec()
        })
        .collect()
}

/// A file beside the table: its name without `.parquet`, with another ending.
fn beside(table: &Path, ending: &str) -> PathBuf {
    match table.extension().is_some_and(|e| e == "parquet") {
        true => table.with_extension(ending),
        false => {
            let mut name = table.as_os_str().to_owned();
            name.push(".");
            name.push(ending);
            name.into()
        }
    }
}

/// Writes rows; without any, removes the file of an earlier table.
fn write_or_remove(path: &Path, rows: &[RunRow]) -> Result<()> {
    if !rows.is_empty() {
        write_runs(path, rows)?;
    } else if path.is_file() {
        fs::remove_file(path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn curve_rows(judgement: &Judgement) -> Vec<RunRow> {
    let points = judgement.curve.iter().map(|at| {
        let cells: [(&str, Value); 7] = [
            ("method", json!(judgement.method)),
            ("level", json!(judgement.level)),
            ("share", json!(at.share)),
            ("size", json!(at.size)),
            ("n_heads", json!(at.heads)),
            ("metric", json!(at.kept.metric)),
            ("faithfulness", json!(at.kept.faithfulness)),
        ];
        cells.map(|(name, value)| (name.to_owned(), value)).to_vec()
    });
    points.collect()
}

fn table(judged: &[Judgement]) -> String {
    let mut text = String::from(
        "  method                    level    auc   correlation     cpr     cmd   seconds   heads for 80 %\n",
    );
    let some = |value: Option<f64>| value.map_or("–".into(), number);
    for j in judged {
        text += &format!(
            "  {:<25} {:<5} {:>6} {:>13} {:>7} {:>7} {:>9.1} {:>16}\n",
            j.method,
            j.level,
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
