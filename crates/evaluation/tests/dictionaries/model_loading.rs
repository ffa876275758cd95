//! A model is loaded as a dictionary's metadata say: against what TransformerLens computes with the
//! same options (`scripts/make_processed_fixtures.py`).

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_coder::{
    AnyCoder, Architecture, Dictionary, ModelLoading, Provenance, SparseCoder, Weights,
};
use lapidary_evaluation::PreparedModel;
use lapidary_model::{HookPoint, HookedRun, LanguageModel};
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
}

fn model(name: &str) -> LanguageModel {
    let folder = fixtures("models").join(name);
    LanguageModel::load(folder.to_str().unwrap(), &Device::flex()).unwrap()
}

fn dictionary(options: Value) -> Dictionary {
    let device = Device::flex();
    let matrix = Tensor::<2>::from_data(TensorData::new(vec![1f32; 12], [3, 4]), &device);
    let weights = Weights::new([
        ("w_enc", matrix.clone().into()),
        ("b_enc", Tensor::<1>::zeros([3], &device).into()),
        ("w_dec", matrix.into()),
        ("b_dec", Tensor::<1>::zeros([4], &device).into()),
    ]);
    Dictionary {
        coder: AnyCoder::Sparse(SparseCoder {
            architecture: Architecture::Standard,
            apply_b_dec_to_input: true,
            weights,
        }),
        provenance: Provenance {
            loading: ModelLoading {
                options: serde_json::from_value(options).unwrap(),
                ..ModelLoading::default()
            },
            ..Provenance::default()
        },
    }
}

#[test]
fn options_of_transformer_lens_give_its_activations() {
    for name in ["gpt2-sharded", "neox", "qwen2"] {
        let bytes =
            std::fs::read(fixtures("processed").join(format!("{name}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let ids: Vec<u32> = file
            .tensor("tokens")
            .unwrap()
            .data()
            .chunks(8)
            .map(|b| u32::from(b[0]))
            .collect();
        let mut seen = 0;
        for (key, view) in file.tensors() {
            let Some((options, hook)) = key.split_once('/') else {
                continue;
            };
            let asked: serde_json::Map<String, Value> = options
                .split('+')
                .map(|option| (option.to_owned(), true.into()))
                .collect();
            let PreparedModel { model, notes } =
                PreparedModel::of(&dictionary(asked.into()), model(name), true).unwrap();
            assert!(!notes.is_empty(), "{key}");
            let at: HookPoint = hook.parse().unwrap();
            let run = HookedRun {
                capture: &[at],
                ..Default::default()
            };
            let tokens = model.tokens(&[&ids]).unwrap();
            let found = model.run(tokens, &run).unwrap().captured[&at].clone();
            let found: Vec<f32> = found.into_data().iter::<f32>().collect();
            let expected = view.data().chunks(4);
            let expected: Vec<f32> = expected
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect();
            assert_eq!(found.len(), expected.len(), "{name}: {key}");
            let scale = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-4 * scale, "{name}: {key}: {a}, not {b}");
            }
            seen += 1;
        }
        assert_eq!(seen, 48, "{name}");
    }
}

#[test]
fn an_option_that_does_nothing_to_the_model_is_said_to() {
    let centre = json!({"center_writing_weights": true});
    let prepared = PreparedModel::of(&dictionary(centre), model("llama-gqa"), true);
    let notes = prepared.unwrap().notes;
    assert_eq!(
        notes,
        ["center_writing_weights has no effect: the model's norms do not centre"]
    );
    let off = json!({"center_writing_weights": false, "device": "cuda"});
    let prepared = PreparedModel::of(&dictionary(off), model("gpt2"), true).unwrap();
    assert!(prepared.notes.is_empty());
}

#[test]
fn first_layers_are_those_of_the_whole_model() {
    let whole = model("gpt2");
    let cut = dictionary(json!({"first_n_layers": 1}));
    let cut = PreparedModel::of(&cut, model("gpt2"), true).unwrap().model;
    assert_eq!(cut.config().n_layers(), 1);
    let at: HookPoint = "blocks.0.hook_resid_post".parse().unwrap();
    let value = |model: &LanguageModel| {
        let run = HookedRun {
            capture: &[at],
            ..Default::default()
        };
        let tokens = model.tokens(&[[3u32, 1, 4]]).unwrap();
        let value = model.run(tokens, &run).unwrap().captured[&at].clone();
        value.into_data().iter::<f32>().collect::<Vec<_>>()
    };
    assert_eq!(value(&cut), value(&whole));
}
