//! `lapidary circuit intervene`: what becomes of a prompt if features have other activations.

use super::prompt::{Opened, PromptArgument};
use crate::commands::figures::number;
use crate::terminal::shown;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use lapidary_circuits::attribution_graph::{
    Feature, FeatureChange, Intervened, Propagation, ReplacementModel,
};
use lapidary_io::{check_target, write_atomically};
use lapidary_model::Tokenizer;
use serde_json::{Value, json};
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::str::FromStr;

/// Change the activations of transcoder features on a prompt, and show which next tokens and
/// features change
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary circuit intervene --transcoders transcoders --prompt 'The Congress of the United' --set 2.1845=0
  lapidary circuit intervene --transcoders transcoders --prompt 'The Congress of the United' --scale 1.77=-2 --set 2.1845@5=10 --out result.json

Without @POSITION, the feature changes at all positions at which it is active. Positions are counted from 0, including the
beginning-of-sequence token. A change is added to the output of the model's own MLP, so the transcoder's error stays the same.
docs/methods/attribution-graphs.md defines --propagation.")]
pub struct InterveneCommand {
    #[command(flatten)]
    prompt: PromptArgument,
    /// Set the activation of a feature to VALUE; can be repeated
    #[arg(long, value_name = "LAYER.LATENT[@POSITION]=VALUE")]
    set: Vec<Change>,
    /// Multiply the activation of a feature by FACTOR; can be repeated
    #[arg(long, value_name = "LAYER.LATENT[@POSITION]=FACTOR")]
    scale: Vec<Change>,
    /// What is computed again after the changes
    #[arg(long, value_enum, default_value_t)]
    propagation: PropagationArgument,
    /// Number of next tokens, and number of features, to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// JSON file for the logits of the shown tokens and for all features that changed
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The largest magnitude of a new activation: norms square what they read.
const LARGEST: f32 = 1e15;

#[derive(Clone, Copy, Default, ValueEnum)]
enum PropagationArgument {
    /// MLPs and norms, but not attention patterns
    #[default]
    FrozenAttention,
    /// Everything
    Full,
    /// Nothing: attention patterns, norms and MLP outputs stay, so changes follow the edges of the
    /// attribution graph
    Direct,
}

/// `LAYER.LATENT[@POSITION]=NUMBER`.
#[derive(Clone, Copy)]
struct Change {
    layer: usize,
    index: usize,
    position: Option<usize>,
    number: f32,
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let (place, number) = text.split_once('=')?;
            let (feature, position) = match place.split_once('@') {
                Some((feature, position)) => (feature, Some(position.parse().ok()?)),
                None => (place, None),
            };
            let (layer, index) = feature.split_once('.')?;
            let number: f32 = number.parse().ok()?;
            Some(Self {
                layer: layer.parse().ok()?,
                index: index.parse().ok()?,
                position,
                number: Some(number).filter(|number| number.is_finite())?,
            })
        };
        parsed().ok_or_else(|| {
            format!(
                "found `{text}`, expected a layer, a latent, perhaps a position, and a number, such as 2.1845=0 or 2.1845@5=10"
            )
        })
    }
}

impl InterveneCommand {
    pub fn run(self) -> Result<()> {
        if let Some(out) = &self.out {
            check_target(out)?;
        }
        if self.set.is_empty() && self.scale.is_empty() {
            bail!("nothing to change: give --set or --scale");
        }
        let Opened {
            model,
            transcoders,
            tokens,
        } = self.prompt.open()?;
        let replacement = ReplacementModel::new(&model, transcoders)?;
        let active = replacement.active_features(&tokens)?;
        let mut changes = vec![];
        for change in self.set.iter().chain(&self.scale) {
            replacement.check_feature(change.layer, change.index)?;
        }
        for change in &self.set {
            changes.extend(resolve(change, &active, |_| change.number)?);
        }
        for change in &self.scale {
            check_scaled(change, &active)?;
            changes.extend(resolve(change, &active, |a| a * change.number)?);
        }
        if let Some(change) = changes
            .iter()
            .find(|c| c.activation.is_nan() || c.activation.abs() > LARGEST)
        {
            bail!(
                "feature {}.{}: found the activation {:e}, expected a magnitude of at most {LARGEST:e}",
                change.layer,
                change.index,
                change.activation
            );
        }
        let (propagation, name) = match self.propagation {
            PropagationArgument::FrozenAttention => {
                (Propagation::FrozenAttention, "frozen-attention")
            }
            PropagationArgument::Full => (Propagation::Full, "full"),
            PropagationArgument::Direct => (Propagation::Direct, "direct"),
        };
        let found = replacement.intervene(&tokens, &changes, propagation, &[])?;
        let shown_tokens = largest(&found, self.top);
        let tokenizer = model.tokenizer()?;
        let text = self.table(&found, &changes, &shown_tokens, &tokens, tokenizer);
        write!(stdout(), "{}", shown(&text))?;
        if let Some(out) = &self.out {
            let file = json!({
                "model": model.name(),
                "prompt": tokenizer.decode(&tokens),
                "propagation": name,
                "changes": changes.iter().map(|c| described(c, &active)).collect::<Vec<_>>(),
                "tokens": logits_of(&found, &shown_tokens, tokenizer),
                "features": found.features,
            });
            write_atomically(out, format!("{file:#}\n").as_bytes())?;
            writeln!(stdout(), "{}", shown(&out.display().to_string()))?;
        }
        Ok(())
    }

