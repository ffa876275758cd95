//! `lapidary circuit paths`: what makes a feature active on a prompt.

use super::prompt::{InLayer, Opened, PromptArgument};
use crate::commands::figures::number;
use crate::terminal::shown;
use anyhow::Result;
use clap::Args;
use lapidary_circuits::attribution_graph::{PathNode, PathOptions, ReplacementModel, Step};
use lapidary_io::{check_target, write_atomically};
use lapidary_model::Tokenizer;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Tokens and features that the weights alone name.
const BY_WEIGHT: usize = 8;

/// Paths to a feature: which tokens, features and heads make the feature active on a prompt
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary circuit paths --transcoders transcoders --feature 2.1845 --prompt 'The Congress of the United'
  lapidary circuit paths --transcoders transcoders --feature 2.1845 --prompt 'The Congress of the United' --nodes 50 --out paths.json

Each line shows one part of the feature's pre-activation. The indented lines below a part are the parts of this part. `rest` is the
sum of the parts that are not shown. Positions are counted from 0, including the beginning-of-sequence token.
docs/methods/attribution-graphs.md defines the parts.")]
pub struct PathsCommand {
    #[command(flatten)]
    prompt: PromptArgument,
    /// The feature, as the layer and the number of the latent
    #[arg(long, value_name = "LAYER.LATENT")]
    feature: InLayer,
    /// Position in the prompt; default: the position at which the feature is most active
    #[arg(long, value_name = "N")]
    position: Option<usize>,
    /// Number of parts of each node to show, the largest first
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    branches: u16,
    /// Number of nodes to split into parts, the largest first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    nodes: u16,
    /// JSON file for the tree
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl PathsCommand {
    pub fn run(self) -> Result<()> {
        if let Some(out) = &self.out {
            check_target(out)?;
        }
        let Opened {
            model,
            transcoders,
            tokens,
        } = self.prompt.open()?;
        let replacement = ReplacementModel::new(&model, transcoders)?;
        let InLayer(feature) = self.feature;
        let options = PathOptions {
            branches: self.branches.into(),
            nodes: self.nodes.into(),
        };
        let tree = replacement.paths(&tokens, feature, self.position, options)?;
        let tokenizer = model.tokenizer()?;
        let mut text = String::new();
        print_tree(&tree, 0, &tokens, tokenizer, &mut text);
        let weights = replacement.weights_of(feature, BY_WEIGHT)?;
        let names = weights.tokens.iter();
        let names = names.map(|(token, _)| format!("{:?}", tokenizer.decode(&[*token])));
        text += &format!(
            "tokens whose embeddings fit its encoder best: {}\n",
            names.collect::<Vec<_>>().join(" ")
        );
        if !weights.features.is_empty() {
            let features = weights.features.iter();
            let features =
                features.map(|(layer, index, weight)| format!("{layer}.{index} {weight:+.3}"));
            text += &format!(
                "features with the largest weights to it, active here or not: {}\n",
                features.collect::<Vec<_>>().join(", ")
            );
        }
        if let Some(out) = &self.out {
            let json = serde_json::to_string_pretty(&tree)?;
            write_atomically(out, json.as_bytes())?;
            text += &format!("{}\n", out.display());
        }
        write!(stdout(), "{}", shown(&text))?;
        Ok(())
    }
}

fn print_tree(
    node: &PathNode,
    depth: usize,
    tokens: &[u32],
    tokenizer: &Tokenizer,
    text: &mut String,
) {
    let token = |position: usize| format!("{:?}", tokenizer.decode(&[tokens[position]]));
    let name = match node.step {
        Step::Feature {
            layer,
            index,
            position,
            activation,
        } => {
            let (at, value) = (token(position), number(activation.into()));
            format!("feature {layer}.{index} at {position} {at}, activation {value}")
        }
        Step::Head {
            layer,
            head,
            from,
            to,
        } => {
            let at = token(from);
            format!("head {layer}.{head} from {from} {at} to {to}")
        }
        Step::Skip { layer, position } => format!("skip connection {layer} at {position}"),
        Step::Token { position, .. } => format!("embedding of {position} {}", token(position)),
        Step::Error { layer, position } => format!("error {layer} at {position}"),
        Step::Bias => "bias".into(),
    };
    let indent = 2 * depth;
    *text += &format!("{:indent$}{:>+9.3}  {name}\n", "", node.contribution);
    for part in &node.parts {
        print_tree(part, depth + 1, tokens, tokenizer, text);
    }
    if !node.parts.is_empty() && node.rest != 0.0 {
        let indent = indent + 2;
        *text += &format!("{:indent$}{:>+9.3}  rest\n", "", node.rest);
    }
}
