//! Token blocks through the model to activations.

use crate::{ActivationsError, TokenBlock};
use burn::tensor::Tensor;
use lapidary_model::{HookPoint, HookedRun, LanguageModel};

/// The activations at `hook` of every token, `[blocks * context, width]`, in the order of the
/// tokens.
///
/// # Errors
/// When the model lacks the hook point, or a block does not fit it.
pub fn harvest(
    model: &LanguageModel,
    hook: HookPoint,
    blocks: &[TokenBlock],
) -> Result<Tensor<2>, ActivationsError> {
    Ok(harvest_all(model, &[hook], blocks)?.remove(0))
}

/// The same at several hook points by one forward pass, in the order of `hooks`.
///
/// # Errors
/// As [`harvest`].
pub fn harvest_all(
    model: &LanguageModel,
    hooks: &[HookPoint],
    blocks: &[TokenBlock],
) -> Result<Vec<Tensor<2>>, ActivationsError> {
    let tokens: Vec<&[u32]> = blocks.iter().map(|block| block.tokens.as_slice()).collect();
    let run = HookedRun {
        capture: hooks,
        segments: TokenBlock::attention(blocks, model.device()),
        ..Default::default()
    };
    let output = model.run(model.tokens(&tokens)?, &run)?;
    let values = hooks.iter().map(|hook| {
        let value = output.captured.get(hook).expect("it was asked for").clone();
        let [batch, pos, width] = value.dims();
        value.reshape([batch * pos, width])
    });
    Ok(values.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BlockConfig, BlockStream, Exclusion, HarvestConfig, Store, StoreDtype, harvest_store,
    };
    use burn::tensor::Device;
    use std::path::Path;
    use std::sync::Arc;

    const HOOK: &str = "blocks.2.hook_resid_post";

    fn stream(
        model: &Arc<LanguageModel>,
        corpus: &Path,
        attend_across_documents: bool,
    ) -> BlockStream {
        let config = BlockConfig {
            corpus: corpus.to_str().unwrap().into(),
            text_field: "text".into(),
            context: 64,
            prepend_bos: true,
            attend_across_documents,
        };
        BlockStream::new(model.clone(), &config).unwrap()
    }

    /// The largest difference between the rows of blocks and what the model makes of each sequence
    /// by itself.
    fn from_alone(model: &LanguageModel, blocks: &[TokenBlock], rows: &[f32], d: usize) -> f32 {
        let mut largest = 0.0_f32;
        for (block, rows) in blocks.iter().zip(rows.chunks_exact(64 * d)) {
            let starts: Vec<usize> = block.segments.iter().map(|s| s.start).collect();
            for (i, start) in starts.iter().enumerate() {
                let end = starts.get(i + 1).copied().unwrap_or(64);
                let run = HookedRun {
                    capture: &[HOOK.parse().unwrap()],
                    ..Default::default()
                };
                let tokens = model.tokens(&[&block.tokens[*start..end]]).unwrap();
                let alone = model.run(tokens, &run).unwrap().captured;
                let alone = alone.into_values().next().unwrap().into_data();
                for (a, b) in alone.iter::<f32>().zip(&rows[start * d..end * d]) {
                    largest = largest.max((a - b).abs());
                }
            }
        }
        largest
    }

    #[test]
    fn a_document_in_a_packed_block_has_the_activations_of_the_document_alone() {
        let folder = tempfile::tempdir().unwrap();
        let corpus = folder.path().join("corpus.jsonl");
        let text = "We, the people of the United States, in order to form a more perfect Union,";
        let lines = (1..40).map(|n| {
            let text = text[..n % 7 * 10 + 6].repeat(1 + n % 3);
            serde_json::json!({ "text": text }).to_string()
        });
        std::fs::write(&corpus, lines.collect::<Vec<_>>().join("\n")).unwrap();
        let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
        let hook = HOOK.parse().unwrap();
        let d = model.width(hook).unwrap();
        for across in [false, true] {
            let blocks: Vec<TokenBlock> = stream(&model, &corpus, across)
                .map(Result::unwrap)
                .collect();
            assert!(blocks.iter().filter(|b| b.segments.len() > 1).count() > 5);
            let streamed = harvest(&model, hook, &blocks).unwrap().into_data();
            let streamed: Vec<f32> = streamed.iter::<f32>().collect();

            let store = folder.path().join(format!("store-{across}"));
            let config = HarvestConfig {
                hook_points: vec![hook],
                dtype: StoreDtype::F32,
                tokens: 100_000,
                shard_tokens: 300,
                batch_blocks: 3,
                exclude: Exclusion {
                    special_tokens: false,
                    first_positions: 0,
                    norm_multiple: None,
                },
            };
            let blocks_to_store = stream(&model, &corpus, across);
            let manifest = harvest_store(blocks_to_store, &config, &store, &mut |_| {}).unwrap();
            assert_eq!(manifest.settings.attend_across_documents, across);
            assert_eq!(manifest.rows as usize, 64 * blocks.len());
            let stored = Store::open(&store).unwrap().read(HOOK, 0..manifest.rows);
            for rows in [streamed, stored.unwrap()] {
                let largest = rows.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                let away = from_alone(&model, &blocks, &rows, d) / largest;
                match across {
                    false => assert!(away < 1e-5, "{away}"),
                    true => assert!(away > 0.01, "{away}"),
                }
            }
        }
    }
}
