//! `lapidary circuit graph`: which features, errors and tokens make the next token of a prompt.

use super::prompt::PromptArgument;
use crate::once::each_once;
use crate::progress::{Stage, note};
use crate::terminal::shown;
use anyhow::{Context, Result, bail};
use clap::Args;
use lapidary_circuits::attribution_graph::{
    AttributionGraph, AttributionOptions, Feature, GraphNames, Node, PrunedGraph, Pruning,
    ReplacementModel,
};
use lapidary_io::{StagedFolder, fill_folder, read_text};
use lapidary_model::{LanguageModel, Tokenizer};
use std::collections::HashMap;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

/// Tokens that are shown for what a feature promotes.
const PROMOTED: usize = 5;

/// What the program takes besides. It is not measured, so that the same command gives the same
/// graph.
const PROGRAM_BYTES: u64 = 192_000_000;

/// The files of a graph's folder.
const FILES: [&str; 3] = ["graph.json", "graph.html", "graph.safetensors"];

/// Attribution graph of a prompt: how much tokens and transcoder features add to one another and to
/// the logits of the next token
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary circuit graph --transcoders transcoders --prompt 'The Congress of the United' --out graph
  lapidary circuit graph --model ./smollm2 --transcoders l0,l1,l2,l3 --prompt-file long.txt --memory 8GB --out graph
  lapidary circuit graph --transcoders transcoders --prompt 'The Congress of the United' --target ' States' --target ' Nations' --out graph
  lapidary circuit graph --transcoders transcoders --prompts prompts.txt --out graphs
  lapidary circuit graph --model ./smollm2 --transcoders clt --prompt 'The capital of France is' --max-feature-nodes 1000 --out graph

--transcoders must give one transcoder for each layer, or one cross-layer transcoder.

Files in the folder --out:
  graph.html         a page that shows the pruned graph
  graph.json         the pruned graph, for circuit-tracer and Neuronpedia (schema version 1)
  graph.safetensors  the whole graph, as a sparse adjacency matrix

docs/methods/attribution-graphs.md defines nodes, edges, influence and scores.")]
pub struct GraphCommand {
    #[command(flatten)]
    prompt: PromptArgument,
    /// File with several prompts, one per line. The graph of line n (counted from 0) is written to
    /// the folder n of --out, such as 0000
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Folder for the graph
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace the graph in the folder --out
    #[arg(long)]
    overwrite: bool,
    /// Memory limit, such as 8GB or 500MB; default: no limit. If the limit is too small for all
    /// edges, the smallest edges of each node are left out. A smaller limit makes attribution
    /// slower. If --node-threshold and --edge-threshold are near 1, writing the files can use more
    /// memory than this limit
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    memory: Option<u64>,
    /// Maximum number of features that become nodes. If more features are active, the most
    /// influential ones become nodes
    #[arg(long, value_name = "N", default_value_t = 7500)]
    max_feature_nodes: u32,
    /// Maximum number of logits that become nodes
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_n_logits: u32,
    /// The most probable next tokens become nodes, until their probabilities sum to this value
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = share)]
    desired_logit_prob: f64,
    /// Use the logit of this token, such as ' States', instead of the most probable next tokens;
    /// can be repeated
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["max_n_logits", "desired_logit_prob"])]
    target: Vec<String>,
    /// graph.json and graph.html keep the most influential nodes, until their influence sums to
    /// this share of the influence of all nodes. Tokens and logits are always kept
    #[arg(long, value_name = "P", default_value_t = 0.8, value_parser = share)]
    node_threshold: f64,
    /// graph.json and graph.html keep the most influential edges between kept nodes, until their
    /// influence sums to this share of the influence of all such edges
    #[arg(long, value_name = "P", default_value_t = 0.98, value_parser = share)]
    edge_threshold: f64,
    /// Short name of the graph in graph.json; default: the name of the folder
    #[arg(long, value_name = "NAME", conflicts_with = "prompts")]
    slug: Option<String>,
    /// Name of the transcoder set on Neuronpedia, written to graph.json; default: the model's name
    #[arg(long, value_name = "NAME")]
    scan: Option<String>,
}

