//! Batches of a model's activations on a text, and of a matrix of activations.

use crate::buffer::ShuffleBuffer;
use crate::exclusion::Candidate;
use crate::harvest::harvest_all;
use crate::state_files::{read_json, write_json};
use crate::{
    ActivationsError, BatchSource, BlockStream, Excluded, Exclusion, Normalization,
    NormalizationKind, OtherModel, TokenBlock,
};
use burn::tensor::{Device, Tensor, TensorData};
use lapidary_io::tensors::TensorWriter;
use lapidary_model::{HookPoint, TensorFile};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How an [`ActivationStream`] harvests and shuffles.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Which activations; no point twice.
    pub hook_points: Vec<HookPoint>,
    /// Tokens a batch.
    pub batch_tokens: usize,
    /// Tokens that the shuffle buffer holds; at least twice a batch.
    pub buffer_tokens: usize,
    /// Token blocks that go through the model at once.
    pub harvest_blocks: usize,
    /// Which tokens are left out.
    pub exclude: Exclusion,
    /// What to do to the activations.
    pub normalization: NormalizationKind,
    /// Seeds the shuffling.
    pub seed: u64,
    /// A second model on the same tokens, whose activations come behind.
    pub other: Option<OtherModel>,
}

/// Activations of a model over a corpus, harvested as they are needed and shuffled through a
/// buffer. At the corpus's end it starts again.
pub struct ActivationStream {
    blocks: BlockStream,
    config: StreamConfig,
    buffer: ShuffleBuffer,
    rng: ChaCha8Rng,
    /// One a hook point.
    normalizations: Vec<Normalization>,
    /// One a hook point by the first blocks, with `exclude.norm_multiple`.
    norm_limits: Vec<f32>,
    /// Blocks read in this pass over the corpus, and passes finished.
    read: u64,
    passes: u64,
    device: Device,
}

/// What a stream writes beside its rows.
#[derive(Serialize, Deserialize)]
struct StreamState {
    corpus: String,
    context: usize,
    hook_points: Vec<String>,
    read: u64,
    /// [`BlockStream::digest`] after `read` blocks.
    digest: u64,
    passes: u64,
    places: Vec<u32>,
    used: usize,
    rng: ChaCha8Rng,
    normalizations: Vec<Normalization>,
    norm_limits: Vec<f32>,
}

impl ActivationStream {
    /// Fills the buffer once and estimates the normalization from it.
    ///
    /// # Errors
    /// When the corpus holds too little text for one batch, or cannot be read; when the buffer does
    /// not fit into memory.
    pub fn new(blocks: BlockStream, config: StreamConfig) -> Result<Self, ActivationsError> {
        let mut stream = Self::unfilled(blocks, config)?;
        stream.fill()?;
        let (kind, buffer) = (stream.config.normalization, &stream.buffer);
        let estimate = |(end, d)| Normalization::estimate(kind, buffer.part(end), d);
        let widths = buffer.widths.iter().copied().enumerate();
        stream.normalizations = widths.map(estimate).collect::<Result<_, _>>()?;
        Ok(stream)
    }

    /// A stream for [`BatchSource::restore`]: nothing is harvested and no normalization known until
    /// then.
    ///
    /// # Errors
    /// When the buffer does not fit into memory.
    pub fn unfilled(blocks: BlockStream, config: StreamConfig) -> Result<Self, ActivationsError> {
        config.exclude.check(blocks.config().context)?;
        let model = blocks.model();
        let widths = config.hook_points.iter().map(|hook| model.width(*hook));
        let mut widths: Vec<usize> = widths.collect::<Result<_, _>>()?;
        if let Some(other) = &config.other {
            other.check_tokens(model)?;
            for hook in &other.hook_points {
                widths.push(other.model.width(*hook)?);
            }
        }
        let device = model.device().clone();
        // Filling stops when less than one block fits: what is then in use must still make a batch.
        let least = config
            .batch_tokens
            .saturating_add(blocks.config().context.max(config.batch_tokens));
        let capacity = config.buffer_tokens.max(least);
        let normalizations = widths.iter().copied().map(Normalization::identity);
        let normalizations = normalizations.collect();
        let d_in = widths.iter().sum();
        let buffer = ShuffleBuffer::new(capacity, widths).ok_or(ActivationsError::Buffer {
            tokens: capacity,
            d_in,
        })?;
        Ok(Self {
            buffer,
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            normalizations,
            norm_limits: vec![],
            read: 0,
            passes: 0,
            device,
            blocks,
            config,
        })
    }

    fn hook_names(&self) -> Vec<String> {
        let hooks = self.config.hook_points.iter().map(ToString::to_string);
        let others = self.config.other.iter().flat_map(OtherModel::names);
        hooks.chain(others).collect()
    }

