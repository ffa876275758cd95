//! Transcoders and crosscoders as a user meets them: trained by a recipe, measured where they
//! write, described, read back and used.

use burn::tensor::Device;
use lapidary_evaluation::Metrics;
use lapidary_features::{Steer, Steering, read_features};
use lapidary_formats::saelens;
use std::path::{Path, PathBuf};
use std::process::Command;

fn lapidary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(arguments);
    command
}

/// Success, standard output, standard error.
fn run(command: &mut Command) -> (bool, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let errors = text(&output.stderr);
    assert!(!errors.contains("panicked"), "{errors}");
    (output.status.success(), text(&output.stdout), errors)
}

fn succeeds(command: &mut Command) -> String {
    let (success, out, errors) = run(command);
    assert!(success, "{command:?}\n{errors}");
    out
}

fn recipe(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../configs")
        .join(name)
}

fn train(out: &Path, more: &[&str]) -> Command {
    let mut command = lapidary(&["train", "--device", "cpu"]);
    command
        .arg(recipe("skip-transcoder-embedded.toml"))
        .arg("--out")
        .arg(out);
    for setting in [
        "coder.d_sae=256",
        "coder.k=8",
        "corpus.context=32",
        "training.tokens=10240",
        "training.batch_tokens=256",
        "activations.buffer_tokens=1024",
        "evaluation.tokens=512",
        "features.tokens=1024",
    ] {
        command.args(["--set", setting]);
    }
    command.args(more);
    command
}

fn metrics(out: &Path) -> Metrics {
    serde_json::from_slice(&std::fs::read(out.join("metrics.json")).unwrap()).unwrap()
}

#[test]
fn a_transcoder_is_trained_measured_described_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    succeeds(&mut train(&out, &[]));
    let first = metrics(&out);
    assert!(first.fvu < 0.9 && first.ce_loss_score > 0.1, "{first:?}");
    let features = read_features(&out.join("features/features.parquet")).unwrap();
    assert_eq!(features.len(), 256);
    assert!(
        features
            .iter()
            .all(|row| row.encoder_decoder_cosine.is_none())
    );
    // It writes to the residual stream, though it reads elsewhere.
    assert!(features.iter().all(|row| !row.promoted.is_empty()));
    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("Reconstructs") && report.contains("blocks.2.hook_mlp_out"));
    let described = succeeds(lapidary(&["inspect"]).arg(&out));
    assert!(
        described.contains("blocks.2.ln2.hook_normalized"),
        "{described}"
    );
    assert!(
        described.contains("reconstructs") && described.contains("blocks.2.hook_mlp_out"),
        "{described}"
    );
    succeeds(lapidary(&["eval", "--device", "cpu"]).arg(&out));
    assert_eq!(metrics(&out), first);

    // The same from a store that has both ends.
    let store = folder.path().join("store");
    let hooks = "blocks.2.hook_mlp_out,blocks.2.ln2.hook_normalized";
    let mut harvest = lapidary(&[
        "harvest",
        "--device",
        "cpu",
        "--context",
        "32",
        "--tokens",
        "4000",
    ]);
    succeeds(harvest.args(["--hook", hooks, "--out"]).arg(&store));
    let from = format!("activations.store={}", store.display());
    let stored = folder.path().join("stored");
    succeeds(&mut train(
        &stored,
        &["--set", &from, "--set", "features.tokens=0"],
    ));
    let fvu = metrics(&stored).fvu;
    assert!((fvu - first.fvu).abs() < 0.2, "{fvu} {}", first.fvu);
    let missing = ["--set", "hook_point_out=blocks.1.hook_mlp_out"];
    let (success, _, error) = run(&mut train(
        &folder.path().join("no"),
        &[&["--set", &from], &missing[..]].concat(),
    ));
    assert!(
        !success && error.contains("blocks.1.hook_mlp_out"),
        "{error}"
    );

    // A latent is added where the transcoder writes; what it reads cannot be set there.
    let dictionary = saelens::load(&out.join("dictionary"), &Device::flex()).unwrap();
    assert!(Steering::new(&dictionary, 3, Steer::Add(2.0)).is_ok());
    let error = Steering::new(&dictionary, 3, Steer::Clamp(2.0))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("transcoder"), "{error}");
}

