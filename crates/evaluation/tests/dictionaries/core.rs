//! Evaluation on a real (small, random) transformer whose logits `transformers` computed:
//! dictionaries whose figures are known in advance.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use lapidary_activations::{BlockConfig, BlockStream, Segment, TokenBlock, harvest};
use lapidary_coder::{AnyCoder, Architecture, Dictionary, Provenance, Sites, SparseCoder, Weights};
use lapidary_evaluation::probing::{Reading, Rows, represent};
use lapidary_evaluation::{Hooks, Metrics, evaluate};
use lapidary_model::{HookPoint, LanguageModel};
use safetensors::SafeTensors;

const D: usize = 48;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/gpt2")
}

/// The fixture, whose tokens are random, as a model without beginnings and ends of sequences: every
/// token counts.
fn model() -> LanguageModel {
    let folder = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(fixture().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        config[key] = serde_json::Value::Null;
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let weights = "model.safetensors";
    std::fs::copy(fixture().join(weights), folder.path().join(weights)).unwrap();
    let model = LanguageModel::load(&folder.path().display().to_string(), &Device::flex()).unwrap();
    assert!(model.special_tokens().is_empty());
    model
}

/// One latent for each direction and its opposite: reconstructs `factor` times the activation.
fn mirror(factor: f32) -> Dictionary {
    let device = Device::flex();
    let eye = Tensor::<2>::eye(D, &device);
    let both = Tensor::cat(vec![eye.clone(), eye * -1.0], 0); // [2 d, d]
    Dictionary {
        coder: AnyCoder::Sparse(SparseCoder {
            architecture: Architecture::Standard,
            apply_b_dec_to_input: true,
            weights: Weights::new([
                ("w_enc", both.clone().into()),
                ("b_enc", Tensor::<1>::zeros([2 * D], &device).into()),
                ("w_dec", (both * factor).into()),
                ("b_dec", Tensor::<1>::zeros([D], &device).into()),
            ]),
        }),
        provenance: Provenance::default(),
    }
}

/// The fixture's tokens and logits.
fn expected() -> (Vec<Vec<u32>>, Vec<f32>, usize) {
    let bytes = std::fs::read(fixture().join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = file.tensor("tokens").unwrap();
    let pos = tokens.shape()[1];
    let ids: Vec<u32> = tokens
        .data()
        .as_chunks::<8>()
        .0
        .iter()
        .map(|b| i64::from_le_bytes(*b) as u32)
        .collect();
    let logits = file.tensor("logits").unwrap();
    let d_vocab = logits.shape()[2];
    let logits = logits
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    (
        ids.chunks(pos).map(<[u32]>::to_vec).collect(),
        logits,
        d_vocab,
    )
}

fn run(dictionary: &Dictionary) -> Metrics {
    let model = model();
    let blocks: Vec<TokenBlock> = expected()
        .0
        .into_iter()
        .map(|tokens| TokenBlock {
            tokens,
            segments: Vec::new(),
            attend_across_documents: false,
        })
        .collect();
    let hook: HookPoint = "blocks.0.hook_resid_post".parse().unwrap();
    let mut heard = 0;
    let metrics = evaluate(&model, dictionary, hook, &blocks, &mut |done| heard = done).unwrap();
    assert_eq!(heard, blocks.len());
    metrics.metrics
}

#[test]
fn a_perfect_dictionary_loses_nothing() {
    let m = run(&mirror(1.0));
    assert!(
        m.fvu.abs() < 1e-9 && (m.explained_variance - 1.0).abs() < 1e-9,
        "{m:?}"
    );
    assert!((m.explained_variance_legacy - 1.0).abs() < 1e-9);
    assert!(
        (m.ce_loss_score - 1.0).abs() < 1e-4 && (m.kl_div_score - 1.0).abs() < 1e-4,
        "{m:?}"
    );
    assert!((m.cossim - 1.0).abs() < 1e-6 && (m.l2_ratio - 1.0).abs() < 1e-6);
    assert!((m.relative_reconstruction_bias - 1.0).abs() < 1e-6);
    // Of each pair exactly one latent is active.
    assert!((m.l0 - D as f64).abs() < 1e-9, "{}", m.l0);
    assert!(m.frac_alive > 0.9);
    // Rows and their opposites: coherent as can be, but of a pair no token uses both.
    let decoder = m.decoder.as_ref().unwrap();
    assert!((decoder.coherence - 1.0).abs() < 1e-6 && (decoder.babel[63] - 1.0).abs() < 1e-6);
    assert!(decoder.co_selected.babel_max[0].abs() < 1e-6);
    assert!((decoder.mean_abs_cosine - 1.0 / (2 * D - 1) as f64).abs() < 1e-6);
    assert!(m.average_max_decoder_cosine_sim.abs() < 1e-6);
    let histogram = m.feature_density_histogram.as_ref().unwrap();
    assert_eq!(
        histogram.latents.iter().sum::<u64>() + histogram.never,
        2 * D as u64
    );
    assert!((m.mse_saebench * m.tokens as f64 - m.mse).abs() < 1e-9);

    // The model's own loss is what transformers' logits say.
    let (tokens, logits, v) = expected();
    let pos = tokens[0].len();
    let (mut sum, mut count) = (0.0f64, 0.0);
    for (b, row) in tokens.iter().enumerate() {
        for t in 0..pos - 1 {
            let l = &logits[(b * pos + t) * v..][..v];
            let z = l.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
            sum += z - f64::from(l[row[t + 1] as usize]);
            count += 1.0;
        }
    }
    assert!(
        (m.ce_loss_without_sae - sum / count).abs() < 1e-4,
        "{} {}",
        m.ce_loss_without_sae,
        sum / count
    );
}

#[test]
fn documents_packed_into_one_block_have_the_figures_of_each_alone() {
    let model = model();
    let hook: HookPoint = "blocks.0.hook_resid_post".parse().unwrap();
    let documents = expected().0;
    let pos = documents[0].len() / 2;
    let halves: Vec<&[u32]> = documents.iter().flat_map(|d| d.chunks_exact(pos)).collect();
    let block = |documents: &[&[u32]], across| TokenBlock {
        tokens: documents.concat(),
        segments: (0..documents.len())
            .map(|i| Segment {
                start: i * pos,
                bos: false,
                document: i as u32,
                offset: 0,
            })
            .collect(),
        attend_across_documents: across,
    };
    let figures = |blocks: &[TokenBlock]| {
        evaluate(&model, &mirror(0.5), hook, blocks, &mut |_| ())
            .unwrap()
            .metrics
    };
    let alone: Vec<TokenBlock> = halves.iter().map(|h| block(&[h], false)).collect();
    let packed = |across| {
        let pairs = halves.chunks_exact(2);
        figures(&pairs.map(|pair| block(pair, across)).collect::<Vec<_>>())
    };
    let (alone, apart, across) = (figures(&alone), packed(false), packed(true));
    for (a, b, c) in [
        (
            alone.ce_loss_without_sae,
            apart.ce_loss_without_sae,
            across.ce_loss_without_sae,
        ),
        (
            alone.ce_loss_with_sae,
            apart.ce_loss_with_sae,
            across.ce_loss_with_sae,
        ),
        (
            alone.kl_div_with_sae,
            apart.kl_div_with_sae,
            across.kl_div_with_sae,
        ),
        (alone.l1, apart.l1, across.l1),
    ] {
        assert!((a - b).abs() < 1e-5 * a.abs(), "{a} {b}");
        assert!((a - c).abs() > 1e-4 * a.abs(), "{a} {c}");
    }
}

/// What one block writes and the next reads is the same activation under two names.
#[test]
fn source_and_target_may_be_different_hook_points() {
    let model = model();
    let blocks: Vec<TokenBlock> = expected()
        .0
        .into_iter()
        .map(|tokens| TokenBlock {
            tokens,
            segments: Vec::new(),
            attend_across_documents: false,
        })
        .collect();
    let figures = |source: &str, target: &str| {
        let hooks = Hooks {
            sources: vec![source.parse().unwrap()],
            targets: vec![target.parse().unwrap()],
        };
        let found = evaluate(&model, &mirror(0.5), hooks, &blocks, &mut |_| ());
        found.unwrap().metrics
    };
    let (post, pre) = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_pre");
    let (same, other) = (figures(post, post), figures(post, pre));
    assert!((same.fvu - other.fvu).abs() < 1e-12 && (same.l0 - other.l0).abs() < 1e-12);
    assert!((same.ce_loss_with_sae - other.ce_loss_with_sae).abs() < 1e-9);
    assert!((same.ce_loss_with_ablation - other.ce_loss_with_ablation).abs() < 1e-9);
    // Half of what goes into a block is no good account of what comes out of it.
    let through = figures("blocks.0.hook_resid_pre", post);
    assert!((through.l2_norm_in - same.l2_norm_in).abs() < 1e-9);
    assert!((through.l2_norm_out - same.l2_norm_out).abs() > 1e-3);
    assert!(through.fvu > same.fvu + 1e-3 && through.ce_loss_with_sae != same.ce_loss_with_sae);
    assert!((through.ce_loss_with_ablation - same.ce_loss_with_ablation).abs() < 1e-9);
}

#[test]
fn a_dictionary_of_nothing_is_worth_the_ablation() {
    let m = run(&mirror(0.0));
    assert!(
        m.ce_loss_score.abs() < 1e-6 && m.kl_div_score.abs() < 1e-6,
        "{m:?}"
    );
    assert!((m.ce_loss_with_sae - m.ce_loss_with_ablation).abs() < 1e-9);
    assert!(m.l2_ratio.abs() < 1e-9);
    assert!(m.fvu >= 1.0);
}

#[test]
fn a_shrinking_dictionary_shows_as_bias() {
    let m = run(&mirror(0.5));
    assert!((m.relative_reconstruction_bias - 0.5).abs() < 1e-6);
    assert!((m.l2_ratio - 0.5).abs() < 1e-6 && (m.cossim - 1.0).abs() < 1e-6);
    assert!(m.kl_div_with_sae > 0.0 && m.kl_div_with_sae < m.kl_div_with_ablation);
    let line = serde_json::to_value(&m).unwrap();
    for key in [
        "fvu",
        "explained_variance",
        "explained_variance_legacy",
        "l0",
        "ce_loss_score",
        "kl_div_score",
        "frac_alive",
    ] {
        assert!(line[key].is_f64(), "{key}");
    }
}

#[test]
fn a_dictionary_of_another_width_is_refused() {
    let mut d = mirror(1.0);
    let narrow = Tensor::<2>::zeros([6, 7], &Device::flex());
    let mut coder = d.coder.as_sparse().unwrap().clone();
    coder.weights = coder.weights.with("w_dec", narrow);
    d.coder = coder.into();
    let model = model();
    let hook: HookPoint = "blocks.0.hook_resid_post".parse().unwrap();
    let block = |n| TokenBlock {
        tokens: vec![1; n],
        segments: Vec::new(),
        attend_across_documents: false,
    };
    let refused = |d: &Dictionary, blocks: &[TokenBlock]| {
        evaluate(&model, d, hook, blocks, &mut |_| ())
            .unwrap_err()
            .to_string()
    };
    let error = refused(&d, &[block(4)]);
    assert!(error.ends_with("found 48, expected 7"), "{error}");
    assert!(refused(&mirror(1.0), &[]).contains("no text"));
    assert!(refused(&mirror(1.0), &[block(4), block(5)]).contains("found 5, expected 4"));
}

/// Texts packed into one block are read as each would be in a run of its own.
#[test]
fn texts_of_different_lengths_are_represented_as_each_alone() {
    let model = model();
    let hook: HookPoint = "blocks.1.hook_resid_post".parse().unwrap();
    let tokens = expected().0.concat();
    let texts: Vec<(Vec<u32>, Reading)> = vec![
        (tokens[..5].to_vec(), Reading::Mean),
        (tokens[5..12].to_vec(), Reading::At(2)),
        (tokens[3..6].to_vec(), Reading::Mean),
        (tokens[..9].to_vec(), Reading::At(8)),
    ];
    let coder = mirror(1.0).coder;
    let mut heard = 0;
    let found = represent(&model, &coder, hook, &texts, 14, &mut |n| heard = n).unwrap();
    assert_eq!((heard, found.latents.len()), (4, 4));
    let special = model.special_tokens();
    for (i, (tokens, reading)) in texts.iter().enumerate() {
        let block = TokenBlock {
            tokens: tokens.clone(),
            segments: Vec::new(),
            attend_across_documents: false,
        };
        let x: Vec<f32> = harvest(&model, hook, &[block])
            .unwrap()
            .try_into_vec_as()
            .unwrap();
        let places: Vec<usize> = match reading {
            Reading::At(place) => vec![*place],
            Reading::Mean => (0..tokens.len())
                .filter(|p| !special.contains(&tokens[*p]))
                .collect(),
        };
        for j in 0..D {
            let mean = |of: &dyn Fn(f32) -> f32| {
                places.iter().map(|p| of(x[p * D + j])).sum::<f32>() / places.len() as f32
            };
            let entry = |rows: &Rows, column: usize| {
                rows.row(i)
                    .iter()
                    .find(|(c, _)| *c as usize == column)
                    .map_or(0.0, |(_, v)| *v)
            };
            assert!((entry(&found.activations, j) - mean(&|v| v)).abs() < 1e-4);
            assert!((entry(&found.latents, j) - mean(&|v| v.max(0.0))).abs() < 1e-4);
            assert!((entry(&found.latents, D + j) - mean(&|v| (-v).max(0.0))).abs() < 1e-4);
        }
    }
    let refused =
        |texts: &[(Vec<u32>, Reading)]| represent(&model, &coder, hook, texts, 4, &mut |_| ());
    assert!(
        refused(&texts)
            .unwrap_err()
            .to_string()
            .contains("found 5, expected 1 to 4")
    );
    assert!(refused(&[(vec![1], Reading::At(3))]).is_err());
}

/// What one layer leaves is what the next reads, so a skip connection that changes nothing is exact
/// between these points.
#[test]
fn a_reconstruction_is_spliced_in_where_the_transcoder_writes() {
    let device = Device::flex();
    let model = Arc::new(LanguageModel::load("embedded", &device).unwrap());
    let d = model.config().d_model;
    let blocks = BlockStream::new(
        model.clone(),
        &BlockConfig {
            corpus: "embedded:heldout".into(),
            text_field: "text".into(),
            context: 64,
            prepend_bos: true,
            attend_across_documents: false,
        },
    );
    let blocks: Vec<_> = blocks.unwrap().take(4).map(Result::unwrap).collect();
    let measured = |out: &str, factor: f32| {
        let w_skip = Tensor::<2>::eye(d, &device) * factor;
        let zeros = Tensor::<2>::zeros([2, d], &device);
        let dictionary = Dictionary {
            coder: AnyCoder::Sparse(SparseCoder {
                architecture: Architecture::Standard,
                apply_b_dec_to_input: false,
                weights: Weights::new([
                    ("w_enc", zeros.clone().into()),
                    ("b_enc", Tensor::<1>::zeros([2], &device).into()),
                    ("w_dec", zeros.into()),
                    ("b_dec", Tensor::<1>::zeros([d], &device).into()),
                    ("w_skip", w_skip.into()),
                ]),
            }),
            provenance: Provenance {
                sites: Sites::transcoder("blocks.1.hook_resid_post", out),
                ..Provenance::default()
            },
        };
        evaluate(
            &model,
            &dictionary,
            Hooks::of(&dictionary).unwrap(),
            &blocks,
            &mut |_| (),
        )
        .unwrap()
        .metrics
    };
    let exact = measured("blocks.2.hook_resid_pre", 1.0);
    assert!(exact.fvu < 1e-9 && exact.l0 == 0.0, "{exact:?}");
    assert!((exact.ce_loss_score - 1.0).abs() < 1e-4, "{exact:?}");
    let nothing = measured("blocks.2.hook_resid_pre", 0.0);
    assert!(
        nothing.ce_loss_with_sae > exact.ce_loss_with_sae + 1.0,
        "{nothing:?}"
    );
    // At another point the same values are wrong, and cost what the model loses there.
    let elsewhere = measured("blocks.2.hook_mlp_out", 1.0);
    assert!(
        elsewhere.fvu > 0.5 && elsewhere.ce_loss_with_sae > exact.ce_loss_with_sae + 0.01,
        "{elsewhere:?}"
    );
}