    fn table(
        &self,
        found: &Intervened,
        changes: &[FeatureChange],
        chosen: &[u32],
        tokens: &[u32],
        tokenizer: &Tokenizer,
    ) -> String {
        let [before, after] = [&found.logits_before, &found.logits_after].map(|l| probabilities(l));
        let mut text = format!("  {} activations changed\n", changes.len());
        text += "  next token               before     after\n";
        for token in chosen {
            let name = format!("{:?}", tokenizer.decode(&[*token]));
            let [before, after] = [&before, &after].map(|p| p[*token as usize]);
            text += &format!("  {name:<22} {before:>8.4} {after:>9.4}\n");
        }
        text += &format!("  {} features changed\n", found.features.len());
        for feature in found.features.iter().take(self.top) {
            let at = format!("{:?}", tokenizer.decode(&[tokens[feature.position]]));
            let name = format!("{}.{}", feature.layer, feature.index);
            let place = format!("at {} {at}", feature.position);
            text += &format!(
                "  {name:<10} {place:<18} {:>8} → {}\n",
                number(feature.before.into()),
                number(feature.after.into())
            );
        }
        text
    }
}

/// Refuses a factor for a feature that is not active at the position.
fn check_scaled(change: &Change, active: &[Feature]) -> Result<()> {
    let Some(position) = change.position else {
        return Ok(());
    };
    let same =
        |f: &Feature| (f.layer, f.position, f.index) == (change.layer, position, change.index);
    if position > 0 && !active.iter().any(same) {
        let (layer, index) = (change.layer, change.index);
        bail!(
            "feature {layer}.{index} is not active at position {position}, so a factor changes nothing: use --set"
        );
    }
    Ok(())
}

/// The change at its position, or at all positions at which the feature is active.
fn resolve(
    change: &Change,
    active: &[Feature],
    new: impl Fn(f32) -> f32,
) -> Result<Vec<FeatureChange>> {
    let same = |f: &&Feature| (f.layer, f.index) == (change.layer, change.index);
    let to = |position: usize, activation: f32| FeatureChange {
        layer: change.layer,
        position,
        index: change.index,
        activation: new(activation),
    };
    let here = active.iter().filter(same);
    let found: Vec<FeatureChange> = match change.position {
        Some(position) => {
            let known = here.clone().find(|f| f.position == position);
            vec![to(position, known.map_or(0.0, |f| f.activation))]
        }
        None => here.map(|f| to(f.position, f.activation)).collect(),
    };
    if found.is_empty() {
        let (layer, index) = (change.layer, change.index);
        bail!("feature {layer}.{index} is not active on this prompt: give a @POSITION");
    }
    Ok(found)
}

/// The tokens with the largest logits before or after, those before first.
fn largest(found: &Intervened, n: usize) -> Vec<u32> {
    let mut chosen: Vec<u32> = vec![];
    for logits in [&found.logits_before, &found.logits_after] {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
        order.truncate(n);
        order.retain(|token| !chosen.contains(token));
        chosen.extend(order);
    }
    chosen
}

fn probabilities(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let all: Vec<f64> = logits
        .iter()
        .map(|x| f64::from(x - highest).exp())
        .collect();
    let sum: f64 = all.iter().sum();
    all.into_iter().map(|p| p / sum).collect()
}

fn described(change: &FeatureChange, active: &[Feature]) -> Value {
    let same = |f: &&Feature| {
        (f.layer, f.position, f.index) == (change.layer, change.position, change.index)
    };
    let before = active.iter().find(same).map_or(0.0, |f| f.activation);
    json!({
        "before": before,
        "layer": change.layer,
        "position": change.position,
        "index": change.index,
        "activation": change.activation,
    })
}

fn logits_of(found: &Intervened, tokens: &[u32], tokenizer: &Tokenizer) -> Vec<Value> {
    let [before, after] = [&found.logits_before, &found.logits_after].map(|l| probabilities(l));
    let row = |token: &u32| {
        let i = *token as usize;
        json!({
            "token": token,
            "text": tokenizer.decode(&[*token]),
            "logit_before": found.logits_before[i],
            "logit_after": found.logits_after[i],
            "probability_before": before[i],
            "probability_after": after[i],
        })
    };
    tokens.iter().map(row).collect()
}
