//! Batches that are whole sequences, with their tokens and what the model says of them: for losses
//! that go through the model. Blocks come in a random order out of a window of the corpus.

use crate::exclusion::Candidate;
use crate::state_files::{read_json, write_json};
use crate::{
    ActivationsError, BatchSource, BlockStream, Excluded, Normalization, Sequences, StreamConfig,
    TokenBlock,
};
use burn::tensor::{Tensor, TensorData};
use lapidary_model::HookedRun;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Tokens by which the normalization is estimated, about.
const ESTIMATE_TOKENS: usize = 16_384;

/// A source of batches of whole sequences. At the corpus's end it starts again.
pub struct SequenceStream {
    blocks: BlockStream,
    config: StreamConfig,
    normalizations: Vec<Normalization>,
    norm_limits: Vec<f32>,
    /// Blocks in the order in which they come, and how many of them have.
    window: Vec<TokenBlock>,
    taken: usize,
    start: WindowStart,
    rng: ChaCha8Rng,
    /// Blocks read in this pass over the corpus, and passes finished.
    read: u64,
    passes: u64,
    last: Option<Sequences>,
}

/// What decides a window: where the corpus and the generator stood before it was read.
#[derive(Clone, Serialize, Deserialize)]
struct WindowStart {
    read: u64,
    passes: u64,
    digest: u64,
    rng: ChaCha8Rng,
}

/// What a stream writes.
#[derive(Serialize, Deserialize)]
struct State {
    corpus: String,
    context: usize,
    hook_points: Vec<String>,
    window: usize,
    start: WindowStart,
    taken: usize,
    normalizations: Vec<Normalization>,
    norm_limits: Vec<f32>,
}

impl SequenceStream {
    /// Reads the first window and estimates the normalization from its beginning.
    ///
    /// # Errors
    /// When a batch is no whole number of blocks, the corpus is too short or cannot be read, or the
    /// model fails.
    pub fn new(blocks: BlockStream, config: StreamConfig) -> Result<Self, ActivationsError> {
        let mut stream = Self::unfilled(blocks, config)?;
        stream.fill()?;
        let context = stream.blocks.config().context;
        let least = stream.batch_blocks();
        let few = (ESTIMATE_TOKENS / context)
            .max(least)
            .min(stream.window.len());
        let mut rows: Vec<Vec<f32>> = vec![vec![]; stream.config.hook_points.len()];
        for start in (0..few).step_by(least) {
            let blocks = stream.window[start..few.min(start + least)].to_vec();
            let (sequences, parts) = stream.observe(blocks)?;
            for (all, (part, (_, values))) in rows
                .iter_mut()
                .zip(parts.iter().zip(&sequences.activations))
            {
                let width = values.dims()[1];
                let kept = part.chunks_exact(width).zip(&sequences.kept);
                all.extend(kept.filter(|(_, kept)| **kept).flat_map(|(row, _)| row));
            }
        }
        let kind = stream.config.normalization;
        let widths = stream.widths()?;
        let estimate = |(rows, d): (&Vec<f32>, &usize)| {
            Normalization::estimate(kind, rows.chunks_exact(*d), *d)
        };
        stream.normalizations = rows
            .iter()
            .zip(&widths)
            .map(estimate)
            .collect::<Result<_, _>>()?;
        Ok(stream)
    }

    /// A stream for [`BatchSource::restore`]: nothing is read and no normalization known until
    /// then.
    ///
    /// # Errors
    /// When a batch is no whole number of blocks.
    pub fn unfilled(blocks: BlockStream, config: StreamConfig) -> Result<Self, ActivationsError> {
        let context = blocks.config().context;
        config.exclude.check(context)?;
        if config.batch_tokens == 0 || !config.batch_tokens.is_multiple_of(context) {
            return Err(ActivationsError::Corpus {
                path: blocks.config().corpus.clone().into(),
                problem: format!(
                    "a batch of {} tokens is no whole number of blocks of {context}, which losses through the model need",
                    config.batch_tokens
                ),
            });
        }
        let rng = ChaCha8Rng::seed_from_u64(config.seed);
        let mut stream = Self {
            normalizations: vec![],
            norm_limits: vec![],
            window: vec![],
            taken: 0,
            start: WindowStart {
                read: 0,
                passes: 0,
                digest: blocks.digest(),
                rng: rng.clone(),
            },
            rng,
            read: 0,
            passes: 0,
            last: None,
            blocks,
            config,
        };
        let widths = stream.widths()?.into_iter();
        stream.normalizations = widths.map(Normalization::identity).collect();
        Ok(stream)
    }