    /// Harvests until less than one helping fits.
    fn fill(&mut self) -> Result<(), ActivationsError> {
        let context = self.blocks.config().context;
        let (passes, used) = (self.passes, self.buffer.used);
        loop {
            if self.passes > passes + 1 && self.buffer.used == used {
                let path = self.blocks.config().corpus.clone().into();
                let problem = "holds nothing but tokens that are left out".into();
                return Err(ActivationsError::Corpus { path, problem });
            }
            let helping = self.config.harvest_blocks.min(self.buffer.free() / context);
            if helping == 0 {
                return Ok(());
            }
            let blocks = self.next_blocks(helping)?;
            let hooks = &self.config.hook_points;
            let mut values = harvest_all(self.blocks.model(), hooks, &blocks)?;
            if let Some(other) = &self.config.other {
                values.extend(harvest_all(&other.model, &other.hook_points, &blocks)?);
            }
            let mut parts: Vec<Vec<f32>> = Vec::with_capacity(values.len());
            for (hook, rows) in self.hook_names().into_iter().zip(values) {
                let rows: Vec<f32> = rows.into_data().try_to_vec().expect("activations are f32");
                let count = rows.iter().filter(|v| !v.is_finite()).count();
                if count > 0 {
                    return Err(ActivationsError::NotFinite { hook, count });
                }
                parts.push(rows);
            }
            let rule = self.config.exclude;
            let candidates = Candidate::all(&self.blocks, &blocks);
            if self.norm_limits.is_empty() {
                let ends = parts.iter().zip(&self.buffer.widths);
                let limit = |(rows, d): (&Vec<f32>, &usize)| rule.norm_limit(rows, *d, &candidates);
                self.norm_limits = ends.filter_map(limit).collect();
            }
            for (i, candidate) in candidates.iter().enumerate() {
                let ends = parts.iter().zip(&self.buffer.widths);
                let row: Vec<&[f32]> = ends.map(|(rows, d)| &rows[i * d..][..*d]).collect();
                let limits = &self.norm_limits;
                if rule.keeps(*candidate, &row, limits, &mut Excluded::default()) {
                    self.buffer.push(&row);
                }
            }
        }
    }

    fn next_blocks(&mut self, n: usize) -> Result<Vec<TokenBlock>, ActivationsError> {
        let mut blocks = Vec::with_capacity(n);
        while blocks.len() < n {
            let block = self
                .blocks
                .next_in_passes(&mut self.read, &mut self.passes)?;
            blocks.push(block);
        }
        Ok(blocks)
    }
}

impl BatchSource for ActivationStream {
    fn normalizations(&self) -> &[Normalization] {
        &self.normalizations
    }

    fn passes(&self) -> u64 {
        self.passes
    }

    fn next_batch(&mut self) -> Result<Vec<Tensor<2>>, ActivationsError> {
        if self.buffer.used < (self.buffer.places.len() / 2).max(self.config.batch_tokens) {
            self.fill()?;
        }
        let parts = self.buffer.take(self.config.batch_tokens, &mut self.rng);
        let tensor = |(mut rows, normalization): (Vec<f32>, &Normalization)| {
            normalization.apply(&mut rows);
            let shape = [self.config.batch_tokens, normalization.mean.len()];
            Tensor::from_data(TensorData::new(rows, shape), &self.device)
        };
        Ok(parts
            .into_iter()
            .zip(&self.normalizations)
            .map(tensor)
            .collect())
    }

    fn save(&self, dir: &Path) -> Result<(), ActivationsError> {
        let state = StreamState {
            corpus: self.blocks.config().corpus.clone(),
            context: self.blocks.config().context,
            hook_points: self.hook_names(),
            read: self.read,
            digest: self.blocks.digest(),
            passes: self.passes,
            places: self.buffer.places.clone(),
            used: self.buffer.used,
            rng: self.rng.clone(),
            normalizations: self.normalizations.clone(),
            norm_limits: self.norm_limits.clone(),
        };
        write_json(&dir.join("stream.json"), &state)?;
        write_rows(
            &dir.join("buffer.safetensors"),
            &self.buffer.rows,
            self.buffer.d(),
        )
    }

