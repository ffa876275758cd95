//! Metrics of a dictionary on text, best on text that it was not trained on, each under
//! the name and with the meaning that the field gives it. Sums run in f64 on the host.
//!
//! Sources: SAEBench `evals/core/main.py` (`l0`, `l1`, `cossim`, `l2_ratio`,
//! `relative_reconstruction_bias`, `explained_variance_legacy`, `ce_loss_score`, `kl_div_score`,
//! `frac_alive`), SAELens 6 (`explained_variance`), sparsify (`fvu`). Special tokens (beginning and
//! end of sequence) count nowhere and keep their activation when the reconstruction is spliced in,
//! as SAEBench recommends.

use std::slice::Chunks;

use burn::tensor::{Tensor, TensorData};
use lapidary_activations::{TokenBlock, predicts};
use lapidary_coder::{AnyCoder, Coder, Dictionary, host, host_int};
use lapidary_model::{HookPoint, HookedRun, Intervention, LanguageModel};

use crate::codes::{CodeSums, HostCodes};
use crate::cosines::{BABEL, DecoderCosines, co_selected, pairs, unit};
use crate::error::EvaluationError;
use crate::hooks::Hooks;
use crate::latents::LatentFigures;
use crate::metrics::Metrics;
use crate::ordinary::Ordinary;
use crate::predictions::{Predictions, cross_entropy, divergence, log_probabilities};
use crate::reconstruction::ReconstructionSums;

/// Blocks that make one batch, over which the means of `explained_variance_legacy` and
/// `relative_reconstruction_bias` are taken: SAEBench's batch.
pub const BATCH_BLOCKS: usize = 16;

/// Largest number of log-probabilities held at once.
const MOST_LOGITS: usize = 1 << 24;

/// Tokens whose active latents are looked at together, about.
const CO_SELECTED_TOKENS: u64 = 2048;

/// What [`evaluate`] found.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The figures of the dictionary.
    pub metrics: Metrics,
    /// Those of each latent.
    pub latents: LatentFigures,
}

/// Evaluates `dictionary` at `hooks` of `model` on `blocks`, all of one length. `on_progress` hears
/// the number of blocks done.
///
/// # Errors
/// The dictionary does not fit the hook points, or the model fails.
pub fn evaluate(
    model: &LanguageModel,
    dictionary: &Dictionary,
    hooks: impl Into<Hooks>,
    blocks: &[TokenBlock],
    on_progress: &mut dyn FnMut(usize),
) -> Result<Evaluation, EvaluationError> {
    let mut evaluator = Evaluator::new(model, dictionary, hooks, blocks)?;
    while let Some(batch) = evaluator.next_batch()? {
        on_progress(batch.done);
    }
    evaluator.finish()
}

/// [`evaluate`], batch by batch, for those who use the codes too.
pub struct Evaluator<'a> {
    sums: Sums<'a>,
    /// Blocks to come, in batches.
    batches: Chunks<'a, TokenBlock>,
    done: usize,
    /// Blocks that go through the model at once, at most.
    at_once: usize,
}

/// A batch that was evaluated.
pub struct EvaluatedBatch<'a> {
    /// Its blocks.
    pub blocks: &'a [TokenBlock],
    /// Blocks evaluated so far, these included.
    pub done: usize,
    /// The codes of its tokens, unless a pass that captures the targets as well computes the
    /// sources in another way than [`lapidary_activations::harvest_all`] does. On the CPU they have
    /// the bits of that and the encoder on the whole batch. On a GPU they may not where logits are
    /// too large for a batch in one forward pass.
    pub codes: Option<HostCodes>,
}