    fn widths(&self) -> Result<Vec<usize>, ActivationsError> {
        let model = self.blocks.model();
        let widths = self
            .config
            .hook_points
            .iter()
            .map(|hook| model.width(*hook));
        Ok(widths.collect::<Result<_, _>>()?)
    }

    fn hook_names(&self) -> Vec<String> {
        let hooks = self.config.hook_points.iter();
        hooks.map(ToString::to_string).collect()
    }

    fn batch_blocks(&self) -> usize {
        self.config.batch_tokens / self.blocks.config().context
    }

    /// Blocks of a window: whole batches.
    fn window_blocks(&self) -> usize {
        (self.config.buffer_tokens / self.config.batch_tokens).max(1) * self.batch_blocks()
    }

    /// Reads the next window and shuffles it.
    fn fill(&mut self) -> Result<(), ActivationsError> {
        self.start = WindowStart {
            read: self.read,
            passes: self.passes,
            digest: self.blocks.digest(),
            rng: self.rng.clone(),
        };
        self.window.clear();
        self.taken = 0;
        while self.window.len() < self.window_blocks() {
            let block = self
                .blocks
                .next_in_passes(&mut self.read, &mut self.passes)?;
            self.window.push(block);
        }
        self.window.shuffle(&mut self.rng);
        Ok(())
    }

    /// Runs the model on blocks; gives the activations on the host too.
    fn observe(
        &mut self,
        blocks: Vec<TokenBlock>,
    ) -> Result<(Sequences, Vec<Vec<f32>>), ActivationsError> {
        let model = self.blocks.model().clone();
        let tokens: Vec<&[u32]> = blocks.iter().map(|b| b.tokens.as_slice()).collect();
        let run = HookedRun {
            capture: &self.config.hook_points,
            logits: true,
            segments: TokenBlock::attention(&blocks, model.device()),
            ..Default::default()
        };
        let mut output = model.run(model.tokens(&tokens)?, &run)?;
        let (mut activations, mut rows) = (vec![], vec![]);
        for hook in &self.config.hook_points {
            let value = output.captured.remove(hook).expect("it was asked for");
            let [batch, pos, width] = value.dims();
            let value = value.reshape([batch * pos, width]);
            let values: Vec<f32> = value.to_data().try_to_vec().expect("activations are f32");
            let count = values.iter().filter(|v| !v.is_finite()).count();
            if count > 0 {
                let hook = hook.to_string();
                return Err(ActivationsError::NotFinite { hook, count });
            }
            activations.push((*hook, value));
            rows.push(values);
        }
        let rule = self.config.exclude;
        let candidates = Candidate::all(&self.blocks, &blocks);
        let widths: Vec<usize> = activations.iter().map(|(_, v)| v.dims()[1]).collect();
        if self.norm_limits.is_empty() {
            let ends = rows.iter().zip(&widths);
            let limit = |(rows, d): (&Vec<f32>, &usize)| rule.norm_limit(rows, *d, &candidates);
            self.norm_limits = ends.filter_map(limit).collect();
        }
        let keeps = |(i, candidate): (usize, &Candidate)| {
            let ends = rows.iter().zip(&widths);
            let row: Vec<&[f32]> = ends.map(|(rows, d)| &rows[i * d..][..*d]).collect();
            rule.keeps(
                *candidate,
                &row,
                &self.norm_limits,
                &mut Excluded::default(),
            )
        };
        let sequences = Sequences {
            kept: candidates.iter().enumerate().map(keeps).collect(),
            counts: candidates.iter().map(|c| !c.special).collect(),
            logits: output.logits.expect("they were asked for"),
            activations,
            blocks,
            model,
        };
        Ok((sequences, rows))
    }
}

