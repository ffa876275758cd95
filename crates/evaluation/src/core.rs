//! Figures of merit of a dictionary on text, best on text that it was not trained on, each under the name and with the meaning that the field gives
//! it. Sums run in f64 on the host.
//!
//! Sources: SAEBench `evals/core/main.py` (`l0`, `l1`, `cossim`, `l2_ratio`, `relative_reconstruction_bias`,
//! `explained_variance_legacy`, `ce_loss_score`, `kl_div_score`, `frac_alive`), SAELens 6 (`explained_variance`),
//! sparsify (`fvu`). Special tokens (beginning and end of sequence) count nowhere and keep their activation when the
//! reconstruction is spliced in, as SAEBench recommends.

use burn::tensor::{Tensor, TensorData};
use lapidary_activations::TokenBlock;
use lapidary_model::{HookPoint, HookedRun, Intervention, LanguageModel};
use lapidary_sae::{Dictionary, host, host_int};

use crate::codes::CodeSums;
use crate::error::EvaluationError;
use crate::metrics::Metrics;
use crate::predictions::{Predictions, cross_entropy, divergence, log_probabilities, predicts};
use crate::reconstruction::ReconstructionSums;

/// Blocks that make one batch, over which the means of `explained_variance_legacy` and
/// `relative_reconstruction_bias` are taken: SAEBench's batch.
pub const BATCH_BLOCKS: usize = 16;

/// Largest number of log-probabilities held at once.
const MOST_LOGITS: usize = 1 << 24;

/// Evaluates `dictionary` at `hook` of `model` on `blocks`, all of one length. `on_progress` hears the number of
/// blocks done.
///
/// # Errors
/// The dictionary does not fit the hook point, or the model fails.
pub fn evaluate(
    model: &LanguageModel,
    dictionary: &Dictionary,
    hook: HookPoint,
    blocks: &[TokenBlock],
    on_progress: &mut dyn FnMut(usize),
) -> Result<Metrics, EvaluationError> {
    let Some(first) = blocks.first() else {
        return Err(EvaluationError::input(
            "text to evaluate on",
            "no text",
            "at least one block",
        ));
    };
    let context = first.tokens.len();
    if let Some(other) = blocks.iter().find(|b| b.tokens.len() != context) {
        return Err(EvaluationError::input(
            "length of a block of tokens",
            other.tokens.len(),
            context,
        ));
    }
    let coder = dictionary.coder.clone().to_device(model.device());
    let (d_in, d_sae) = (coder.d_in(), coder.d_sae());
    let special: Vec<u32> = model
        .tokenizer()
        .ok()
        .map(|t| t.bos().into_iter().chain(t.eos()).collect())
        .unwrap_or_default();
    let mut reconstruction = ReconstructionSums::default();
    let mut codes = CodeSums::new(d_sae);
    let mut predictions = Predictions::default();
    let capture = [hook];
    let mut done = 0;
    for batch in blocks.chunks(BATCH_BLOCKS) {
        let at_once = (MOST_LOGITS / (context * model.config().d_vocab).max(1)).max(1);
        let (mut xs, mut hats, mut counted) = (Vec::new(), Vec::new(), Vec::new());
        for part in batch.chunks(at_once) {
            let tokens: Vec<&[u32]> = part.iter().map(|b| b.tokens.as_slice()).collect();
            let counts: Vec<bool> = tokens
                .iter()
                .flat_map(|t| t.iter().map(|t| !special.contains(t)))
                .collect();
            let input = model.tokens(&tokens)?; // [batch, pos]
            let [b, t] = input.dims();
            let segments = TokenBlock::attention(part, model.device());
            let predicts = predicts(part, &counts, &special);
            let original = model.run(
                input.clone(),
                &HookedRun {
                    capture: &capture,
                    logits: true,
                    segments: segments.clone(),
                    ..Default::default()
                },
            )?;
            let Some(x) = original.captured.get(&hook) else {
                return Err(EvaluationError::input(
                    "captured activations",
                    "nothing",
                    hook,
                ));
            };
            let width = x.dims()[2];
            if width != d_in {
                return Err(EvaluationError::input(
                    "width of the activations at the hook point (against the dictionary's d_in)",
                    width,
                    d_in,
                ));
            }
            let x = x.clone().reshape([b * t, d_in]);
            let z = coder.encode(x.clone());
            let x_hat = coder.decode(z.clone()); // [b * t, d_in]
            let k = z.values.dims()[1];
            codes.observe(&host(&z.values)?, &host_int(&z.indices)?, k, &counts);

            let keep: Vec<f32> = counts.iter().map(|c| f32::from(u8::from(!*c))).collect();
            let keep = Tensor::<1>::from_data(TensorData::new(keep, [b * t]), model.device())
                .reshape([b * t, 1])
                .greater_elem(0.5)
                .expand([b * t, d_in]);
            let spliced = x_hat
                .clone()
                .mask_where(keep, x.clone())
                .reshape([b, t, d_in]);
            let with = |replacement: &dyn Fn(Tensor<3>) -> Tensor<3>| {
                model.run(
                    input.clone(),
                    &HookedRun {
                        interventions: &[Intervention::function(hook, replacement)],
                        logits: true,
                        segments: segments.clone(),
                        ..Default::default()
                    },
                )
            };
            let original = log_probabilities(original.logits)?;
            let sae = log_probabilities(with(&|_| spliced.clone())?.logits)?;
            predictions.cross_entropy[0] += cross_entropy(&original, &input, &predicts)?;
            predictions.cross_entropy[1] += cross_entropy(&sae, &input, &predicts)?;
            predictions.divergence[0] += divergence(&original, sae, &counts)?;
            let ablated = log_probabilities(with(&|x| x.zeros_like())?.logits)?;
            predictions.cross_entropy[2] += cross_entropy(&ablated, &input, &predicts)?;
            predictions.divergence[1] += divergence(&original, ablated, &counts)?;
            predictions.divergence_tokens += counts.iter().filter(|c| **c).count() as u64;
            predictions.cross_entropy_tokens += predicts
                .chunks(t)
                .map(|row| row[..t - 1].iter().filter(|c| **c).count() as u64)
                .sum::<u64>();

            xs.extend(host(&x)?);
            hats.extend(host(&x_hat)?);
            counted.extend(counts);
        }
        reconstruction.observe(&xs, &hats, d_in, &counted);
        done += batch.len();
        on_progress(done);
    }
    Ok(Metrics::new(&reconstruction, &codes, &predictions))
}
