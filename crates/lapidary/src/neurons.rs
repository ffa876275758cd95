//! What each MLP neuron's weights do to the logits, checked by clamping neurons.

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::Tensor;
use lapidary_activations::{BlockConfig, TEXT_FIELD, TokenBlock};
use lapidary_features::labels::WINDOW;
use lapidary_features::{
    ClampedRuns, LogitEffect, LogitToken, NeuronRow, OtherLabels, TableSource, logit_effects,
    shown_tokens,
};
use lapidary_model::{BlockHook, HookPoint, Intervention, LanguageModel};
use rand::SeedableRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::clamping::ClampOptions;
use crate::error::{Result, bail};
use crate::opened::{TextOptions, read_blocks};
use crate::progress::{Progress, Stage, count};

/// Blocks of text from which windows are drawn, for each window.
const BLOCKS: u64 = 32;

/// Which weights of a neuron are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeuronWeights {
    /// What it writes: its row of `W_out`.
    Out,
    /// What it reads: its column of `W_in`, of a gated MLP that of the linear branch.
    In,
    /// What its gate reads: its column of `W_gate`.
    Gate,
}

impl NeuronWeights {
    /// All.
    pub const ALL: [Self; 3] = [Self::Out, Self::In, Self::Gate];

    /// TransformerLens's name of the matrix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Out => "W_out",
            Self::In => "W_in",
            Self::Gate => "W_gate",
        }
    }

    /// The neurons' weights in the space of the residual stream, `[d_mlp, d_model]`.
    fn of(self, model: &LanguageModel, layer: usize) -> Result<Tensor<2>> {
        Ok(match self {
            Self::Out => model.w_out(layer),
            Self::In => model.w_in(layer).transpose(),
            Self::Gate => match model.w_gate(layer) {
                Some(gate) => gate.transpose(),
                None => bail!(
                    "{}: found an MLP without a gate, expected a gated one for W_gate",
                    model.name()
                ),
            },
        })
    }

    /// Where the neuron's value is clamped.
    fn hook(self, model: &LanguageModel) -> BlockHook {
        match (self, model.config().gated) {
            (Self::Out, _) => BlockHook::MlpPost,
            (Self::In, true) => BlockHook::MlpPreLinear,
            (Self::In, false) | (Self::Gate, _) => BlockHook::MlpPre,
        }
    }
}

/// How [`decode_neurons`] works.
#[derive(Debug, Clone)]
pub struct NeuronOptions {
    /// Which weights.
    pub weights: NeuronWeights,
    /// Layers, or all if empty.
    pub layers: Vec<usize>,
    /// Tokens listed for each end.
    pub top: usize,
    /// Which neurons are clamped; `latents` of them.
    pub clamp: ClampOptions,
    /// The text on which they are.
    pub corpus: String,
    /// How it is read.
    pub text: TextOptions,
}

/// The decoded neurons.
#[derive(Debug)]
pub struct Neurons {
    /// By layer, then by neuron.
    pub rows: Vec<NeuronRow>,
    /// What made them.
    pub source: TableSource,
}

/// Decodes the weights of a model's MLP neurons with its unembedding, and clamps some neurons at
/// their largest value on a few windows of text.
///
/// # Errors
/// There is no such layer, the model has no gate or no unembedding, or the text cannot be read.
pub fn decode_neurons(
    model: &Arc<LanguageModel>,
    options: &NeuronOptions,
    progress: &dyn Progress,
) -> Result<Neurons> {
    model.check_head()?;
    let n_layers = model.config().n_layers();
    let mut layers = options.layers.clone();
    if layers.is_empty() {
        layers = (0..n_layers).collect();
    }
    if let Some(layer) = layers.iter().find(|layer| **layer >= n_layers) {
        bail!(
            "--layers: found {layer}, expected 0 to {}: {} has {}",
            n_layers - 1,
            model.name(),
            count(n_layers as u64, "layer")
        );
    }
    layers.sort_unstable();
    layers.dedup();
    if let Some(first) = layers.first() {
        options.weights.of(model, *first)?; // fails before any work if there are none
    }
    let tokenizer = model.tokenizer()?;
    let windows = match options.clamp.latents {
        0 => vec![],
        _ => windows(model, options, progress)?,
    };
    let shown = shown_tokens(tokenizer, |_| false);
    let mut texts: HashMap<u32, Arc<str>> = HashMap::new();
    let mut token = |&(id, logit): &(u32, f32)| LogitToken {
        text: Arc::clone(
            texts
                .entry(id)
                .or_insert_with(|| tokenizer.token_text(id).into()),
        ),
        id,
        logit,
    };
    let mut rows: Vec<NeuronRow> = vec![];
    let stage = Stage::new(progress, "decode", layers.len() as u64);
    for (done, layer) in layers.iter().enumerate() {
        let weights = options.weights.of(model, *layer)?;
        let effects = logit_effects(model, weights, options.top.max(1), &shown);
        let mut row = |(neuron, effect): (usize, LogitEffect)| NeuronRow {
            layer: *layer as u32,
            neuron: neuron as u32,
            weights: options.weights.name(),
            probability: effect.probability,
            logit_kurtosis: effect.kurtosis,
            promoted: effect.promoted.iter().map(&mut token).collect(),
            suppressed: effect.suppressed.iter().map(&mut token).collect(),
            clamping: None,
        };
        rows.extend(effects.into_iter().enumerate().map(&mut row));
        stage.at(done as u64 + 1, format!("layer {layer}"));
    }
    stage.done(count(rows.len() as u64, "neuron"));
    if !windows.is_empty() {
        clamp(model, options, &windows, &mut rows, progress)?;
    }
    let row = |name: &str, value: String| (name.to_owned(), value);
    let source = TableSource {
        provenance: vec![
            row("Model", model.name().to_owned()),
            row("Weights", options.weights.name().to_owned()),
            row("Made by", format!("lapidary {}", env!("CARGO_PKG_VERSION"))),
        ],
    };
    Ok(Neurons {
        rows,
        source: match windows.is_empty() {
            true => source,
            false => source.on_text(&options.corpus),
        },
    })
}