impl BatchSource for SequenceStream {
    fn normalizations(&self) -> &[Normalization] {
        &self.normalizations
    }

    fn passes(&self) -> u64 {
        self.passes
    }

    /// One batch has fewer rows than `batch_tokens` by the tokens that are left out.
    fn next_batch(&mut self) -> Result<Vec<Tensor<2>>, ActivationsError> {
        if self.taken >= self.window.len() {
            self.fill()?;
        }
        let n = self.batch_blocks();
        let blocks = self.window[self.taken..self.taken + n].to_vec();
        self.taken += n;
        let (sequences, rows) = self.observe(blocks)?;
        if !sequences.kept.contains(&true) {
            return Err(ActivationsError::Corpus {
                path: self.blocks.config().corpus.clone().into(),
                problem: "a batch holds nothing but tokens that are left out".into(),
            });
        }
        let device = self.blocks.model().device().clone();
        let ends = rows.iter().zip(&self.normalizations);
        let parts = ends.map(|(rows, normalization)| {
            let d = normalization.mean.len();
            let kept = rows.chunks_exact(d).zip(&sequences.kept);
            let mut kept: Vec<f32> = kept
                .filter(|(_, kept)| **kept)
                .flat_map(|(row, _)| row.iter().copied())
                .collect();
            normalization.apply(&mut kept);
            let shape = [kept.len() / d, d];
            Tensor::from_data(TensorData::new(kept, shape), &device)
        });
        let parts = parts.collect();
        self.last = Some(sequences);
        Ok(parts)
    }

    fn sequences(&self) -> Option<&Sequences> {
        self.last.as_ref()
    }

    fn save(&self, dir: &Path) -> Result<(), ActivationsError> {
        let state = State {
            corpus: self.blocks.config().corpus.clone(),
            context: self.blocks.config().context,
            hook_points: self.hook_names(),
            window: self.window_blocks(),
            start: self.start.clone(),
            taken: self.taken,
            normalizations: self.normalizations.clone(),
            norm_limits: self.norm_limits.clone(),
        };
        write_json(&dir.join("sequences.json"), &state)
    }

    fn restore(&mut self, dir: &Path) -> Result<(), ActivationsError> {
        let path = dir.join("sequences.json");
        let state: State = read_json(&path)?;
        let wrong = |problem: String| {
            let path = path.clone();
            Err(ActivationsError::Checkpoint { path, problem })
        };
        let config = self.blocks.config();
        let (corpus, context) = (config.corpus.clone(), config.context);
        let here = (&corpus, context, &self.hook_names(), self.window_blocks());
        let there = (
            &state.corpus,
            state.context,
            &state.hook_points,
            state.window,
        );
        if here != there {
            return wrong(format!(
                "was written by a run on corpus, context, hook points, window = {there:?}; this run has {here:?}"
            ));
        }
        let damaged = |what: &str, found: String, expected: &str| {
            ActivationsError::damaged_checkpoint(path.clone(), what, found, expected)
        };
        let batch = self.batch_blocks();
        if state.taken > state.window || !state.taken.is_multiple_of(batch) {
            let expected = format!("a multiple of {batch}, at most {}", state.window);
            return Err(damaged(
                "blocks used of the window",
                state.taken.to_string(),
                &expected,
            ));
        }
        let widths = state.normalizations.iter().map(|n| n.mean.len());
        let widths: Vec<usize> = widths.collect();
        let expected = self.widths()?;
        if widths != expected {
            let (found, expected) = (format!("{widths:?}"), format!("{expected:?}"));
            return Err(damaged("widths of the normalizations", found, &expected));
        }
        self.blocks.rewind();
        let skipped = self.blocks.skip_blocks(state.start.read)?;
        if skipped != state.start.read || self.blocks.digest() != state.start.digest {
            return wrong(format!(
                "the run had read {} blocks of corpus {}, whose text or tokenizer has changed since",
                state.start.read, state.corpus
            ));
        }
        self.read = state.start.read;
        self.passes = state.start.passes;
        self.rng = state.start.rng;
        self.normalizations = state.normalizations;
        self.norm_limits = state.norm_limits;
        self.fill()?;
        self.taken = state.taken;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockConfig, Exclusion, NormalizationKind};
    use burn::tensor::Device;
    use lapidary_model::LanguageModel;
    use std::sync::Arc;