impl GraphCommand {
    pub fn run(self) -> Result<()> {
        let Some(path) = &self.prompts else {
            let staged = StagedFolder::begin(&self.out)?;
            self.check_folder(&self.out)?;
            let (opened, tokens) = self.prompt.open()?;
            let names: Vec<String> = opened.transcoders.iter().map(|t| t.0.clone()).collect();
            let replacement = ReplacementModel::new(&opened.model, opened.transcoders)?;
            return self.graph(&replacement, &tokens, names, &self.out, staged);
        };
        if self.prompt.is_given() {
            bail!("--prompts: found --prompt or --prompt-file too, expected one of them");
        }
        let text = read_text(path)?;
        let prompts: Vec<String> = text.lines().map(str::to_owned).collect();
        if let Some(line) = prompts.iter().position(|prompt| prompt.is_empty()) {
            bail!(
                "{}: line {}: found an empty line, expected a prompt",
                path.display(),
                line + 1
            );
        }
        if prompts.is_empty() {
            bail!(
                "{}: found no line, expected a prompt per line",
                path.display()
            );
        }
        let folder = |number: usize| self.out.join(format!("{number:04}"));
        for number in 0..prompts.len() {
            self.check_folder(&folder(number))?;
        }
        let opened = self.prompt.open_with(&prompts)?;
        let n_ctx = opened.model.config().n_ctx;
        for (number, tokens) in opened.prompts.iter().enumerate() {
            if tokens.len() > n_ctx {
                bail!(
                    "{}: line {}: found {} tokens, expected at most {n_ctx}, the context of model `{}`",
                    path.display(),
                    number + 1,
                    tokens.len(),
                    opened.model.name()
                );
            }
        }
        let names: Vec<String> = opened.transcoders.iter().map(|t| t.0.clone()).collect();
        let replacement = ReplacementModel::new(&opened.model, opened.transcoders)?;
        for (number, tokens) in opened.prompts.iter().enumerate() {
            let folder = folder(number);
            let staged = StagedFolder::begin(&folder)?;
            self.graph(&replacement, tokens, names.clone(), &folder, staged)?;
        }
        Ok(())
    }

    /// Makes the graph of one prompt, writes it and prints what is in it.
    fn graph(
        &self,
        replacement: &ReplacementModel<'_>,
        tokens: &[u32],
        transcoders: Vec<String>,
        folder: &Path,
        staged: StagedFolder,
    ) -> Result<()> {
        let graph = self.attribute(replacement, tokens)?;
        let pruning = Pruning {
            node_threshold: self.node_threshold,
            edge_threshold: self.edge_threshold,
        };
        let pruned = graph.prune(pruning);
        let on_page = pruned.for_page();
        let both = [&pruned, on_page.as_ref().unwrap_or(&pruned)];
        self.write(staged, replacement, both, transcoders, folder)?;
        self.print(replacement.model(), &pruned, on_page.as_ref(), folder)
    }