    fn restore(&mut self, dir: &Path) -> Result<(), ActivationsError> {
        let path = dir.join("stream.json");
        let state: StreamState = read_json(&path)?;
        let blocks = self.blocks.config();
        let here = (
            blocks.corpus.as_str(),
            blocks.context,
            self.hook_names(),
            self.buffer.places.len(),
        );
        let there = (
            state.corpus.as_str(),
            state.context,
            state.hook_points.clone(),
            state.places.len(),
        );
        if here != there {
            let problem = format!(
                "was written by a run on corpus, context, hook points, buffer = {there:?}; this run has {here:?}"
            );
            return Err(ActivationsError::Checkpoint { path, problem });
        }
        let capacity = state.places.len();
        let mut seen = vec![false; capacity];
        let once = state.places.iter().all(|&p| {
            seen.get_mut(p as usize)
                .is_some_and(|s| !std::mem::replace(s, true))
        });
        if !once {
            return Err(ActivationsError::damaged_checkpoint(
                path,
                "order of the buffer's rows",
                "a row that is repeated or does not exist",
                &format!("each of {capacity} rows once"),
            ));
        }
        if state.used > capacity {
            return Err(ActivationsError::damaged_checkpoint(
                path,
                "rows used of the buffer",
                state.used,
                &format!("at most {capacity}"),
            ));
        }
        let widths = state.normalizations.iter().map(|n| n.mean.len());
        let widths: Vec<usize> = widths.collect();
        if widths != self.buffer.widths {
            return Err(ActivationsError::damaged_checkpoint(
                path,
                "widths of the normalizations",
                format_args!("{widths:?}"),
                &format!("{:?}", self.buffer.widths),
            ));
        }
        self.blocks.rewind();
        let skipped = self.blocks.skip_blocks(state.read)?;
        if skipped != state.read || self.blocks.digest() != state.digest {
            let problem = format!(
                "the run had read {} blocks of corpus {}, whose text or tokenizer has changed since",
                state.read, state.corpus
            );
            return Err(ActivationsError::Checkpoint { path, problem });
        }
        self.buffer.rows = vec![]; // so that memory holds the rows once
        self.buffer.rows = read_rows(&dir.join("buffer.safetensors"), capacity, self.buffer.d())?;
        self.buffer.places = state.places;
        self.buffer.used = state.used;
        self.rng = state.rng;
        self.normalizations = state.normalizations;
        self.norm_limits = state.norm_limits;
        self.read = state.read;
        self.passes = state.passes;
        Ok(())
    }
}

/// Activations that are already there: every pass hands each row out once, shuffled.
pub struct ActivationMatrix {
    buffer: ShuffleBuffer,
    normalizations: Vec<Normalization>,
    batch: usize,
    rng: ChaCha8Rng,
    device: Device,
}

#[derive(Serialize, Deserialize)]
struct MatrixState {
    places: Vec<u32>,
    used: usize,
    rng: ChaCha8Rng,
}

impl ActivationMatrix {
    /// Batches of `batch` of the rows `[n, d_in]`, unnormalized.
    ///
    /// # Errors
    /// When there are fewer rows than one batch takes.
    pub fn new(rows: Tensor<2>, batch: usize, seed: u64) -> Result<Self, ActivationsError> {
        Self::aligned(vec![rows], batch, seed)
    }

    /// The same at several hook points, `[n, width]` each, row by row of one token.
    ///
    /// # Errors
    /// When there are no hook points or fewer rows than one batch takes, or not as many at all of
    /// them.
    pub fn aligned(
        parts: Vec<Tensor<2>>,
        batch: usize,
        seed: u64,
    ) -> Result<Self, ActivationsError> {
        let wrong = |problem| ActivationsError::Corpus {
            path: "activations".into(),
            problem,
        };
        let (Some(n), Some(device)) = (
            parts.first().map(|rows| rows.dims()[0]),
            parts.first().map(Tensor::device),
        ) else {
            return Err(wrong("are of no hook point".into()));
        };
        if let Some(other) = parts.iter().find(|rows| rows.dims()[0] != n) {
            let problem = format!("hold {n} rows and {} rows", other.dims()[0]);
            return Err(wrong(problem));
        }
        if batch == 0 || n < batch {
            return Err(wrong(format!("holds {n} rows, a batch takes {batch}")));
        }
        let widths: Vec<usize> = parts.iter().map(|rows| rows.dims()[1]).collect();
        // One hook point's rows already lie as the buffer has them.
        let rows = Tensor::cat(parts, 1);
        let rows: Vec<f32> = rows.into_data().try_to_vec().expect("activations are f32");
        let normalizations = widths.iter().copied().map(Normalization::identity);
        Ok(Self {
            normalizations: normalizations.collect(),
            buffer: ShuffleBuffer {
                rows,
                widths,
                places: (0..n as u32).collect(),
                used: n,
            },
            batch,
            rng: ChaCha8Rng::seed_from_u64(seed),
            device,
        })
    }
}

impl BatchSource for ActivationMatrix {
    fn normalizations(&self) -> &[Normalization] {
        &self.normalizations
    }

