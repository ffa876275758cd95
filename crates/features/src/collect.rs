//! Where a dictionary meets its model: one pass over token blocks for the statistics, one product
//! with the unembedding for what each latent writes.

use crate::{
    BlockView, CodeReader, CodesWriter, DecoderSummary, FeatureStatistics, FeaturesError,
    StatisticsConfig, StatisticsSummary,
};
use burn::tensor::Tensor;
use lapidary_activations::{ActivationsError, OtherModel, TokenBlock};
use lapidary_coder::{Coder, Dictionary};
use lapidary_evaluation::{BATCH_BLOCKS, EvaluatedBatch, HostCodes};
use lapidary_model::{BlockHook, HookPoint, LanguageModel};

use crate::lens::{LogitEffect, logit_effects};

/// Statistics of a dictionary's latents over blocks of text: what an evaluation of the same blocks
/// has computed is taken over, and model and encoder run on the rest.
pub struct Collector<'a> {
    reader: CodeReader<'a>,
    blocks: &'a [TokenBlock],
    /// Blocks that are in the statistics.
    done: usize,
    statistics: FeatureStatistics,
}

impl<'a> Collector<'a> {
    /// Statistics that have seen nothing yet. The dictionary reads `hooks` of `model`, side by side
    /// with the hook points of `other`, if there is a second model.
    ///
    /// # Errors
    /// When the dictionary does not fit the hook points.
    pub fn new(
        model: &'a LanguageModel,
        coder: &'a dyn Coder,
        hooks: Vec<HookPoint>,
        other: Option<&'a OtherModel>,
        blocks: &'a [TokenBlock],
        config: StatisticsConfig,
    ) -> Result<Self, FeaturesError> {
        let statistics = FeatureStatistics::new(config);
        Ok(Self {
            reader: CodeReader::new(model, coder, hooks, other)?,
            blocks,
            done: 0,
            statistics,
        })
    }

    /// Takes over the codes of a batch of an evaluation of the same dictionary and model, if its
    /// blocks are those that would come next here.
    ///
    /// # Errors
    /// When a code is not finite.
    pub fn take(&mut self, batch: &EvaluatedBatch<'_>) -> Result<(), FeaturesError> {
        match &batch.codes {
            Some(codes) if batch.blocks == self.next_blocks() => self.observe(codes, None),
            _ => Ok(()),
        }
    }

