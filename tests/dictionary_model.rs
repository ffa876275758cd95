//! Every command that runs a model under a dictionary loads it as the dictionary's metadata say, or
//! refuses by name.

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const D: usize = 48;

fn lapidary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(arguments).env("HF_HUB_OFFLINE", "1");
    command
}

/// Success, standard output, standard error.
fn run(command: &mut Command) -> (bool, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let errors = text(output.stderr);
    assert!(!errors.contains("panicked"), "{command:?}\n{errors}");
    (output.status.success(), text(output.stdout), errors)
}

/// GPT-2 with random weights, whose norms centre, and a tokenizer of words.
fn model(folder: &Path) -> PathBuf {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/gpt2");
    let model = folder.join("model");
    std::fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture.join(file), model.join(file)).unwrap();
    }
    let mut vocab: serde_json::Map<String, Value> =
        (1..90).map(|i| (format!("w{i}"), i.into())).collect();
    vocab.insert("<unk>".into(), 0.into());
    let tokenizer = json!({
        "version": "1.0",
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    std::fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    model
}

fn text(folder: &Path) -> PathBuf {
    let words = |line: u32| (0..60).map(move |i| format!("w{}", 1 + (line * 7 + i * i) % 89));
    let lines = (0..12).map(|line| words(line).collect::<Vec<_>>().join(" "));
    let path = folder.join("text.txt");
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n\n")).unwrap();
    path
}

/// A coder that gives back every activation without its mean over dimensions, and nothing else.
fn dictionary(folder: &Path, name: &str, metadata: Value) -> PathBuf {
    let (mut w_enc, mut w_dec) = (vec![0f32; D * 2 * D], vec![0f32; 2 * D * D]);
    for i in 0..D {
        for (latent, sign) in [(i, 1.0), (D + i, -1.0)] {
            for d in 0..D {
                let unit = if d == i { 1.0 } else { 0.0 };
                w_enc[d * 2 * D + latent] = sign * (unit - 1.0 / D as f32);
            }
            w_dec[latent * D + i] = sign;
        }
    }
    let path = folder.join(name);
    write(
        &path,
        &[
            ("W_enc", vec![D, 2 * D], w_enc),
            ("W_dec", vec![2 * D, D], w_dec),
            ("b_enc", vec![2 * D], vec![0.0; 2 * D]),
            ("b_dec", vec![D], vec![0.0; D]),
        ],
    );
    let mut all = json!({
        "sae_lens_version": "6.54.12", "model_name": "gpt2-small", "hook_name": "blocks.1.hook_resid_post",
        "context_size": 16, "prepend_bos": true,
    });
    for (key, value) in metadata.as_object().unwrap() {
        all[key] = value.clone();
    }
    let cfg = json!({
        "architecture": "standard", "d_in": D, "d_sae": 2 * D, "dtype": "float32", "apply_b_dec_to_input": true,
        "normalize_activations": "none", "metadata": all,
    });
    std::fs::write(path.join("cfg.json"), cfg.to_string()).unwrap();
    path
}

fn write(folder: &Path, tensors: &[(&str, Vec<usize>, Vec<f32>)]) {
    std::fs::create_dir(folder).unwrap();
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(.., values)| values.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views: HashMap<&str, TensorView<'_>> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
            (*name, view)
        })
        .collect();
    let file = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.join("sae_weights.safetensors"), file).unwrap();
}

fn eval(dictionary: &Path, more: &[&str]) -> Command {
    let mut command = lapidary(&["eval", "--device", "cpu", "--tokens", "320", "--json"]);
    command.arg(dictionary).args(more);
    command
}

#[test]
fn writing_weights_are_centred_where_the_metadata_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (model, text) = (model(at), text(at));
    let (model, text) = (model.to_str().unwrap(), text.to_str().unwrap());
    let options = json!({"model_from_pretrained_kwargs": {"center_writing_weights": true}});
    let centred = dictionary(at, "centred", options);
    let plain = dictionary(at, "plain", json!({}));
    let fvu = |dictionary: &Path| {
        let (done, out, errors) = run(&mut eval(dictionary, &["--model", model, "--corpus", text]));
        assert!(done, "{errors}");
        let metrics: Value = serde_json::from_str(&out).unwrap();
        (metrics["fvu"].as_f64().unwrap(), errors)
    };
    let (with, said) = fvu(&centred);
    assert!(with < 1e-9, "{with}");
    assert!(
        said.contains("as the dictionary's metadata say: center_writing_weights"),
        "{said}"
    );
    let (without, said) = fvu(&plain);
    assert!(
        without > 1e-3 && !said.contains("metadata say"),
        "{without} {said}"
    );

    // The other commands load the same model: what they cannot do, they refuse in the same words.
    let of_head = dictionary(at, "head", json!({"hook_head_index": 3}));
    let dictionary = of_head.to_str().unwrap();
    let out = at.join("out");
    let out = out.to_str().unwrap();
    for command in [
        vec!["eval", dictionary, "--corpus", text],
        vec!["features", dictionary, "--corpus", text, "--out", out],
        vec![
            "generate",
            "w1 w2",
            "--dictionary",
            dictionary,
            "--latent",
            "1",
        ],
        vec!["probe", dictionary, "--task", text],
        vec!["absorption", dictionary],
    ] {
        let mut command = lapidary(&command);
        let (done, _, errors) = run(command.args(["--model", model, "--device", "cpu"]));
        assert!(
            !done && errors.contains("hook_head_index: found 3"),
            "{errors}"
        );
        assert!(errors.contains("head/cfg.json"), "{errors}");
    }
}

