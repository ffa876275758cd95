//! Attention of a frozen model, whole and in parts.

use super::*;
use burn::tensor::{Device, Distribution};

fn difference(a: Tensor<3>, b: Tensor<3>) -> f32 {
    (a - b).abs().max().into_scalar::<f32>()
}

/// Blocks of sources give what all sources at once give, with windows and soft caps too, and a
/// gradient of the first positions is that of all with zeros after it.
#[test]
fn blocks_and_first_positions_change_nothing() {
    for name in ["gpt2", "llama-gqa", "gemma2", "mistral", "qwen3"] {
        let folder = format!(
            "{}/../../tests/fixtures/models/{name}",
            env!("CARGO_MANIFEST_DIR")
        );
        let model = LanguageModel::load(&folder, &Device::flex()).unwrap();
        let d = model.config().d_model;
        let tokens: Vec<u32> = (0..11).map(|i| 3 + 5 * i % 31).collect();
        let frozen =
            |kept, length| FrozenModel::new(&model, &tokens, &[], Blocks { kept, length }).unwrap();
        let whole = frozen(usize::MAX, 512);
        let blocks = [frozen(0, 3), frozen(usize::MAX, 4), frozen(0, 512)];
        assert!(whole.layers.iter().all(|layer| layer.pattern.len() == 1));
        let first = Tensor::random([7, 2, d], Distribution::Default, model.device());
        let rest = Tensor::zeros([4, 2, d], model.device());
        let all = Tensor::cat(vec![first.clone(), rest], 0);
        for l in 0..model.config().n_layers() {
            let expected = whole.through_attention(l, all.clone());
            for blocks in &blocks {
                let found = blocks.through_attention(l, all.clone());
                assert!(difference(expected.clone(), found) < 1e-5, "{name} {l}");
            }
            let expected = expected.narrow(0, 0, 7);
            // Apart for each head and position, of the gradients at the last position.
            let at_last = first.clone().narrow(0, 6, 1);
            let before = Tensor::zeros([6, 2, d], model.device());
            let only = Tensor::cat(vec![before, at_last.clone()], 0);
            let together = whole.through_attention(l, only).narrow(1, 0, 1);
            let gradient = at_last.narrow(1, 0, 1).reshape([d]);
            let heads = whole.through_each_head(l, first.clone().narrow(1, 0, 1));
            let first_alone = expected.clone().narrow(1, 0, 1);
            assert!(
                difference(first_alone, heads.sum_dim(1)) < 1e-5,
                "{name} {l}"
            );
            let apart = whole.through_heads(l, gradient, 6).sum_dim(0);
            let apart = apart.reshape([7, 1, d]);
            assert!(difference(together, apart) < 1e-5, "{name} {l}");
            for frozen in blocks.iter().chain([&whole]) {
                let found = frozen.through_attention(l, first.clone());
                assert!(difference(expected.clone(), found) < 1e-5, "{name} {l}");
            }
        }
    }
}
/// Queries and keys are what their directions and constants make of the residual stream.
#[test]
fn score_sides_give_the_queries_and_keys_of_the_prompt() {
    for name in ["gpt2", "llama-gqa", "gemma2", "qwen3", "neox", "gemma3"] {
        let folder = format!(
            "{}/../../tests/fixtures/models/{name}",
            env!("CARGO_MANIFEST_DIR")
        );
        let model = LanguageModel::load(&folder, &Device::flex()).unwrap();
        let c = model.config();
        let tokens: Vec<u32> = (0..9).map(|i| 3 + 5 * i % 31).collect();
        for l in 0..c.n_layers() {
            let at = HookPoint::Block(l, BlockHook::ResidPre);
            let mut frozen = model.frozen(&tokens, &[at]).unwrap();
            let stream = frozen.take(at).unwrap();
            for head in 0..c.n_heads {
                let positions = [7, 4];
                let sides = frozen.score_sides(l, head, positions);
                let kv = head / (c.n_heads / c.n_kv_heads);
                let own = [
                    (&frozen.layers[l].queries, head),
                    (&frozen.layers[l].keys, kv),
                ];
                for ((side, position), (all, head)) in sides.into_iter().zip(positions).zip(own) {
                    let x = stream.clone().narrow(0, position, 1).transpose();
                    let constants: Vec<f32> = side.constants.iter().map(|c| *c as f32).collect();
                    let constants = TensorData::new(constants, [c.d_head, 1]);
                    let constants = Tensor::<2>::from_data(constants, &x.device());
                    let found = side.directions.matmul(x) + constants;
                    let expected = all.clone().narrow(0, head, 1).narrow(1, position, 1);
                    let expected = expected.reshape([c.d_head, 1, 1]);
                    let found = found.reshape([c.d_head, 1, 1]);
                    assert!(difference(expected, found) < 1e-4, "{name} {l} {head}");
                }
            }
        }
    }
}