impl<'a> Evaluator<'a> {
    /// An evaluation that has seen nothing.
    ///
    /// # Errors
    /// There are no blocks, or not all are of one length.
    pub fn new(
        model: &'a LanguageModel,
        dictionary: &Dictionary,
        hooks: impl Into<Hooks>,
        blocks: &'a [TokenBlock],
    ) -> Result<Self, EvaluationError> {
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
        let tokens = (blocks.len() * context) as u64;
        let coder = dictionary.coder.clone().to_device(model.device());
        let sums = Sums {
            model,
            hooks: hooks.into(),
            special: special_tokens(model),
            reconstruction: ReconstructionSums::default(),
            ordinary: Ordinary::default(),
            codes: CodeSums::new(coder.d_sae(), tokens.div_ceil(CO_SELECTED_TOKENS)),
            predictions: Predictions::default(),
            blocks: 0,
            coder,
        };
        Ok(Self {
            sums,
            batches: blocks.chunks(BATCH_BLOCKS),
            done: 0,
            at_once: (MOST_LOGITS / (context * model.config().d_vocab).max(1)).max(1),
        })
    }

    /// Evaluates the next [`BATCH_BLOCKS`] blocks, or as many as are left; `None` at the end.
    ///
    /// # Errors
    /// The dictionary does not fit the hook points, or the model fails.
    pub fn next_batch(&mut self) -> Result<Option<EvaluatedBatch<'a>>, EvaluationError> {
        let Some(blocks) = self.batches.next() else {
            return Ok(None);
        };
        let mut reconstructed = Reconstructed::default();
        let mut codes = vec![];
        for part in blocks.chunks(self.at_once) {
            codes.push(self.sums.observe(part, &mut reconstructed)?);
        }
        let Reconstructed {
            y,
            y_hat,
            counts,
            ordinary,
            width,
        } = reconstructed;
        self.sums.reconstruction.observe(&y, &y_hat, width, &counts);
        let of_ordinary = &mut self.sums.ordinary.reconstruction;
        of_ordinary.observe(&y, &y_hat, width, &ordinary);
        self.done += blocks.len();
        let shared = self.sums.hooks.targets_follow_sources();
        Ok(Some(EvaluatedBatch {
            blocks,
            done: self.done,
            codes: shared.then(|| HostCodes::joined(codes)),
        }))
    }

    /// The metrics on the batches so far.
    ///
    /// # Errors
    /// The device fails.
    pub fn finish(self) -> Result<Evaluation, EvaluationError> {
        self.sums.figures()
    }
}

/// Tokens that count nowhere: beginning and end of sequence.
pub(crate) fn special_tokens(model: &LanguageModel) -> Vec<u32> {
    model.special_tokens()
}

/// The running sums of an evaluation, and what they are of.
struct Sums<'a> {
    model: &'a LanguageModel,
    coder: AnyCoder,
    hooks: Hooks,
    special: Vec<u32>,
    reconstruction: ReconstructionSums,
    ordinary: Ordinary,
    codes: CodeSums,
    predictions: Predictions,
    blocks: u64,
}

/// One batch's activations at the target and their reconstructions, `[n, width]` row by row.
#[derive(Default)]
struct Reconstructed {
    y: Vec<f32>,
    y_hat: Vec<f32>,
    counts: Vec<bool>,
    /// Those that count and are no outliers.
    ordinary: Vec<bool>,
    width: usize,
}