    /// Runs model and encoder on the blocks that are left. `on_progress` hears the number of blocks
    /// done.
    ///
    /// # Errors
    /// When the model fails, or a code is not finite.
    pub fn finish(
        self,
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<StatisticsSummary, FeaturesError> {
        self.finish_with(None, on_progress)
    }

    /// The same, with the codes of these blocks written too.
    ///
    /// # Errors
    /// As [`Collector::finish`], or when the codes cannot be written.
    pub fn finish_with(
        mut self,
        mut writer: Option<&mut CodesWriter<'_>>,
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<StatisticsSummary, FeaturesError> {
        while self.done < self.blocks.len() {
            let blocks = self.next_blocks();
            let codes = self.reader.read(blocks)?;
            self.observe(&codes, writer.as_deref_mut())?;
            on_progress(self.done);
        }
        Ok(self.statistics.finish())
    }

    /// The blocks that go through model and encoder next.
    fn next_blocks(&self) -> &'a [TokenBlock] {
        let left = &self.blocks[self.done..];
        &left[..left.len().min(BATCH_BLOCKS)]
    }

    /// Takes in the codes of the next blocks.
    fn observe(
        &mut self,
        codes: &HostCodes,
        mut writer: Option<&mut CodesWriter<'_>>,
    ) -> Result<(), FeaturesError> {
        let blocks = self.next_blocks();
        for (i, block) in blocks.iter().enumerate() {
            let n = block.tokens.len();
            let (document, position): (Vec<u32>, Vec<u32>) = block.places().into_iter().unzip();
            let special = |token: &u32| self.reader.model().is_special(*token);
            let active: Vec<bool> = block.tokens.iter().map(|t| !special(t)).collect();
            let view = BlockView {
                tokens: &block.tokens,
                document: &document,
                position: &position,
                block_index: (self.done + i) as u64,
                active: &active,
            };
            let range = i * n * codes.k..(i + 1) * n * codes.k;
            let (values, indices) = (&codes.values[range.clone()], &codes.indices[range]);
            self.statistics
                .observe_block(view, values, indices, codes.k)?;
            if let Some(writer) = &mut writer {
                writer.add(&view, values, indices, codes.k)?;
            }
        }
        self.done += blocks.len();
        Ok(())
    }
}

/// What each latent's decoder row does to the logits by itself, if it writes at `hooks`, the part
/// at the last of them (of a cross-layer transcoder the sum of what it writes at all, since each
/// adds to the stream), for hook points in the residual stream's space: the row (less its mean,
/// where the final norm takes the mean away) times the final norm's weight times the unembedding,
/// the norm's scale left out. Elsewhere the lists stay empty. Only tokens that are `shown` are
/// listed. `parts` are the widths of all hook
/// points that it writes at, of two models both's. The nearest latents are left empty.
///
/// # Errors
/// When the dictionary does not fit the hook point.
pub fn summarize_decoder(
    model: &LanguageModel,
    dictionary: &Dictionary,
    hooks: &[HookPoint],
    parts: &[usize],
    top: usize,
    shown: &dyn Fn(u32) -> bool,
) -> Result<DecoderSummary, FeaturesError> {
    let coder = dictionary.coder.clone().to_device(model.device());
    let (w_enc, w_dec) = (coder.w_enc(), coder.w_dec()); // [d_sae, d_in], [d_sae, d_out]
    let d_sae = coder.d_sae();
    let norm = |w: &Tensor<2>| w.clone().square().sum_dim(1).sqrt(); // [d_sae, 1]
    let host = |t: Tensor<2>| t.into_data().iter::<f32>().collect::<Vec<f32>>();
    // A transcoder's rows live in two spaces.
    let cosine = (!dictionary.transcodes()).then(|| {
        (w_enc.clone() * w_dec.clone()).sum_dim(1)
            / (norm(&w_enc) * norm(&w_dec)).clamp_min(f32::MIN_POSITIVE)
    });
    let mut summary = DecoderSummary {
        decoder_norm: host(norm(&w_dec)),
        relative_decoder_norms: relative_norms(&w_dec, parts),
        encoder_decoder_cosine: cosine.map(host),
        logit_kurtosis: vec![None; d_sae],
        nearest: vec![vec![]; d_sae],
        promoted: vec![vec![]; d_sae],
        suppressed: vec![vec![]; d_sae],
    };
    let Some(hook) = hooks.last() else {
        return Ok(summary);
    };
    let width = model.width(*hook).map_err(ActivationsError::from)?;
    let width = width.min(coder.d_out());
    let w_dec = match coder.layers().len() {
        1 => w_dec.narrow(1, coder.d_out() - width, width),
        layers => (0..layers)
            .map(|layer| w_dec.clone().narrow(1, layer * width, width))
            .reduce(|a, b| a + b)
            .unwrap_or(w_dec),
    };
    let writes_to_residual = matches!(
        hook,
        HookPoint::Embed
            | HookPoint::PosEmbed
            | HookPoint::Block(
                _,
                BlockHook::ResidPre
                    | BlockHook::ResidMid
                    | BlockHook::ResidPost
                    | BlockHook::AttnOut
                    | BlockHook::MlpOut
            )
    );
    if !writes_to_residual {
        return Ok(summary);
    }
    let effects = logit_effects(model, w_dec, top, shown);
    summary.logit_kurtosis = effects.iter().map(|e| Some(e.kurtosis)).collect();
    (summary.promoted, summary.suppressed) =
        effects.into_iter().map(LogitEffect::into_tokens).unzip();
    Ok(summary)
}

/// Of each row of `w_dec` `[d_sae, d_out]` its norm in each of the `parts`, which stand side by
/// side, over the sum of these; zeros for a row of zeros.
fn relative_norms(w_dec: &Tensor<2>, parts: &[usize]) -> Vec<Vec<f32>> {
    let [d_sae, d_out] = w_dec.dims();
    let rows: Vec<f32> = w_dec.to_data().iter::<f32>().collect();
    if parts.iter().sum::<usize>() != d_out {
        return vec![vec![]; d_sae];
    }
    let of_row = |row: &[f32]| {
        let mut start = 0;
        let norms = parts.iter().map(|width| {
            start += width;
            let part = &row[start - width..start];
            part.iter()
                .map(|v| f64::from(*v).powi(2))
                .sum::<f64>()
                .sqrt()
        });
        let norms: Vec<f64> = norms.collect();
        let sum = norms.iter().sum::<f64>();
        let share = |norm: &f64| if sum > 0.0 { (norm / sum) as f32 } else { 0.0 };
        norms.iter().map(share).collect()
    };
    rows.chunks_exact(d_out.max(1)).map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use lapidary_coder::{Architecture, Provenance, SparseCoder, Weights};

    /// A final LayerNorm takes the mean away, so what is the same in every dimension cannot reach
    /// the logits.
    #[test]
    fn a_constant_added_to_a_decoder_row_promotes_nothing_in_gpt2() {
        let device = Device::flex();
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fixtures/models/gpt2"
        );
        let model = LanguageModel::load(folder, &device).unwrap();
        let d = model.config().d_model;
        let rows: Vec<f32> = (0..d).map(|i| (i as f32 * 1.7).sin()).collect();
        let row = Tensor::<1>::from_floats(rows.as_slice(), &device).unsqueeze::<2>();
        let w_dec = Tensor::cat(vec![row.clone(), row + 7.0], 0);
        let dictionary = Dictionary {
            coder: SparseCoder {
                architecture: Architecture::Standard,
                apply_b_dec_to_input: true,
                weights: Weights::new([
                    ("w_enc", w_dec.clone().into()),
                    ("b_enc", Tensor::<1>::zeros([2], &device).into()),
                    ("w_dec", w_dec.into()),
                    ("b_dec", Tensor::<1>::zeros([d], &device).into()),
                ]),
            }
            .into(),
            provenance: Provenance::default(),
        };
        let hook = "blocks.0.hook_resid_post".parse().unwrap();
        let found = summarize_decoder(&model, &dictionary, &[hook], &[d], 4, &|_| true).unwrap();
        for lists in [&found.promoted, &found.suppressed] {
            for ((i, a), (j, b)) in lists[0].iter().zip(&lists[1]) {
                assert!(i == j && (a - b).abs() < 1e-4, "{lists:?}");
            }
        }
    }
}