#[test]
fn a_cross_layer_transcoder_is_trained_measured_described_and_converted() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut command = lapidary(&["train", "--device", "cpu"]);
    command
        .arg(recipe("cross-layer-transcoder-embedded.toml"))
        .arg("--out")
        .arg(&out);
    for setting in [
        "coder.architecture=standard",
        "training.sparsity_penalty=tanh",
        "training.l1_coefficient=0.02",
        "coder.d_sae=96",
        "corpus.context=32",
        "training.tokens=20480",
        "training.batch_tokens=256",
        "activations.buffer_tokens=1024",
        "evaluation.tokens=512",
        "features.tokens=1024",
    ] {
        command.args(["--set", setting]);
    }
    succeeds(&mut command);
    let first = metrics(&out);
    assert!(first.fvu < 0.9 && first.ce_loss_score > 0.1, "{first:?}");
    succeeds(lapidary(&["eval", "--device", "cpu"]).arg(&out));
    assert_eq!(metrics(&out), first);
    let described = succeeds(lapidary(&["inspect"]).arg(&out));
    let written = "blocks.0.hook_mlp_out, blocks.1.hook_mlp_out, blocks.2.hook_mlp_out, blocks.3.hook_mlp_out";
    assert!(
        described.contains(written) && described.contains("384 on 1024 dimensions"),
        "{described}"
    );
    let dictionary = saelens::load(&out.join("dictionary"), &Device::flex()).unwrap();
    let read = &dictionary.sites().read();
    let features = read_features(&out.join("features/features.parquet")).unwrap();
    assert_eq!(features.len(), 384);
    for (latent, row) in features.iter().enumerate() {
        assert_eq!(*row.hook_point, *read[latent / 96]);
        assert!(row.decoder_norm > 0.0 && !row.promoted.is_empty());
    }
    let error = Steering::new(&dictionary, 3, Steer::Add(2.0))
        .err()
        .unwrap();
    let error = error.to_string();
    assert!(error.contains("cross-layer transcoder"), "{error}");

    // The same in circuit-tracer's layout, on activations at each hook point.
    let traced = folder.path().join("traced");
    let mut command = lapidary(&["convert", "--format", "circuit_tracer", "--from"]);
    succeeds(command.arg(out.join("dictionary")).arg("--to").arg(&traced));
    let activations = folder.path().join("x.safetensors");
    let mut command = lapidary(&["run", "--device", "cpu", "--text", "When in the course of"]);
    for hook in read {
        command.args(["--capture", hook]);
    }
    succeeds(command.arg("--out").arg(&activations));
    let codes = ["dictionary", "traced"].map(|name| {
        let from = match name {
            "traced" => traced.clone(),
            _ => out.join(name),
        };
        let to = folder.path().join(format!("{name}.safetensors"));
        let mut command = lapidary(&["encode", "--device", "cpu", "--dictionary"]);
        command.arg(from).arg("--activations").arg(&activations);
        succeeds(command.arg("--out").arg(&to));
        std::fs::read(to).unwrap()
    });
    assert!(codes[0] == codes[1], "other codes");
    let task = folder.path().join("task.jsonl");
    let texts = ["a", "b", "c", "d"]
        .map(|label| format!("{{\"text\": \"the\", \"label\": \"{label}\"}}\n"));
    std::fs::write(&task, texts.concat().repeat(20)).unwrap();
    let mut command = lapidary(&["probe", "--device", "cpu"]);
    let (ok, _, error) = run(command.arg(&out).arg("--task").arg(&task));
    assert!(
        !ok && error.contains("expected one that reads one hook point"),
        "{error}"
    );
}

/// A model of two layers, whose middle is not that of the embedded model.
#[test]
fn two_models_are_read_after_the_same_middle_layer_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/models/sentencepiece-like");
    let text = format!(
        "model = {model:?}
        other_model = {model:?}
        coder = {{ architecture = 'batchtopk', d_sae = 64, k = 4 }}
        corpus.context = 16
        training = {{ tokens = 2048, batch_tokens = 256 }}
        activations.buffer_tokens = 512
        evaluation.tokens = 0
        features.tokens = 0"
    );
    let file = folder.path().join("two.toml");
    std::fs::write(&file, text).unwrap();
    for (setting, second) in [
        ("seed=1", "blocks.1.hook_resid_post"),
        (
            "other_hook_point=blocks.0.hook_resid_post",
            "blocks.0.hook_resid_post",
        ),
    ] {
        let out = folder.path().join(setting);
        let mut command = lapidary(&["train", "--device", "cpu", "--set", setting]);
        succeeds(command.arg(&file).arg("--out").arg(&out));
        let described = succeeds(lapidary(&["inspect"]).arg(&out));
        let places = format!("blocks.1.hook_resid_post, other:{second}");
        assert!(described.contains(&places), "{described}");
    }
}