    fn stream(model: &Arc<LanguageModel>, fresh: bool) -> SequenceStream {
        let blocks = BlockConfig {
            corpus: "embedded".into(),
            text_field: "text".into(),
            context: 32,
            prepend_bos: true,
            attend_across_documents: false,
        };
        let blocks = BlockStream::new(model.clone(), &blocks).unwrap();
        let config = StreamConfig {
            hook_points: vec!["blocks.1.hook_mlp_out".parse().unwrap()],
            batch_tokens: 64,
            buffer_tokens: 200,
            harvest_blocks: 4,
            exclude: Exclusion::default(),
            normalization: NormalizationKind::UnitNorm,
            seed: 3,
            other: None,
        };
        match fresh {
            true => SequenceStream::new(blocks, config).unwrap(),
            false => SequenceStream::unfilled(blocks, config).unwrap(),
        }
    }

    #[test]
    fn rows_are_those_of_the_tokens_that_are_kept_and_resume_to_the_same_bits() {
        let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
        let mut whole = stream(&model, true);
        let folder = tempfile::tempdir().unwrap();
        let mut seen = vec![];
        for batch in 0..8 {
            let rows = whole.next_batch().unwrap().remove(0);
            let sequences = whole.sequences().unwrap();
            let kept = sequences.kept.iter().filter(|k| **k).count();
            assert_eq!(sequences.kept, sequences.counts);
            assert!(rows.dims() == [kept, 256] && kept < 64 && sequences.blocks.len() == 2);
            assert_eq!(sequences.logits.dims()[..2], [2, 32]);
            // The first kept row, normalized.
            let first = sequences.kept.iter().position(|k| *k).unwrap();
            let raw: Vec<f32> = sequences.activations[0]
                .1
                .clone()
                .narrow(0, first, 1)
                .to_data()
                .iter()
                .collect();
            let row: Vec<f32> = rows.clone().narrow(0, 0, 1).to_data().iter().collect();
            let scale = whole.normalizations()[0].scale;
            assert!(
                row.iter()
                    .zip(&raw)
                    .all(|(a, b)| (a - b * scale).abs() < 1e-6)
            );
            seen.push(rows.to_data().iter::<f32>().collect::<Vec<f32>>());
            if batch == 3 {
                whole.save(folder.path()).unwrap();
            }
        }
        let mut rest = stream(&model, false);
        rest.restore(folder.path()).unwrap();
        for rows in &seen[4..] {
            let again = rest.next_batch().unwrap().remove(0);
            assert!(again.to_data().iter::<f32>().eq(rows.iter().copied()));
        }
        // A window's blocks do not come in the corpus's order, and no block twice.
        let mut third = stream(&model, true);
        let mut documents = vec![];
        for _ in 0..3 {
            third.next_batch().unwrap();
            let blocks = &third.sequences().unwrap().blocks;
            documents.extend(
                blocks
                    .iter()
                    .map(|b| (b.segments[0].document, b.segments[0].offset)),
            );
        }
        let mut sorted = documents.clone();
        sorted.sort_unstable();
        assert!(sorted != documents);
        sorted.dedup();
        assert_eq!(sorted.len(), 6);
    }

    #[test]
    fn a_batch_is_a_whole_number_of_blocks() {
        let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
        let good = stream(&model, false);
        let config = StreamConfig {
            batch_tokens: 65,
            ..good.config.clone()
        };
        let error = SequenceStream::unfilled(good.blocks, config).err().unwrap();
        assert!(
            error
                .to_string()
                .contains("65 tokens is no whole number of blocks of 32")
        );
    }
}