/// Windows of text, each of which begins with BOS if the model has one.
fn windows(
    model: &Arc<LanguageModel>,
    options: &NeuronOptions,
    progress: &dyn Progress,
) -> Result<Vec<Vec<u32>>> {
    let bos = model.config().bos;
    let context = WINDOW + usize::from(bos.is_some());
    let config = BlockConfig {
        corpus: options.corpus.clone(),
        text_field: options
            .text
            .text_field
            .clone()
            .unwrap_or_else(|| TEXT_FIELD.to_owned()),
        context,
        prepend_bos: bos.is_some(),
        attend_across_documents: options.text.attend_across_documents,
    };
    let tokens = options.clamp.windows as u64 * BLOCKS * context as u64;
    let blocks = read_blocks(progress, model, &config, tokens)?;
    // A window is a piece of one document.
    let whole = |block: &&TokenBlock| block.segments.len() == 1 && block.tokens.len() == context;
    let mut windows: Vec<Vec<u32>> = blocks
        .iter()
        .filter(whole)
        .map(|b| b.tokens.clone())
        .collect();
    if windows.is_empty() {
        bail!(
            "{}: found no document with {WINDOW} tokens, expected at least one to clamp neurons on (or --clamp 0)",
            options.corpus
        );
    }
    windows.shuffle(&mut ChaCha8Rng::seed_from_u64(options.clamp.seed));
    windows.truncate(options.clamp.windows);
    Ok(windows)
}

/// Clamps some neurons and gives them their scores.
fn clamp(
    model: &LanguageModel,
    options: &NeuronOptions,
    windows: &[Vec<u32>],
    rows: &mut [NeuronRow],
    progress: &dyn Progress,
) -> Result<()> {
    let untouched = usize::from(model.config().bos.is_some());
    let mut rng = ChaCha8Rng::seed_from_u64(options.clamp.seed);
    let mut chosen: Vec<usize> = (0..rows.len()).collect();
    chosen.shuffle(&mut rng);
    chosen.truncate(options.clamp.latents);
    chosen.sort_unstable(); // by layer, so that what comes before a layer is computed once
    let first = |row: &NeuronRow| row.promoted.first().map(|token| token.id);
    let others = {
        let all: Vec<usize> = (0..rows.len()).collect();
        let some = all.choose_multiple(&mut rng, options.clamp.others + 1);
        let some = some.map(|row| (*row, first(&rows[*row]).into_iter().collect()));
        OtherLabels::new(some.collect(), options.clamp.others)
    };
    let stage = Stage::new(progress, "clamp", chosen.len() as u64);
    let mut done = 0;
    let same_layer = |a: &usize, b: &usize| rows[*a].layer == rows[*b].layer;
    let layers: Vec<&[usize]> = chosen.chunk_by(same_layer).collect();
    for of_layer in layers {
        let layer = rows[of_layer[0]].layer as usize;
        let at = HookPoint::Block(layer, options.weights.hook(model));
        let runs = ClampedRuns::new(model, windows, untouched, at)?;
        let largest = runs.values(at)?.max_dim(0).into_data(); // [1, d_mlp]
        let largest: Vec<f32> = largest.iter::<f32>().collect();
        for place in of_layer {
            let neuron = rows[*place].neuron as usize;
            let set = |x: Tensor<3>| {
                let [batch, pos, _] = x.dims();
                let value = Tensor::full([batch, pos, 1], largest[neuron], &x.device());
                x.slice_assign([0..batch, 0..pos, neuron..neuron + 1], value)
            };
            let shifts = runs.shifts(Intervention::function(at, &set))?;
            let own: Vec<u32> = first(&rows[*place]).into_iter().collect();
            rows[*place].clamping = others.clamping_score(&shifts, *place, &own);
            done += 1;
            stage.at(done, format!("layer {layer}"));
        }
    }
    stage.done(count(done, "neuron"));
    Ok(())
}
