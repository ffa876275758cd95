//! How good a model with codebooks is, and how its codes are used.

use crate::data::{Data, generator, stream};
use crate::inputs::tokens;
use crate::placement::interventions;
use crate::usage::CodeUsage;
use crate::{CodebookError, Codebooks, TokFsm};
use burn::tensor::{Tensor, TensorData, activation};
use lapidary_io::nan_if_null;
use lapidary_model::training::TokenBatch;
use lapidary_model::{LanguageModel, Sampling, generate_batch};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// Sequences of one pass.
const SEQUENCES_AT_ONCE: usize = 16;
/// Sequences that are generated side by side: their keys and values are all in memory.
const GENERATED_AT_ONCE: usize = 256;

/// The metrics of a run, as in `metrics.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Next-token cross-entropy on held-out sequences, nats per token.
    #[serde(deserialize_with = "nan_if_null")]
    pub loss: f64,
    /// Share of held-out tokens that are the likeliest prediction.
    pub accuracy: f64,
    /// Share of legal transitions in sequences that the model generates (temperature 1, from BOS).
    /// `None` for text.
    pub transition_accuracy: Option<f64>,
    /// Share of codes that are never chosen on the held-out sequences; the mean over codebooks.
    pub frac_dead_codes: Option<f64>,
    /// Perplexity of the use of codes; the mean over codebooks and their groups.
    pub code_perplexity: Option<f64>,
    /// Held-out tokens.
    pub tokens: u64,
    /// Each codebook.
    pub codebooks: Vec<CodebookMetrics>,
}

/// The metrics of one codebook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodebookMetrics {
    /// Where it is.
    pub hook_point: String,
    /// Share of codes that are never chosen.
    pub frac_dead_codes: f64,
    /// Perplexity of the use of codes, for each group (head).
    pub code_perplexity: Vec<f64>,
}

/// Measures a model with its codebooks on `sequences` held-out sequences, and on as many that it
/// generates where the data are a machine's.
///
/// # Errors
/// When the data or the codebooks do not fit the model.
pub fn evaluate(
    model: &LanguageModel,
    codebooks: &Codebooks,
    data: &Data,
    seed: u64,
    sequences: usize,
) -> Result<Metrics, CodebookError> {
    codebooks.check(model)?;
    let batch = data.held_out(seed, sequences);
    let mut usages: Vec<CodeUsage> = codebooks
        .placed()
        .iter()
        .map(|p| CodeUsage::new(p.codebook.groups(), p.codebook.options().n_codes))
        .collect();
    let (mut loss, mut right) = (0.0, 0u64);
    let rows = SEQUENCES_AT_ONCE * batch.length;
    let pieces = batch.inputs.chunks(rows).zip(batch.targets.chunks(rows));
    for (inputs, targets) in pieces {
        let piece = TokenBatch {
            inputs: inputs.to_vec(),
            targets: vec![],
            length: batch.length,
        };
        let (logits, chosen) = codebooks.run(model, tokens(model, &piece)?, &[])?;
        let d_vocab = model.config().d_vocab;
        let logits = logits.reshape([inputs.len(), d_vocab]);
        let best = logits.clone().argmax(1).into_data();
        right += best
            .iter::<i64>()
            .zip(targets)
            .filter(|(best, target)| *best == i64::from(**target))
            .count() as u64;
        let targets = TensorData::new(targets.to_vec(), [targets.len(), 1]);
        let targets = Tensor::from_data(targets, model.device());
        let log_p = activation::log_softmax(logits, 1).gather(1, targets);
        loss -= f64::from(log_p.sum().into_scalar::<f32>());
        for (usage, groups) in usages.iter_mut().zip(chosen) {
            for (group, codes) in groups.into_iter().enumerate() {
                usage.add_numbers(group, &codes);
            }
        }
    }
    let transition_accuracy = match data {
        Data::TokFsm(fsm) => Some(transition_accuracy(model, codebooks, fsm, seed, sequences)?),
        Data::Text(_) => None,
    };
    let each: Vec<CodebookMetrics> = codebooks
        .placed()
        .iter()
        .zip(&usages)
        .map(|(placed, usage)| CodebookMetrics {
            hook_point: placed.at.to_string(),
            frac_dead_codes: usage.frac_dead(),
            code_perplexity: usage.perplexities(),
        })
        .collect();
    let mean = |values: Vec<f64>| match values.len() {
        0 => None,
        n => Some(values.iter().sum::<f64>() / n as f64),
    };
    let count = batch.inputs.len() as u64;
    Ok(Metrics {
        loss: loss / count as f64,
        accuracy: right as f64 / count as f64,
        transition_accuracy,
        frac_dead_codes: mean(each.iter().map(|c| c.frac_dead_codes).collect()),
        code_perplexity: mean(
            each.iter()
                .flat_map(|c| c.code_perplexity.clone())
                .collect(),
        ),
        tokens: count,
        codebooks: each,
    })
}

/// The share of legal transitions in sequences that the model draws from BOS on.
fn transition_accuracy(
    model: &LanguageModel,
    codebooks: &Codebooks,
    fsm: &TokFsm,
    seed: u64,
    sequences: usize,
) -> Result<f64, CodebookError> {
    let bos = [fsm.bos()];
    let functions = codebooks.functions(&[], None);
    let interventions = interventions(&functions);
    let (mut legal, mut all) = (0, 0);
    for start in (0..sequences).step_by(GENERATED_AT_ONCE) {
        let sampling = Sampling {
            max_tokens: fsm.length(),
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            seed: generator(seed, stream::GENERATION, start as u64).random(),
        };
        let prompts = vec![&bos[..]; GENERATED_AT_ONCE.min(sequences - start)];
        for text in generate_batch(model, &prompts, &sampling, &interventions)? {
            let (of_text, transitions) = fsm.legal_transitions(&text);
            legal += of_text;
            all += transitions;
        }
    }
    Ok(legal as f64 / all.max(1) as f64)
}