    fn next_batch(&mut self) -> Result<Vec<Tensor<2>>, ActivationsError> {
        if self.buffer.used < self.batch {
            self.buffer.used = self.buffer.places.len();
        }
        let parts = self.buffer.take(self.batch, &mut self.rng);
        let tensor = |(rows, width): (Vec<f32>, &usize)| {
            Tensor::from_data(TensorData::new(rows, [self.batch, *width]), &self.device)
        };
        Ok(parts
            .into_iter()
            .zip(&self.buffer.widths)
            .map(tensor)
            .collect())
    }

    fn save(&self, dir: &Path) -> Result<(), ActivationsError> {
        let state = MatrixState {
            places: self.buffer.places.clone(),
            used: self.buffer.used,
            rng: self.rng.clone(),
        };
        write_json(&dir.join("stream.json"), &state)
    }

    fn restore(&mut self, dir: &Path) -> Result<(), ActivationsError> {
        let path = dir.join("stream.json");
        let state: MatrixState = read_json(&path)?;
        let fits =
            state.places.len() == self.buffer.places.len() && state.used <= state.places.len();
        if !fits
            || state
                .places
                .iter()
                .any(|p| *p as usize >= self.buffer.places.len())
        {
            let problem = format!(
                "holds {} places, this source has {}",
                state.places.len(),
                self.buffer.places.len()
            );
            return Err(ActivationsError::Checkpoint { path, problem });
        }
        self.buffer.places = state.places;
        self.buffer.used = state.used;
        self.rng = state.rng;
        Ok(())
    }
}

fn write_rows(path: &Path, rows: &[f32], d: usize) -> Result<(), ActivationsError> {
    let mut file = TensorWriter::default();
    file.borrowed_f32("rows", &[rows.len() / d, d], rows);
    Ok(file.write_atomically(path, None)?)
}

fn read_rows(path: &Path, n: usize, d: usize) -> Result<Vec<f32>, ActivationsError> {
    let (shape, rows) = TensorFile::open(path)?.read("rows")?;
    if shape != [n, d] {
        let problem = format!("`rows` has shape {shape:?}, expected [{n}, {d}]");
        return Err(ActivationsError::Checkpoint {
            path: path.into(),
            problem,
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockConfig, HarvestConfig, Store, StoreDtype, harvest_store};
    use lapidary_model::LanguageModel;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    const HOOK: &str = "blocks.1.hook_resid_post";

    fn blocks(model: &Arc<LanguageModel>) -> BlockStream {
        let config = BlockConfig {
            corpus: "embedded:heldout".into(),
            text_field: "text".into(),
            context: 32,
            prepend_bos: true,
            attend_across_documents: false,
        };
        BlockStream::new(model.clone(), &config).unwrap()
    }

    #[test]
    fn a_stream_leaves_out_what_a_store_does() {
        let folder = tempfile::tempdir().unwrap();
        let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
        let hook = HOOK.parse().unwrap();
        let exclude = Exclusion {
            special_tokens: true,
            first_positions: 3,
            norm_multiple: Some(1.1),
        };
        let config = HarvestConfig {
            hook_points: vec![hook],
            dtype: StoreDtype::F32,
            tokens: 3000,
            shard_tokens: 3000,
            batch_blocks: 4,
            exclude,
        };
        let manifest = harvest_store(blocks(&model), &config, folder.path(), &mut |_| {}).unwrap();
        let excluded = manifest.excluded;
        assert!(
            excluded.first_positions > 0 && excluded.norm > 0,
            "{excluded:?}"
        );
        let store = Store::open(folder.path()).unwrap();
        let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let rows = store.read(HOOK, 0..3000).unwrap();
        let d = rows.len() / 3000;
        let stored: BTreeSet<Vec<u32>> = rows.chunks_exact(d).map(bits).collect();
        let all_stored = |exclude| {
            let config = StreamConfig {
                hook_points: vec![hook],
                batch_tokens: 1000,
                buffer_tokens: 2000,
                harvest_blocks: 4,
                exclude,
                normalization: NormalizationKind::None,
                seed: 0,
                other: None,
            };
            let batch = ActivationStream::new(blocks(&model), config).unwrap();
            let batch = { batch }.next_batch().unwrap().remove(0).into_data();
            let batch: Vec<f32> = batch.iter::<f32>().collect();
            batch.chunks_exact(d).all(|row| stored.contains(&bits(row)))
        };
        assert!(all_stored(exclude));
        for looser in [
            Exclusion {
                first_positions: 0,
                ..exclude
            },
            Exclusion {
                norm_multiple: None,
                ..exclude
            },
        ] {
            assert!(!all_stored(looser), "{looser:?}");
        }
    }
}
