//! A dictionary in integers of 8 and 4 bits: made, compared with the original, used by the other
//! commands, and refused where it is damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

fn lapidary(arguments: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(arguments).current_dir(root);
    command
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{command:?} succeeded");
    assert!(!errors.contains("panicked"), "{command:?}\n{errors}");
    errors
}

fn quantize(from: &Path, to: &Path, more: &[&str]) -> Command {
    let mut command = lapidary(&["quantize", "--device", "cpu"]);
    command.arg(from).arg("--out").arg(to).args(more);
    command
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The three outputs of `encode`.
fn codes(dictionary: &Path, activations: &Path, out: &Path) -> [Vec<u8>; 3] {
    let mut encode = lapidary(&["encode", "--device", "cpu", "--dictionary"]);
    encode.arg(dictionary).arg("--activations").arg(activations);
    succeeds(encode.arg("--out").arg(out));
    let bytes = fs::read(out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    ["values", "indices", "reconstruction"].map(|name| file.tensor(name).unwrap().data().to_vec())
}

#[test]
fn a_quantized_dictionary_is_compared_with_the_original_and_used_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    let mut harvest = lapidary(&[
        "harvest",
        "--device",
        "cpu",
        "--context",
        "128",
        "--tokens",
        "10240",
        "--hook",
        "blocks.2.hook_resid_post",
        "--out",
    ]);
    succeeds(harvest.arg(at("store")));
    let mut train = lapidary(&[
        "train",
        "configs/quickstart.toml",
        "--device",
        "cpu",
        "--out",
    ]);
    train.arg(at("run"));
    for setting in [
        "coder.d_sae=512",
        "coder.k=16",
        "training.tokens=10240",
        "training.batch_tokens=512",
        "activations.buffer_tokens=2048",
        "evaluation.tokens=0",
        "features.tokens=0",
    ] {
        train.args(["--set", setting]);
    }
    let store = format!("activations.store={}", at("store").display());
    succeeds(train.args(["--set", &store]));

    let store = at("store");
    let store = store.to_str().unwrap();
    let compared = ["--activations", store, "--rows", "1000"];
    let said = succeeds(&mut quantize(&at("run"), &at("int8"), &compared));
    for line in [
        "weights          int8, one scale per row, min-max",
        "rows             1000 of ",
        "L0               16.000 before, 16.000 after",
    ] {
        assert!(said.contains(line), "{said}");
    }
    let report = json(&at("int8/quantization.json"));
    let number = |report: &Value, field: &str| report[field].as_f64().unwrap();
    assert_eq!(
        (report["bits"].as_u64(), report["rows"].as_u64()),
        (Some(8), Some(1000))
    );
    assert!(report["group"].is_null());
    assert!(number(&report, "support_jaccard") > 0.97, "{report}");
    assert!(number(&report, "fvu_change").abs() < 1e-3, "{report}");
    assert!(number(&report["encoder"], "cosine_min") > 0.999, "{report}");
    assert!(
        number(&report["decoder"], "cosine_mean") > 0.9999,
        "{report}"
    );
    let files = |name: &str| -> u64 {
        let entries = fs::read_dir(at(name)).unwrap().flatten();
        let others = entries.filter(|entry| entry.file_name() != "quantization.json");
        others.map(|entry| entry.metadata().unwrap().len()).sum()
    };
    assert_eq!(report["bytes_before"], files("run/dictionary"));
    assert_eq!(report["bytes_after"], files("int8"));
    assert!(files("int8") < files("run/dictionary") / 3);

    let mut coarse = quantize(&at("run"), &at("int4"), &compared);
    succeeds(coarse.args(["--bits", "4", "--calibration", "mse"]));
    let four = json(&at("int4/quantization.json"));
    assert_eq!(
        (four["bits"].as_u64(), four["group"].as_u64()),
        (Some(4), Some(32))
    );
    assert_eq!(four["calibration"], "mse");
    let jaccard = number(&four, "support_jaccard");
    assert!(
        jaccard > 0.5 && jaccard < number(&report, "support_jaccard"),
        "{four}"
    );
    assert!(files("int4") < files("int8"));
    // Without a store: sizes and cosines alone.
    let said = succeeds(&mut quantize(
        &at("run"),
        &at("rows"),
        &["--bits", "4", "--group", "row"],
    ));
    assert!(
        said.contains("encoder rows") && !said.contains("FVU"),
        "{said}"
    );
    assert!(json(&at("rows/quantization.json")).get("rows").is_none());

    // It is used where it lies.
    let mut run = lapidary(&[
        "run",
        "--device",
        "cpu",
        "--text",
        "My fellow citizens",
        "--out",
    ]);
    succeeds(
        run.arg(at("x"))
            .args(["--capture", "blocks.2.hook_resid_post"]),
    );
    let encoded = codes(&at("int8"), &at("x"), &at("codes"));
    let mut convert = lapidary(&["convert", "--format", "saelens", "--from"]);
    succeeds(convert.arg(at("int8")).arg("--to").arg(at("f32")));
    assert!(codes(&at("f32"), &at("x"), &at("codes")) == encoded);
    let seen = succeeds(lapidary(&["inspect"]).arg(at("int4")));
    for line in [
        "format       quantized",
        "numbers      int4, one scale per 32 values",
        "hook point   blocks.2.hook_resid_post",
    ] {
        assert!(seen.contains(line), "{seen}");
    }
    let figures = |dictionary: &Path| {
        let mut eval = lapidary(&["eval", "--device", "cpu", "--tokens", "512", "--json"]);
        let text = succeeds(eval.arg(dictionary));
        serde_json::from_str::<Value>(&text).unwrap()["fvu"]
            .as_f64()
            .unwrap()
    };
    let (before, after) = (figures(&at("run")), figures(&at("int8")));
    assert!((before - after).abs() < 1e-3, "{before} and {after}");
    let mut features = lapidary(&["features", "--device", "cpu", "--tokens", "1024"]);
    succeeds(features.arg(at("int8")).arg("--out").arg(at("tables")));
    assert!(at("tables/features/features.parquet").exists());

    // What is refused, and what is left as it was.
    let error = fails(&mut quantize(&at("run"), &at("new"), &["--bits", "3"]));
    assert!(
        error.contains("--bits") && error.contains("found 3, expected 8 or 4"),
        "{error}"
    );
    let error = fails(&mut quantize(&at("run"), &at("new"), &["--group", "33"]));
    assert!(
        error.contains("found 33, expected 32, 64, 128 or row"),
        "{error}"
    );
    let error = fails(&mut quantize(&at("int8"), &at("new"), &[]));
    assert!(error.contains("quantized already (int8)"), "{error}");
    let error = fails(&mut quantize(&at("nothing"), &at("new"), &[]));
    assert!(
        error.contains("nothing") && error.contains("not found"),
        "{error}"
    );
    let error = fails(&mut quantize(
        &at("run"),
        &at("new"),
        &["--activations", "README.md"],
    ));
    assert!(error.contains("README.md"), "{error}");
    assert!(!at("new").exists());
    let error = fails(&mut quantize(&at("run"), &at("int8"), &[]));
    assert!(
        error.contains("holds a dictionary already: give --overwrite"),
        "{error}"
    );
    let error = fails(&mut quantize(&at("run"), &at("store"), &["--overwrite"]));
    assert!(
        error.contains("something that is not a dictionary"),
        "{error}"
    );
    let error = fails(&mut quantize(&at("run"), &at("run"), &["--overwrite"]));
    assert!(error.contains("contains the dictionary to read"), "{error}");
    succeeds(&mut quantize(&at("run"), &at("int4"), &["--overwrite"]));
    assert!(codes(&at("int4"), &at("x"), &at("codes")) == encoded);
}

/// Active latents of each row, and the reconstruction, as `encode` writes them.
fn encoded(dictionary: &Path, shard: &Path, out: &Path) -> (Vec<Vec<i32>>, Vec<f32>) {
    let mut encode = lapidary(&[
        "encode",
        "--device",
        "cpu",
        "--tensor",
        READ,
        "--dictionary",
    ]);
    encode.arg(dictionary).arg("--activations").arg(shard);
    succeeds(encode.arg("--out").arg(out));
    let bytes = fs::read(out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let indices = file.tensor("indices").unwrap();
    let numbers = indices.data().chunks(4);
    let numbers: Vec<i32> = numbers
        .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let active = numbers.chunks(indices.shape()[1]);
    let active = active.map(|row| row.iter().copied().filter(|i| *i >= 0).collect());
    (active.collect(), floats(&file, "reconstruction"))
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let numbers = file.tensor(name).unwrap().data().chunks(4);
    numbers
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

const READ: &str = "blocks.2.ln2.hook_normalized";
const WRITTEN: &str = "blocks.2.hook_mlp_out";

/// The figures of the report, computed from the outputs of `encode` and the shard.
#[test]
fn a_transcoder_is_compared_at_the_hook_point_that_it_reconstructs() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    let mut harvest = lapidary(&["harvest", "--device", "cpu", "--tokens", "4096", "--hook"]);
    harvest.arg(format!("{READ},{WRITTEN}"));
    succeeds(harvest.args(["--dtype", "f32", "--out"]).arg(at("store")));
    let mut train = lapidary(&[
        "train",
        "configs/transcoder-embedded.toml",
        "--device",
        "cpu",
    ]);
    train.arg("--out").arg(at("run"));
    let store = format!("activations.store={}", at("store").display());
    for setting in [
        "coder.d_sae=256",
        "training.tokens=8192",
        "training.batch_tokens=512",
        "activations.buffer_tokens=2048",
        "evaluation.tokens=0",
        "features.tokens=0",
        &store,
    ] {
        train.args(["--set", setting]);
    }
    succeeds(&mut train);
    let mut four = quantize(&at("run"), &at("q"), &["--bits", "4", "--rows", "1000000"]);
    succeeds(four.arg("--activations").arg(at("store")));
    let report = json(&at("q/quantization.json"));

    let shard = at("store/shard-000000.safetensors");
    let before = encoded(&at("run"), &shard, &at("before"));
    let after = encoded(&at("q"), &shard, &at("after"));
    let bytes = fs::read(&shard).unwrap();
    let target = floats(&SafeTensors::deserialize(&bytes).unwrap(), WRITTEN);
    let (rows, d) = (before.0.len(), 256);
    let mut mean = vec![0.0; d];
    for row in target.chunks(d) {
        mean.iter_mut()
            .zip(row)
            .for_each(|(m, x)| *m += f64::from(*x) / rows as f64);
    }
    let distance = |to: &mut dyn Iterator<Item = f64>| -> f64 {
        let each = target.iter().zip(to);
        each.map(|(x, y)| (f64::from(*x) - y).powi(2)).sum()
    };
    let variance = distance(&mut mean.iter().copied().cycle());
    let fvu = |hat: &[f32]| distance(&mut hat.iter().map(|x| f64::from(*x))) / variance;
    let l0 = |active: &[Vec<i32>]| active.iter().map(Vec::len).sum::<usize>() as f64 / rows as f64;
    let pairs = before.0.iter().zip(&after.0);
    let jaccard = pairs.map(|(a, b)| {
        let both = a.iter().filter(|latent| b.contains(latent)).count();
        both as f64 / (a.len() + b.len() - both).max(1) as f64
    });
    assert_eq!(report["rows"], rows);
    for (field, expected) in [
        ("l0_before", l0(&before.0)),
        ("l0_after", l0(&after.0)),
        ("support_jaccard", jaccard.sum::<f64>() / rows as f64),
        ("fvu_before", fvu(&before.1)),
        ("fvu_after", fvu(&after.1)),
        ("fvu_change", fvu(&after.1) - fvu(&before.1)),
    ] {
        let found = report[field].as_f64().unwrap();
        assert!(
            (found - expected).abs() < 1e-6,
            "{field}: {found} for {expected}"
        );
    }
    assert!(
        report["support_jaccard"].as_f64().unwrap() < 0.99,
        "{report}"
    );

    // A store without that hook point.
    let mut harvest = lapidary(&[
        "harvest", "--device", "cpu", "--tokens", "512", "--hook", READ,
    ]);
    succeeds(harvest.arg("--out").arg(at("half")));
    let mut command = quantize(&at("run"), &at("new"), &[]);
    let error = fails(command.arg("--activations").arg(at("half")));
    assert!(
        error.contains(&format!("found {WRITTEN}, expected {READ}")),
        "{error}"
    );
    assert!(!at("new").exists());
}

#[test]
fn a_damaged_quantized_dictionary_is_refused_by_file_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    let gemma = Path::new("tests/fixtures/dictionaries/gemma_scope.npz");
    succeeds(&mut quantize(gemma, &at("q"), &[]));
    let weights = at("q/quantized_weights.safetensors");
    let whole = fs::read(&weights).unwrap();
    let inspect = || fails(lapidary(&["inspect"]).arg(at("q")));
    let encode = || {
        let mut command = lapidary(&["encode", "--device", "cpu", "--dictionary"]);
        command.arg(at("q")).arg("--activations").arg(at("x"));
        fails(command.arg("--out").arg(at("codes")))
    };

    fs::write(&weights, &whole[..whole.len() - 40]).unwrap();
    for error in [inspect(), encode()] {
        let expected = "quantized_weights.safetensors: header: found";
        assert!(error.contains(expected), "{error}");
    }
    let file = SafeTensors::deserialize(&whole).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, tensor)| {
        // One scale too few, the file as such being right.
        let rows = tensor.shape()[0] - usize::from(name == "W_enc.scale");
        let view = match name == "W_enc.scale" {
            true => TensorView::new(Dtype::F32, vec![rows, 1], &tensor.data()[..4 * rows]),
            false => TensorView::new(tensor.dtype(), tensor.shape().to_vec(), tensor.data()),
        };
        (name, view.unwrap())
    });
    let bytes = safetensors::serialize(tensors.collect::<Vec<_>>(), None).unwrap();
    fs::write(&weights, bytes).unwrap();
    for error in [inspect(), encode()] {
        let expected = "tensor `W_enc.scale`: found shape [5, 1], expected shape [6, 1]";
        assert!(error.contains(expected), "{error}");
    }
    fs::write(&weights, &whole).unwrap();
    let cfg = fs::read_to_string(at("q/cfg.json")).unwrap();
    fs::write(at("q/cfg.json"), cfg.replace("\"bits\": 8", "\"bits\": 3")).unwrap();
    let error = inspect();
    assert!(
        error.contains("quantization.bits: found 3, expected 8 or 4"),
        "{error}"
    );
    fs::write(at("q/cfg.json"), cfg).unwrap();
    fs::remove_file(&weights).unwrap();
    let error = inspect();
    assert!(
        error.contains("expected quantized_weights.safetensors among them"),
        "{error}"
    );
}