/// The embedded model, and the same with other weights in its first MLP.
#[test]
fn a_crosscoder_of_two_models_says_which_latent_belongs_to_which() {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/embedded");
    let tuned = folder.path().join("tuned");
    std::fs::create_dir(&tuned).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(from.join(name), tuned.join(name)).unwrap();
    }
    let weights = std::fs::read(from.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&weights).unwrap();
    let changed: Vec<(String, Vec<u8>, safetensors::Dtype, Vec<usize>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let mut bytes = view.data().to_vec();
            if name.contains("layers.0.mlp.down_proj") {
                // Rows and columns shifted: another layer.
                let third = bytes.len() / 3 / 4 * 4;
                bytes.rotate_left(third);
            }
            (name, bytes, view.dtype(), view.shape().to_vec())
        })
        .collect();
    let views = changed.iter().map(|(name, bytes, dtype, shape)| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    std::fs::write(tuned.join("model.safetensors"), bytes).unwrap();

    let out = folder.path().join("run");
    let train = |settings: &[String]| {
        let mut command = lapidary(&["train", "--device", "cpu", "--overwrite"]);
        command
            .arg(recipe("quickstart.toml"))
            .arg("--out")
            .arg(&out);
        for setting in [
            "hook_point=blocks.1.hook_resid_pre",
            "coder.architecture=batchtopk",
            "coder.d_sae=256",
            "coder.k=8",
            "corpus.context=32",
            "training.tokens=20480",
            "training.batch_tokens=256",
            "activations.buffer_tokens=1024",
            "features.tokens=1024",
        ] {
            command.args(["--set", setting]);
        }
        for setting in settings {
            command.args(["--set", setting]);
        }
        command
    };
    let other = format!("other_model={}", tuned.display());
    succeeds(&mut train(&[other.clone(), "evaluation.tokens=0".into()]));
    let described = succeeds(lapidary(&["inspect"]).arg(&out));
    let places = "blocks.1.hook_resid_pre, other:blocks.1.hook_resid_pre";
    assert!(
        described.contains(places) && described.contains("tuned"),
        "{described}"
    );
    let features = read_features(&out.join("features/features.parquet")).unwrap();
    let mut lopsided = 0;
    for row in &features {
        let [first, second] = row.relative_decoder_norms[..] else {
            panic!("{:?}", row.relative_decoder_norms);
        };
        assert!((first + second - 1.0).abs() < 1e-5 && *row.hook_point == *places);
        lopsided += usize::from((first - second).abs() > 0.05);
    }
    assert!(features.len() == 256 && lopsided > 0, "{lopsided}");
    // The tables again, from the dictionary alone.
    let again = folder.path().join("again");
    let mut command = lapidary(&["features", "--device", "cpu", "--tokens", "1024"]);
    succeeds(command.arg(&out).arg("--out").arg(&again));
    let norms = |rows: &[lapidary_features::FeatureRow]| -> Vec<Vec<f32>> {
        rows.iter()
            .map(|row| row.relative_decoder_norms.clone())
            .collect()
    };
    let rows = read_features(&again.join("features/features.parquet")).unwrap();
    assert_eq!(norms(&rows), norms(&features));
    let (ok, _, error) = run(lapidary(&["eval", "--device", "cpu"]).arg(&out));
    assert!(
        !ok && error.contains("a crosscoder of two models"),
        "{error}"
    );
    let (ok, _, error) = run(&mut train(std::slice::from_ref(&other)));
    assert!(
        !ok && error.contains("`evaluation.tokens` does not go with `other_model`"),
        "{error}"
    );
    // Another vocabulary.
    let tokenizer = std::fs::read_to_string(tuned.join("tokenizer.json")).unwrap();
    let swapped = tokenizer.replacen("\"a\":65,\"b\":66", "\"a\":66,\"b\":65", 1);
    assert!(swapped != tokenizer);
    std::fs::write(tuned.join("tokenizer.json"), swapped).unwrap();
    let (ok, _, error) = run(&mut train(&[other, "evaluation.tokens=0".into()]));
    assert!(
        !ok && error.contains("do not have the same tokens"),
        "{error}"
    );
}

#[test]
fn a_crosscoder_is_trained_measured_and_described() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut command = lapidary(&["train", "--device", "cpu"]);
    command
        .arg(recipe("crosscoder-embedded.toml"))
        .arg("--out")
        .arg(&out);
    for setting in [
        "coder.d_sae=256",
        "coder.k=8",
        "corpus.context=32",
        "training.tokens=20480",
        "training.batch_tokens=256",
        "activations.buffer_tokens=1024",
        "evaluation.tokens=512",
        "features.tokens=1024",
    ] {
        command.args(["--set", setting]);
    }
    succeeds(&mut command);
    let first = metrics(&out);
    assert!(first.fvu < 0.9 && first.ce_loss_score > 0.1, "{first:?}");
    succeeds(lapidary(&["eval", "--device", "cpu"]).arg(&out));
    assert_eq!(metrics(&out), first);
    let all = "blocks.0.hook_resid_post, blocks.1.hook_resid_post, blocks.2.hook_resid_post, blocks.3.hook_resid_post";
    let described = succeeds(lapidary(&["inspect"]).arg(&out));
    assert!(
        described.contains(all) && described.contains("256 on 1024 dimensions"),
        "{described}"
    );
    let features = read_features(&out.join("features/features.parquet")).unwrap();
    assert!(features.len() == 256 && features.iter().all(|row| &*row.hook_point == all));
    let dictionary = saelens::load(&out.join("dictionary"), &Device::flex()).unwrap();
    let error = Steering::new(&dictionary, 3, Steer::Add(2.0))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("crosscoder"), "{error}");
    // What first_batch.json holds is of all that the coder reads.
    let look = std::fs::read_to_string(out.join("first_batch.json")).unwrap();
    assert_eq!(look.matches("\"hook_point\"").count(), 4);
}