    /// Refuses to replace what is no graph, and a graph unless that is asked for.
    fn check_folder(&self, folder: &Path) -> Result<()> {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Ok(());
        };
        let entries = entries.flatten().map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, entry.path().is_file())
        });
        let names: Vec<(String, bool)> = entries.collect();
        let is_ours = |(name, file): &&(String, bool)| *file && FILES.contains(&name.as_str());
        if let Some((other, _)) = names.iter().find(|entry| !is_ours(entry)) {
            bail!(
                "--out {}: found `{other}`, expected a new folder, an empty one, or that of a graph",
                folder.display()
            );
        }
        if !names.is_empty() && !self.overwrite {
            bail!(
                "{} holds a graph already: give --overwrite to replace it, or another --out",
                folder.display()
            );
        }
        Ok(())
    }

    /// The tokens of --target.
    fn targets(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        each_once("--target", &self.target)?;
        let token = |text: &String| match tokenizer.encode(text)?[..] {
            [token] => Ok(token),
            ref tokens => bail!(
                "--target: `{text}` is {} tokens, expected one. Mind the space before a word",
                tokens.len()
            ),
        };
        self.target.iter().map(token).collect()
    }

    fn attribute(
        &self,
        replacement: &ReplacementModel<'_>,
        tokens: &[u32],
    ) -> Result<AttributionGraph> {
        let taken = PROGRAM_BYTES + replacement.bytes();
        let rest = match self.memory {
            Some(limit) if limit <= taken => bail!(
                "--memory: found {} MB, but the program, the model and its transcoders take {} MB already",
                limit / 1_000_000,
                taken / 1_000_000
            ),
            limit => limit.map(|limit| limit - taken),
        };
        let options = AttributionOptions {
            targets: self.targets(replacement.model().tokenizer()?)?,
            max_n_logits: self.max_n_logits as usize,
            desired_logit_prob: self.desired_logit_prob,
            max_feature_nodes: self.max_feature_nodes as usize,
            memory: rest,
        };
        let stage = Stage::new("attribute", 1);
        let graph = replacement.attribute(tokens, &options, &|done, of| {
            stage.set_length(of as u64);
            stage.at(done as u64, format!("{done} of {of} features"));
        })?;
        stage.done(format!(
            "{} tokens, {} active features, {} of them nodes, {} edges",
            tokens.len(),
            graph.active().len(),
            graph.selected().len(),
            graph.n_edges()
        ));
        let cut = 100.0 * graph.share_cut();
        if cut > 0.0 {
            let limit = match self.memory {
                Some(_) => ", and those beyond --memory",
                None => "",
            };
            note(format!(
                "{cut:.1} % of the edges' magnitude is left out: edges from features that are no nodes{limit}"
            ));
        }
        Ok(graph)
    }

    fn write(
        &self,
        staged: StagedFolder,
        replacement: &ReplacementModel<'_>,
        [pruned, on_page]: [&PrunedGraph<'_>; 2],
        transcoders: Vec<String>,
        folder: &Path,
    ) -> Result<()> {
        let model = replacement.model();
        let features = pruned.nodes().filter_map(|(number, node)| match node {
            Node::Feature(feature) => Some((number, feature)),
            _ => None,
        });
        let (numbers, features): (Vec<usize>, Vec<Feature>) = features.unzip();
        let promoted = replacement.promoted(&features, PROMOTED)?;
        let promoted: HashMap<usize, Vec<u32>> = numbers.into_iter().zip(promoted).collect();
        let tokenizer = model.tokenizer()?;
        let names = GraphNames {
            slug: self.slug.clone().unwrap_or_else(|| name_of(folder)),
            scan: self.scan.clone().unwrap_or_else(|| model.name().to_owned()),
            transcoders,
            prompt: tokenizer.decode(pruned.graph().tokens()),
            token: &|token| tokenizer.decode(&[token]),
            promoted: &|node| promoted.get(&node).cloned().unwrap_or_default(),
        };
        fill_folder(staged, |folder| pruned.write(folder, &names, Some(on_page)))?;
        Ok(())
    }

    fn print(
        &self,
        model: &LanguageModel,
        pruned: &PrunedGraph<'_>,
        on_page: Option<&PrunedGraph<'_>>,
        folder: &Path,
    ) -> Result<()> {
        let tokenizer = model.tokenizer()?;
        let graph = pruned.graph();
        let scores = pruned.scores();
        let mut text = String::from("  next token             probability\n");
        for logit in graph.logits().iter().take(5) {
            let token = format!("{:?}", tokenizer.decode(&[logit.token]));
            text += &format!("  {token:<22} {:>11.4}\n", logit.probability);
        }
        text += &format!(
            "  {} nodes and {} edges of {} and {} after pruning\n  replacement score {:.4}, completeness score {:.4}\n",
            pruned.nodes().count(),
            pruned.edges().count(),
            graph.n_nodes(),
            graph.n_edges(),
            scores.replacement,
            scores.completeness
        );
        if let Some(part) = on_page {
            note(format!(
                "graph.html has the {} most influential nodes, as with --node-threshold {:.3}; graph.json has all of them",
                part.nodes().count(),
                part.pruning().node_threshold
            ));
        }
        write!(stdout(), "{}", shown(&text))?;
        let page = folder.join("graph.html");
        writeln!(stdout(), "{}", shown(&page.display().to_string()))?;
        Ok(())
    }
}

fn name_of(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy());
    name.map_or_else(|| "graph".into(), |name| name.into_owned())
}

/// A share from 0 to 1.
fn share(text: &str) -> Result<f64> {
    let value: f64 = text.parse()?;
    if !(0.0..=1.0).contains(&value) {
        bail!("expected a number from 0 to 1");
    }
    Ok(value)
}

/// A number of bytes with a unit.
fn bytes(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &*text[digits.len()..].to_ascii_uppercase() {
        "" | "B" => 1.0,
        "KB" | "K" => 1e3,
        "MB" | "M" => 1e6,
        "GB" | "G" => 1e9,
        "TB" | "T" => 1e12,
        "KIB" => 1024.0,
        "MIB" => 1_048_576.0,
        "GIB" => 1_073_741_824.0,
        _ => bail!("expected a number of bytes, such as 8GB or 500MB"),
    };
    let number: f64 = digits
        .parse()
        .context("expected a number of bytes, such as 8GB or 500MB")?;
    let bytes = number * unit;
    if !(1.0..1e18).contains(&bytes) {
        bail!("expected a number of bytes, such as 8GB or 500MB");
    }
    Ok(bytes as u64)
}