#[test]
fn a_name_of_the_metadata_is_said_to_come_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (model, text) = (model(at), text(at));
    let (model, text) = (model.to_str().unwrap(), text.to_str().unwrap());
    std::fs::create_dir(at.join("hub")).unwrap();

    let named = dictionary(at, "named", json!({"model_name": "no-such-model"}));
    let mut command = eval(&named, &["--corpus", text]);
    command.env("HF_HOME", at.join("hub"));
    let (done, _, errors) = run(&mut command);
    let place = named.join("cfg.json").display().to_string();
    let said = format!(
        "model `no-such-model` (named by {place}; --model replaces it) was not found: there is no folder or GGUF file of this name here"
    );
    assert!(!done && errors.contains(&said), "{errors}");

    let hook = dictionary(at, "hook", json!({"hook_name": "blocks.1.hook_resid_pots"}));
    let (done, _, errors) = run(&mut eval(&hook, &["--model", model, "--corpus", text]));
    let place = hook.join("cfg.json").display().to_string();
    let said = format!("the hook point is named by {place} (--hook-point replaces it)");
    assert!(!done && errors.contains(&said), "{errors}");
    assert!(
        errors.contains("did you mean `blocks.1.hook_resid_post`"),
        "{errors}"
    );
    let replaced = ["--hook-point", "blocks.1.hook_resid_post"];
    let mut command = eval(&hook, &["--model", model, "--corpus", text]);
    assert!(run(command.args(replaced)).0);

    let absent = dictionary(
        at,
        "absent",
        json!({"hook_name": "blocks.7.hook_resid_post"}),
    );
    let (done, _, errors) = run(&mut eval(&absent, &["--model", model, "--corpus", text]));
    assert!(
        !done && errors.contains("--hook-point replaces it"),
        "{errors}"
    );
    assert!(errors.contains("its layers are 0 to 1"), "{errors}");

    let wide = dictionary(at, "wide", json!({"hook_name": "blocks.1.mlp.hook_post"}));
    let (done, _, errors) = run(&mut eval(&wide, &["--model", model, "--corpus", text]));
    assert!(
        !done && errors.contains(
                "the dictionary reads 48 dimensions, but blocks.1.mlp.hook_post of model `model` has 192"
            ),
        "{errors}"
    );

    let corpus = dictionary(at, "corpus", json!({"dataset_path": "no-such-text.txt"}));
    let mut command = lapidary(&["features", "--device", "cpu", "--model", model, "--out"]);
    let (done, _, errors) = run(command.arg(at.join("out")).arg(&corpus));
    assert!(!done && errors.contains("--corpus replaces it"), "{errors}");
}

#[test]
fn a_coder_of_one_head_encodes_its_head() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let d = 2;
    let coder = at.join("coder");
    write(
        &coder,
        &[
            ("W_enc", vec![d, d], vec![1.0, 0.0, 0.0, 1.0]),
            ("W_dec", vec![d, d], vec![1.0, 0.0, 0.0, 1.0]),
            ("b_enc", vec![d], vec![0.0; 2]),
            ("b_dec", vec![d], vec![0.0; 2]),
        ],
    );
    let cfg = json!({
        "model_name": "gpt2-small", "hook_point": "blocks.0.attn.hook_z", "hook_point_head_index": 1, "d_in": d, "d_sae": d,
    });
    std::fs::write(coder.join("cfg.json"), cfg.to_string()).unwrap();
    let x = at.join("x");
    // Two rows of three heads.
    write(
        &x,
        &[("z", vec![2, 6], (1..=12).map(|v| v as f32).collect())],
    );
    let out = at.join("codes.safetensors");
    let mut command = lapidary(&["encode", "--device", "cpu", "--dictionary"]);
    command
        .arg(&coder)
        .arg("--activations")
        .arg(x.join("sae_weights.safetensors"));
    let (done, _, errors) = run(command.arg("--out").arg(&out));
    assert!(done, "{errors}");
    let bytes = std::fs::read(&out).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let back = file.tensor("reconstruction").unwrap();
    let back: Vec<f32> = back
        .data()
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!(back, [3.0, 4.0, 9.0, 10.0]);
}
