//! Labels and neurons checked by what the model writes when they are clamped.

use std::fs;
use std::path::Path;

use burn::tensor::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::analysis::{RUNS, fails, floats, lapidary, numbers, succeeds, table, texts};

#[test]
fn labels_are_scored_by_clamping() {
    let (run, folder) = (RUNS.at("run0"), tempfile::tempdir().unwrap());
    let out = folder.path().join("labels.parquet");
    let label = |clamp: &str| {
        let mut label = lapidary(&["label", "--device", "cpu", "--tokens", "32768"]);
        label.args(["--method", "pmi,lens", "--clamp", clamp, "--out"]);
        succeeds(label.arg(&out).arg(&run))
    };
    let printed = label("12");
    let rows = table(&out);
    let methods = texts(&rows, "method");
    let mut lens = vec![];
    for (method, score) in methods.iter().zip(floats(&rows, "clamping")) {
        let Some(score) = score else { continue };
        assert!((0.0..=1.0).contains(&score), "{score}");
        if method == "lens" {
            lens.push(score);
        }
    }
    assert_eq!(lens.len(), 12);
    // The tokens that the decoder row raises most gain more than those of other latents.
    let mean = lens.iter().sum::<f64>() / 12.0;
    assert!(mean > 0.9, "{mean}");
    let line = printed
        .lines()
        .find(|line| line.starts_with("lens"))
        .unwrap();
    assert!(line.ends_with(&format!("{mean:.3}        12")), "{printed}");
    let none = label("0");
    assert!(
        none.lines()
            .nth(1)
            .unwrap()
            .trim_end()
            .ends_with("-         0"),
        "{none}"
    );
    assert!(floats(&table(&out), "clamping").iter().all(Option::is_none));
}

/// A model, in `folder`, in which the output weights of one neuron of layer 1 promote the token
/// with the largest unembedding, which no other token can beat. Returns this token.
fn plant(folder: &Path, neuron: usize, factor: f32) -> u32 {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/repeats");
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(fixture.join(name), folder.join(name)).unwrap();
    }
    let bytes = fs::read(fixture.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut wide: Vec<(String, Vec<usize>, Vec<f32>)> = tensors
        .iter()
        .map(|(name, view)| {
            let numbers = view.data().as_chunks::<2>().0.iter();
            let numbers = numbers.map(|bytes| f16::from_le_bytes(*bytes).to_f32());
            (name.to_owned(), view.shape().to_vec(), numbers.collect())
        })
        .collect();
    let of = |name: &str| wide.iter().position(|(n, ..)| n == name).unwrap();
    let [down, embed, norm] = [
        "model.layers.1.mlp.down_proj.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
    ]
    .map(of);
    let [d_model, d_mlp] = [0, 1].map(|at| wide[down].1[at]);
    let rows = wide[embed].2.chunks_exact(d_model);
    let norms: Vec<f32> = rows.map(|row| row.iter().map(|v| v * v).sum()).collect();
    let token = (0..norms.len())
        .max_by(|a, b| norms[*a].total_cmp(&norms[*b]))
        .unwrap();
    for i in 0..d_model {
        let unembedding = wide[embed].2[token * d_model + i]; // the model's weights are tied
        wide[down].2[i * d_mlp + neuron] = factor * unembedding / wide[norm].2[i];
    }
    let bytes: Vec<Vec<u8>> = wide
        .iter()
        .map(|(.., numbers)| numbers.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = wide.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let written = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("model.safetensors"), written).unwrap();
    token as u32
}

#[test]
fn a_planted_neuron_is_decoded_and_writes_its_token_when_clamped() {
    let folder = tempfile::tempdir().unwrap();
    let neuron = 37;
    let token = plant(folder.path(), neuron, 20.0);
    let out = folder.path().join("neurons.parquet");
    let neurons = |weights: &str| {
        let mut neurons = lapidary(&["neurons", "--device", "cpu", "--layers", "1"]);
        neurons.args(["--weights", weights, "--clamp", "256", "--model"]);
        succeeds(neurons.arg(folder.path()).arg("--out").arg(&out))
    };
    let printed = neurons("out");
    let rows = table(&out);
    assert_eq!(numbers(&rows, "neuron"), (0..256).collect::<Vec<u32>>());
    assert_eq!(numbers(&rows, "token_id")[neuron], token);
    let scores = floats(&rows, "clamping");
    assert_eq!(scores[neuron], Some(1.0));
    let mean = scores.iter().flatten().sum::<f64>() / 256.0;
    let last = printed.lines().last().unwrap();
    assert_eq!(last, format!("clamping {mean:.3}, mean over 256 neurons"));
    for weights in ["in", "gate"] {
        neurons(weights);
        let rows = table(&out);
        assert_eq!(texts(&rows, "weights")[0], format!("W_{weights}"));
        assert_ne!(numbers(&rows, "token_id")[neuron], token);
    }
}

#[test]
fn neurons_of_layers_that_are_not_there_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("neurons.parquet");
    for (options, expected) in [
        (["--layers", "4"], "--layers: found 4, expected 0 to 3"),
        (["--layers", "1,1"], "--layers"),
        (["--corpus", "nowhere.txt"], "nowhere.txt"),
    ] {
        let mut neurons = lapidary(&["neurons", "--device", "cpu"]);
        let error = fails(neurons.args(options).arg("--out").arg(&out));
        assert!(error.contains(expected), "{error}");
        assert!(!out.exists());
    }
    let mut neurons = lapidary(&["neurons", "--device", "cpu", "--weights", "gate"]);
    neurons.args(["--model", "tests/fixtures/models/gpt2", "--out"]);
    let error = fails(neurons.arg(&out));
    assert!(error.contains("found an MLP without a gate"), "{error}");
    let mut neurons = lapidary(&["neurons", "--device", "cpu", "--clamp", "0"]);
    let error = fails(neurons.args(["--corpus", "x.txt", "--out"]).arg(&out));
    assert!(
        error.contains("--corpus: found x.txt with --clamp 0"),
        "{error}"
    );
}