impl Sums<'_> {
    /// Runs the model on some blocks: as it is, with the reconstruction, and with zeros. Gives the
    /// codes of their tokens.
    fn observe(
        &mut self,
        part: &[TokenBlock],
        all: &mut Reconstructed,
    ) -> Result<HostCodes, EvaluationError> {
        let (model, Hooks { sources, targets }) = (self.model, &self.hooks);
        let tokens: Vec<&[u32]> = part.iter().map(|b| b.tokens.as_slice()).collect();
        let counts: Vec<bool> = tokens
            .iter()
            .flat_map(|t| t.iter().map(|t| !self.special.contains(t)))
            .collect();
        let input = model.tokens(&tokens)?; // [batch, pos]
        let [b, t] = input.dims();
        let segments = TokenBlock::attention(part, model.device());
        let predicts = predicts(part, &counts, &self.special);
        let mut capture = sources.clone();
        capture.extend(targets.iter().filter(|hook| !sources.contains(hook)));
        let original = model.run(
            input.clone(),
            &HookedRun {
                capture: &capture,
                logits: true,
                segments: segments.clone(),
                ..Default::default()
            },
        )?;
        let mut norms = vec![];
        for hook in &capture {
            if let Some(value) = original.captured.get(hook) {
                let norm = value.clone().square().sum_dim(2).sqrt();
                norms.push(host(&norm.reshape([b * t, 1]))?);
            }
        }
        let ordinary = self.ordinary.select(&norms, &counts);
        // Of several hook points side by side, with the width at each.
        let captured = |hooks: &[HookPoint]| {
            let values = hooks.iter().map(|hook| {
                let found = original.captured.get(hook).cloned();
                found.ok_or_else(|| EvaluationError::input("captured activations", "nothing", hook))
            });
            let values: Vec<Tensor<3>> = values.collect::<Result<_, _>>()?;
            let widths: Vec<usize> = values.iter().map(|value| value.dims()[2]).collect();
            let d = widths.iter().sum::<usize>();
            Ok::<_, EvaluationError>((Tensor::cat(values, 2).reshape([b * t, d]), widths))
        };
        let ((x, _), (y, widths)) = (captured(sources)?, captured(targets)?);
        let ([_, d_in], [_, d_out]) = (x.dims(), y.dims());
        if d_in != self.coder.d_in() {
            return Err(EvaluationError::input(
                "width of the activations at the hook point (against the dictionary's d_in)",
                d_in,
                self.coder.d_in(),
            ));
        }
        if d_out != self.coder.d_out() {
            return Err(EvaluationError::input(
                "width of the activations at the target hook point (against the dictionary's d_out)",
                d_out,
                self.coder.d_out(),
            ));
        }
        let z = self.coder.encode(x.clone());
        let y_hat = self.coder.reconstruct(z.clone(), x); // [b * t, d_out]
        let k = z.values.dims()[1];
        let codes = HostCodes::new(host(&z.values)?, host_int(&z.indices)?, k);
        for (i, counts) in counts.chunks_exact(t).enumerate() {
            let rows = i * t * k..(i + 1) * t * k;
            self.codes.observe(
                &codes.values[rows.clone()],
                &codes.indices[rows],
                k,
                counts,
                self.blocks,
            );
            self.blocks += 1;
        }
        self.ordinary.count(&codes, &ordinary);

        let keep: Vec<f32> = counts.iter().map(|c| f32::from(u8::from(!*c))).collect();
        let keep = Tensor::<1>::from_data(TensorData::new(keep, [b * t]), model.device())
            .reshape([b * t, 1])
            .greater_elem(0.5)
            .expand([b * t, d_out]);
        let spliced = y_hat
            .clone()
            .mask_where(keep, y.clone())
            .reshape([b, t, d_out]);
        let mut start = 0;
        let parts = widths.iter().map(|width| {
            start += width;
            let part = spliced.clone().narrow(2, start - width, *width);
            move |_: Tensor<3>| part.clone()
        });
        let parts: Vec<_> = parts.collect();
        let splice = targets.iter().zip(&parts);
        let splice = splice.map(|(at, part)| Intervention::function(*at, part));
        let splice: Vec<Intervention<'_>> = splice.collect();
        let zeros = |x: Tensor<3>| x.zeros_like();
        let ablate = targets.iter().map(|at| Intervention::function(*at, &zeros));
        let ablate: Vec<Intervention<'_>> = ablate.collect();
        let with = |interventions: &[Intervention<'_>]| {
            model.run(
                input.clone(),
                &HookedRun {
                    interventions,
                    logits: true,
                    segments: segments.clone(),
                    ..Default::default()
                },
            )
        };
        let sums = &mut self.predictions;
        let original = log_probabilities(original.logits)?;
        let coded = log_probabilities(with(&splice)?.logits)?;
        sums.cross_entropy[0] += cross_entropy(&original, &input, &predicts)?;
        sums.cross_entropy[1] += cross_entropy(&coded, &input, &predicts)?;
        sums.divergence[0] += divergence(&original, coded, &counts)?;
        let ablated = log_probabilities(with(&ablate)?.logits)?;
        sums.cross_entropy[2] += cross_entropy(&ablated, &input, &predicts)?;
        sums.divergence[1] += divergence(&original, ablated, &counts)?;
        sums.divergence_tokens += counts.iter().filter(|c| **c).count() as u64;
        sums.cross_entropy_tokens += predicts
            .chunks(t)
            .map(|row| row[..t - 1].iter().filter(|c| **c).count() as u64)
            .sum::<u64>();

        all.y.extend(host(&y)?);
        all.y_hat.extend(host(&y_hat)?);
        all.counts.extend(counts);
        all.ordinary.extend(ordinary);
        all.width = d_out;
        Ok(codes)
    }

    fn figures(self) -> Result<Evaluation, EvaluationError> {
        let w_dec = self.coder.w_dec();
        let encoder = pairs(&unit(self.coder.w_enc()), 0)?;
        let decoder = pairs(&unit(w_dec.clone()), BABEL)?;
        let latents = LatentFigures::new(&self.coder, &self.codes, &encoder, &decoder)?;
        let together = co_selected(w_dec.clone(), self.codes.supports(), BABEL)?;
        let [n, d] = w_dec.dims();
        let decoder = DecoderCosines::new(decoder, (n, d), together);
        let metrics = Metrics::new(
            (&self.reconstruction, &self.ordinary),
            &self.codes,
            &self.predictions,
            &latents,
            decoder,
        );
        Ok(Evaluation { metrics, latents })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::{Device, Distribution};
    use lapidary_activations::{BlockConfig, BlockStream};
    use lapidary_coder::{Architecture, Provenance, SparseCoder, Weights};

    use super::*;

    #[test]
    fn a_batch_in_several_passes_gives_the_codes_of_one_pass() {
        let device = Device::flex();
        let model = Arc::new(LanguageModel::load("embedded", &device).unwrap());
        let config = BlockConfig {
            corpus: "embedded:heldout".into(),
            text_field: "text".into(),
            context: 16,
            prepend_bos: true,
            attend_across_documents: false,
        };
        let blocks = BlockStream::new(model.clone(), &config).unwrap();
        let blocks: Vec<TokenBlock> = blocks.take(BATCH_BLOCKS).map(Result::unwrap).collect();
        let hook: HookPoint = "blocks.1.hook_resid_post".parse().unwrap();
        let d = model.width(hook).unwrap();
        device.seed(3);
        let rows = || Tensor::<2>::random([64, d], Distribution::Normal(0.0, 1.0), &device);
        let zeros = |n| Tensor::<1>::zeros([n], &device);
        let dictionary = Dictionary {
            coder: SparseCoder {
                architecture: Architecture::Standard, // rows have as many places as it needs
                apply_b_dec_to_input: false,
                weights: Weights::new([
                    ("w_enc", rows().into()),
                    ("b_enc", zeros(64).into()),
                    ("w_dec", rows().into()),
                    ("b_dec", zeros(d).into()),
                ]),
            }
            .into(),
            provenance: Provenance::default(),
        };
        let codes = |at_once: usize| {
            let mut evaluator = Evaluator::new(&model, &dictionary, hook, &blocks).unwrap();
            evaluator.at_once = at_once;
            let batch = evaluator.next_batch().unwrap().unwrap();
            let codes = batch.codes.unwrap();
            let rows = codes
                .indices
                .chunks(codes.k)
                .zip(codes.values.chunks(codes.k));
            let active = rows.map(|(latents, values)| {
                let places = latents.iter().zip(values).filter(|(i, _)| **i >= 0);
                places.map(|(i, v)| (*i, v.to_bits())).collect::<Vec<_>>()
            });
            active.collect::<Vec<_>>()
        };
        let whole = codes(BATCH_BLOCKS);
        assert!(whole.iter().all(|row| !row.is_empty()));
        assert_eq!(codes(5), whole);
    }
}
