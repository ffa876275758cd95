//! A corpus through a model into a store: one forward pass serves all hook points. Started again it
//! goes on from the last shard, and the finished store has the same bytes as one that was never
//! interrupted.

use super::manifest::{hexadecimal, wrong};
use super::settings::{StoreSettings, StoredHook};
use super::{RowPlace, StoreDtype, StoreManifest, StoreWriter};
use crate::exclusion::Candidate;
use crate::harvest::harvest_all;
use crate::{ActivationsError, BlockStream, Checksum, Exclusion, TokenBlock};
use burn::tensor::Tensor;
use lapidary_model::{HookPoint, LanguageModel};
use std::path::Path;

/// Blocks that are skipped between two reports.
const SKIPPED: u64 = 256;

/// What to harvest, beside the blocks.
#[derive(Debug, Clone)]
pub struct HarvestConfig {
    /// Where activations are taken.
    pub hook_points: Vec<HookPoint>,
    /// How numbers are stored.
    pub dtype: StoreDtype,
    /// Rows to hold in the end.
    pub tokens: u64,
    /// Rows a shard.
    pub shard_tokens: u64,
    /// Blocks that go through the model together.
    pub batch_blocks: usize,
    /// Which tokens are left out.
    pub exclude: Exclusion,
}

/// How far a harvest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HarvestProgress {
    /// Rows, those that the store held before included.
    pub rows: u64,
    /// Rows that the store held before.
    pub resumed: u64,
}

fn settings(
    blocks: &BlockStream,
    config: &HarvestConfig,
) -> Result<StoreSettings, ActivationsError> {
    let (model, from) = (blocks.model(), blocks.config());
    let tokenizer = model.tokenizer()?;
    let hook = |hook: &HookPoint| {
        Ok(StoredHook {
            name: hook.to_string(),
            d_in: model.width(*hook)?,
        })
    };
    Ok(StoreSettings {
        model: model.name().into(),
        model_digest: model_digest(model, &config.hook_points),
        tokenizer_digest: hexadecimal(Checksum::of(tokenizer.to_json()?.as_bytes())),
        corpus: from.corpus.clone(),
        text_field: from.text_field.clone(),
        context: from.context,
        prepend_bos: from.prepend_bos,
        attend_across_documents: from.attend_across_documents,
        bos_token: tokenizer.bos().filter(|_| from.prepend_bos),
        batch_blocks: config.batch_blocks,
        hook_points: config
            .hook_points
            .iter()
            .map(hook)
            .collect::<Result<_, ActivationsError>>()?,
        dtype: config.dtype,
        shard_tokens: config.shard_tokens,
        exclude: config.exclude,
    })
}

/// Tells models apart, by what values at these hook points depend on.
pub(crate) fn model_digest(model: &LanguageModel, hooks: &[HookPoint]) -> String {
    let mut sum = Checksum::default();
    model.sample_weights(hooks, &mut |bytes| sum.update(bytes));
    hexadecimal(sum.finish())
}

/// What stores of the first format version have in its place: of unembedding and final norm.
pub(crate) fn first_model_digest(model: &LanguageModel) -> String {
    let mut sum = Checksum::default();
    for tensor in [model.unembedding(), model.final_norm_weight().unsqueeze()] {
        sum.update(tensor.into_data().as_bytes());
    }
    hexadecimal(sum.finish())
}

