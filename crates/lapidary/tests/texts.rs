//! What a run does once: it opens and tokenizes each text once, and one forward pass serves
//! evaluation and tables where they read the same blocks.

#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor};
use lapidary::activations::{BlockConfig, BlockStream, TokenBlock};
use lapidary::coder::Coder;
use lapidary::coder::{Architecture, Dictionary, Provenance, Sites, SparseCoder, Weights};
use lapidary::evaluation::{Evaluator, Hooks, evaluate};
use lapidary::features::{Collector, StatisticsConfig};
use lapidary::model::{HookPoint, LanguageModel};
use lapidary::{NamedRecipe, Progress, Silent, StageDisplay, TrainOptions, train};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const HOOK: &str = "blocks.1.hook_resid_post";

fn write_corpus(path: &Path, sentence: &str) {
    let line = |n: usize| {
        let text = format!("{} ", sentence.split_at(n % 7).1).repeat(1 + n % 4);
        serde_json::json!({ "text": text }).to_string() + "\n"
    };
    std::fs::write(path, (0..400).map(line).collect::<String>()).unwrap();
}

/// Takes each text away once it was opened.
struct Removes {
    training: PathBuf,
    held_out: PathBuf,
}

impl Progress for Removes {
    fn begin(&self, stage: &str, _length: u64, _lines: &[&str]) -> Box<dyn StageDisplay> {
        // The first coder was evaluated.
        if stage == "features" {
            let _ = std::fs::remove_file(&self.held_out);
        }
        Box::new(Silent)
    }

    fn say(&self, name: &str, _text: &str) {
        // The first batch was looked at.
        if name == "look" {
            let _ = std::fs::remove_file(&self.training);
        }
    }
}

/// A file that is open can be removed on Unix.
#[cfg(unix)]
#[test]
fn a_run_opens_each_of_its_texts_once() {
    let folder = tempfile::tempdir().unwrap();
    let [training, held_out] = ["training.jsonl", "held_out.jsonl"].map(|f| folder.path().join(f));
    write_corpus(
        &training,
        "The people of the United States have confided their trust to the Congress.",
    );
    write_corpus(
        &held_out,
        "Fellow citizens, we are met on a great occasion, and with the highest of hopes.",
    );
    let text = format!(
        "corpus.path = {training:?}\nevaluation.corpus = {held_out:?}\ncorpus.context = 32\n\
         coder.d_sae = 64\ncoder.k = 4\ntraining.tokens = 2048\ntraining.batch_tokens = 256\n\
         activations.buffer_tokens = 1024\nevaluation.tokens = 1024\nfeatures.tokens = 2048"
    );
    let recipe = |seed: u64| {
        let settings = vec![format!("seed={seed}"), "activations.seed=0".to_owned()];
        NamedRecipe::read(format!("seed-{seed}"), "recipe", &text, settings).unwrap()
    };
    let out = folder.path().join("out");
    let removes = Removes {
        training: training.clone(),
        held_out: held_out.clone(),
    };
    train(
        vec![recipe(1), recipe(2)],
        &out,
        true,
        TrainOptions::default(),
        &Device::flex(),
        &removes,
    )
    .unwrap();
    assert!(!training.exists() && !held_out.exists());
    for coder in ["seed-1", "seed-2"] {
        for file in ["metrics.json", "features/features.parquet", "report.html"] {
            assert!(out.join(coder).join(file).exists(), "{coder}/{file}");
        }
    }
}

fn blocks(model: &Arc<LanguageModel>, n: usize) -> Vec<TokenBlock> {
    let config = BlockConfig {
        corpus: "embedded:heldout".into(),
        text_field: "text".into(),
        context: 16,
        prepend_bos: true,
        attend_across_documents: false,
    };
    let blocks = BlockStream::new(model.clone(), &config).unwrap();
    blocks.take(n).map(Result::unwrap).collect()
}

fn dictionary(d: usize, sites: Sites) -> Dictionary {
    let device = Device::flex();
    let n = 2 * d;
    let rows: Vec<f32> = (0..n * d).map(|i| (i as f32 * 1.7).sin()).collect();
    let rows = Tensor::<1>::from_floats(rows.as_slice(), &device).reshape([n, d]);
    Dictionary {
        coder: SparseCoder {
            architecture: Architecture::Standard,
            apply_b_dec_to_input: true,
            weights: Weights::new([
                ("w_enc", rows.clone().into()),
                ("b_enc", Tensor::<1>::zeros([n], &device).into()),
                ("w_dec", rows.into()),
                ("b_dec", Tensor::<1>::zeros([d], &device).into()),
            ]),
        }
        .into(),
        provenance: Provenance {
            sites,
            ..Provenance::default()
        },
    }
}

#[test]
fn one_forward_pass_serves_evaluation_and_statistics_of_the_same_blocks() {
    let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
    let hook: HookPoint = HOOK.parse().unwrap();
    let dictionary = dictionary(model.width(hook).unwrap(), Sites::default());
    let text = blocks(&model, 60);
    let collector = |blocks| {
        let config = StatisticsConfig::new(dictionary.coder.d_sae());
        Collector::new(&model, &dictionary.coder, vec![hook], None, blocks, config).unwrap()
    };
    // Blocks to evaluate on, blocks of the statistics, and how many of these a pass of their own
    // has done after each of its batches.
    for (evaluated, observed, alone) in [
        (&text[..40], &text[..40], &[][..]),
        (&text[..20], &text[..40], &[32, 40]), // batches of 16: the second one is cut short
        (&text[..40], &text[..24], &[24]),
        (&text[40..], &text[..20], &[16, 20]),
    ] {
        let mut shared = collector(observed);
        let mut evaluator = Evaluator::new(&model, &dictionary, hook, evaluated).unwrap();
        while let Some(batch) = evaluator.next_batch().unwrap() {
            shared.take(&batch).unwrap();
        }
        let mut heard = vec![];
        let shared = shared.finish(&mut |done| heard.push(done)).unwrap();
        assert_eq!(heard, alone);
        assert_eq!(shared, collector(observed).finish(&mut |_| ()).unwrap());
        let found = evaluator.finish().unwrap().metrics;
        let expected = evaluate(&model, &dictionary, hook, evaluated, &mut |_| ()).unwrap();
        assert_eq!(format!("{found:?}"), format!("{:?}", expected.metrics));
    }
}

/// To capture a value inside attention or a norm, the model computes it by other operations, and
/// what comes later may have other bits.
#[test]
fn codes_are_not_shared_where_a_target_comes_before_what_is_read() {
    let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
    let text = blocks(&model, 4);
    let shares = |from: &str, to: &str| {
        let d = model.width(from.parse().unwrap()).unwrap();
        let dictionary = dictionary(d, Sites::transcoder(from, to));
        let hooks = Hooks::of(&dictionary).unwrap();
        let mut evaluator = Evaluator::new(&model, &dictionary, hooks, &text).unwrap();
        evaluator.next_batch().unwrap().unwrap().codes.is_some()
    };
    assert!(shares("blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"));
    assert!(!shares("blocks.1.hook_resid_mid", "blocks.0.hook_mlp_out"));
}