/// Harvests into the store in `folder` until it holds `config.tokens` rows or the corpus ends. A
/// store that is there already is continued; one of other settings is refused.
///
/// # Errors
/// When the model lacks a hook point, the corpus cannot be read or has changed, the store was made
/// with other settings, or cannot be written.
pub fn harvest_store(
    mut blocks: BlockStream,
    config: &HarvestConfig,
    folder: &Path,
    on_progress: &mut dyn FnMut(HarvestProgress),
) -> Result<StoreManifest, ActivationsError> {
    config.exclude.check(blocks.config().context)?;
    let mut writer = StoreWriter::open(folder, settings(&blocks, config)?)?;
    let settings = writer.manifest().settings.clone();
    let resumed = writer.rows();
    let mut excluded = writer.manifest().excluded;
    blocks.rewind();
    let (mut done, mut skip) = (0, 0);
    if let Some(last) = writer.manifest().shards.last() {
        (done, skip) = (last.end.blocks, last.end.tokens as usize);
        let mut skipped = 0;
        while skipped < done {
            let n = blocks.skip_blocks(SKIPPED.min(done - skipped))?;
            if n == 0 {
                break;
            }
            skipped += n;
            // Nothing new yet, but something goes on.
            let rows = resumed;
            on_progress(HarvestProgress { rows, resumed });
        }
        let found = hexadecimal(blocks.digest());
        if skipped != done || found != last.end.digest {
            let expected = format!(
                "{} after {done} blocks: the text or the tokenizer has changed",
                last.end.digest
            );
            return Err(wrong(folder, "corpus digest", found, expected));
        }
    }
    let context = blocks.config().context;
    let mut ended = false;
    while writer.rows() < config.tokens {
        let before = blocks.digest();
        let batch: Vec<TokenBlock> = blocks
            .by_ref()
            .take(config.batch_blocks)
            .collect::<Result<_, _>>()?;
        let length = batch.len() * context;
        if batch.is_empty() {
            ended = true;
            break;
        }
        if skip > length {
            let expected = format!("at most {length}, the tokens of a batch");
            return Err(wrong(folder, "end.tokens", skip.to_string(), expected));
        }
        let after = (done + batch.len() as u64, 0, blocks.digest());
        let values = rows_of(blocks.model(), &config.hook_points, &batch)?;
        let row = |hook: usize, i: usize| {
            let d = settings.hook_points[hook].d_in;
            &values[hook][i * d..][..d]
        };
        let tokens: Vec<u32> = batch.iter().flat_map(|b| &b.tokens).copied().collect();
        let places: Vec<(u32, u32)> = batch.iter().flat_map(TokenBlock::places).collect();
        let candidates = Candidate::all(&blocks, &batch);
        let rule = settings.exclude;
        if rule.norm_multiple.is_some() && writer.manifest().norm_limits.is_empty() {
            let of_hooks = values.iter().zip(&settings.hook_points);
            let limit = |(rows, hook): (&Vec<f32>, &StoredHook)| {
                rule.norm_limit(rows, hook.d_in, &candidates)
            };
            let limits = of_hooks.filter_map(limit).collect();
            writer.set_norm_limits(limits);
        }
        let mut at = skip;
        while at < length && writer.rows() < config.tokens {
            let room = writer.room().min(config.tokens - writer.rows()) as usize;
            let mut part: Vec<RowPlace> = vec![];
            let mut flat: Vec<Vec<f32>> = vec![vec![]; values.len()];
            while at < length && part.len() < room {
                let rows: Vec<&[f32]> = (0..values.len()).map(|hook| row(hook, at)).collect();
                let limits = &writer.manifest().norm_limits;
                if rule.keeps(candidates[at], &rows, limits, &mut excluded) {
                    let (document, position) = places[at];
                    part.push(RowPlace {
                        token: tokens[at],
                        document,
                        position,
                    });
                    for (flat, row) in flat.iter_mut().zip(rows) {
                        flat.extend_from_slice(row);
                    }
                }
                at += 1;
            }
            let flat: Vec<&[f32]> = flat.iter().map(Vec::as_slice).collect();
            writer.push(&part, &flat)?;
            if writer.room() == 0 || writer.rows() == config.tokens {
                let (blocks, tokens, digest) = if at == length {
                    after
                } else {
                    (done, at as u64, before)
                };
                writer.close_shard(blocks, tokens, digest, excluded)?;
            }
        }
        (done, skip) = (after.0, 0);
        on_progress(HarvestProgress {
            rows: writer.rows(),
            resumed,
        });
    }
    writer.close_shard(done, 0, blocks.digest(), excluded)?;
    if ended || writer.rows() > resumed {
        writer.set_corpus_ended(ended)?;
    }
    Ok(writer.finish()?.clone())
}

/// The activations of blocks at every hook point, on the host.
fn rows_of(
    model: &LanguageModel,
    hooks: &[HookPoint],
    blocks: &[TokenBlock],
) -> Result<Vec<Vec<f32>>, ActivationsError> {
    let read = |(hook, value): (&HookPoint, Tensor<2>)| {
        let rows: Vec<f32> = value.into_data().try_to_vec().expect("activations are f32");
        match rows.iter().filter(|v| !v.is_finite()).count() {
            0 => Ok(rows),
            count => Err(ActivationsError::NotFinite {
                hook: hook.to_string(),
                count,
            }),
        }
    };
    hooks
        .iter()
        .zip(harvest_all(model, hooks, blocks)?)
        .map(read)
        .collect()
}
