//! circuit-tracer's sets of transcoders, and transcoders in the other formats.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_coder::{Architecture, ArchitectureKind, Coder, Dictionary, Sites};
use lapidary_formats::{Format, detect, save, save_all};
use safetensors::tensor::{Dtype, TensorView};

use crate::folder::{
    D, F, Stored, assert_weights, dictionary, f32s, fixture, host, numbers, opened, sparse,
    sparse_mut, turned,
};

const CONFIG: &str = "model_name: \"google/gemma-2-2b\"\nmodel_kind: transcoder_set # one a layer\n\
                      feature_input_hook: ln2.hook_normalized\nfeature_output_hook: hook_mlp_out\nscan: gemma\n\
                      transcoders:\n  - hf://someone/else/layer_0.npz\n";

fn tensors() -> BTreeMap<&'static str, Stored> {
    BTreeMap::from([
        ("W_enc", f32s(&[F, D], &numbers(F * D, 1))),
        ("b_enc", f32s(&[F], &numbers(F, 2))),
        ("W_dec", f32s(&[F, D], &numbers(F * D, 3))),
        ("b_dec", f32s(&[D], &numbers(D, 4))),
    ])
}

fn write(dir: &Path, layer: usize, tensors: &BTreeMap<&'static str, Stored>, config: &str) {
    let views = tensors
        .iter()
        .map(|(n, (t, s, b))| (*n, TensorView::new(*t, s.clone(), b).unwrap()));
    let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    fs::write(dir.join(format!("layer_{layer}.safetensors")), bytes).unwrap();
    fs::write(dir.join("config.yaml"), config).unwrap();
}

/// Where the transcoder of a layer reads and writes.
fn sites(layer: usize) -> Sites {
    let [from, to] = ["ln2.hook_normalized", "hook_mlp_out"];
    Sites::transcoder(
        format!("blocks.{layer}.{from}"),
        format!("blocks.{layer}.{to}"),
    )
}

fn read(tensors: &BTreeMap<&'static str, Stored>, config: &str) -> Result<Dictionary, String> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 3, tensors, config);
    opened(dir.path(), None)
}

#[test]
fn a_layer_of_a_set_is_a_transcoder() {
    let relu = read(&tensors(), CONFIG).unwrap();
    assert_eq!(relu.coder.architecture(), Architecture::Standard);
    assert!(!sparse(&relu).apply_b_dec_to_input && relu.transcodes());
    assert_weights(&relu);
    let from = &relu.provenance;
    assert_eq!(from.model_name.as_deref(), Some("google/gemma-2-2b"));
    assert_eq!(from.sites, sites(3));

    let mut more = tensors();
    more.insert("activation_function.threshold", f32s(&[F], &[0.5; F]));
    more.insert("W_skip", f32s(&[D, D], &numbers(D * D, 6)));
    let jump = read(&more, CONFIG).unwrap();
    assert_eq!(jump.coder.architecture(), Architecture::JumpRelu);
    assert_eq!(host(&sparse(&jump).threshold().unwrap()), [0.5; F]);
    assert_eq!(host(&sparse(&jump).w_skip().unwrap()), numbers(D * D, 6));

    // Several layers: one must be named.
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 0, &tensors(), CONFIG);
    write(dir.path(), 1, &more, CONFIG);
    let error = opened(dir.path(), None).map(|_| ()).unwrap_err();
    assert_eq!(
        error,
        "DIR: files: found 2 of them, [layer_0.safetensors, layer_1.safetensors], expected one layer_N.safetensors: name one, such as DIR/layer_0.safetensors"
    );
    let one = opened(&dir.path().join("layer_1.safetensors"), None).unwrap();
    assert_eq!(one.provenance.sites, sites(1));
}

#[test]
fn what_is_wrong_is_refused_with_the_reason() {
    let file = "DIR/layer_3.safetensors";
    let refused = |change: &dyn Fn(&mut BTreeMap<&'static str, Stored>)| {
        let mut changed = tensors();
        change(&mut changed);
        read(&changed, CONFIG).map(|_| ()).unwrap_err()
    };
    // As SAELens has it: the other way round than here.
    assert_eq!(
        refused(&|t| {
            t.insert("W_enc", f32s(&[D, F], &turned(&numbers(F * D, 1), F, D)));
        }),
        format!(
            "{file}: tensor `W_dec`: found shape [6, 4], expected shape [4, 6] (this one lies transposed)"
        )
    );
    assert_eq!(
        refused(&|t| {
            t.remove("b_dec");
        }),
        format!("{file}: tensor `b_dec`: found only [W_dec, W_enc, b_enc], expected b_dec [4]")
    );
    assert!(
        refused(&|t| {
            t.insert("log_thresholds", f32s(&[F], &[0.5; F]));
        })
        .contains("tensor `log_thresholds`: found a tensor that means nothing here")
    );
    assert_eq!(
        refused(&|t| t.get_mut("W_enc").unwrap().0 = Dtype::I32),
        format!("{file}: tensor `W_enc`: found type I32, expected F32, F16, BF16 or F64")
    );
    let kind = |config: &str| read(&tensors(), config).map(|_| ()).unwrap_err();
    assert_eq!(
        kind("model_kind: cross_layer_transcoder\n"),
        "DIR: files: found [config.yaml, layer_3.safetensors], expected W_enc_0.safetensors"
    );
    assert!(
        kind("model_kind: graph\n")
            .contains("model_kind: found \"graph\", expected one of [\"transcoder_set\"]")
    );
    assert_eq!(
        kind("model_kind: &a transcoder_set\n"),
        "DIR/config.yaml: line 1: found model_kind: &a transcoder_set, expected `key: value` with a plain or quoted value, or JSON"
    );
}

fn transcoder(architecture: Architecture, layer: usize, skips: bool) -> Dictionary {
    let mut d = dictionary(architecture, false);
    d.provenance.sites = sites(layer);
    if skips {
        let w_skip = TensorData::new(numbers(D * D, 6), [D, D]);
        let w_skip = Tensor::<2>::from_data(w_skip, &Device::flex());
        let coder = sparse_mut(&mut d);
        coder.weights = coder.weights.clone().with("w_skip", w_skip);
    }
    d
}

fn made_of(d: &Dictionary) -> Vec<f32> {
    let x = TensorData::new(numbers(9 * D, 8), [9, D]);
    let x = Tensor::<2>::from_data(x, &Device::flex());
    let codes = d.coder.encode(x.clone());
    let back = host(&d.coder.reconstruct(codes.clone(), x));
    host(&codes.values).into_iter().chain(back).collect()
}

#[test]
fn transcoders_go_through_each_format_that_holds_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut trips = 0;
    for architecture in [
        Architecture::Standard,
        Architecture::JumpRelu,
        Architecture::TopK { k: 2 },
    ] {
        for skips in [false, true] {
            let before = transcoder(architecture, 2, skips);
            let is_topk = architecture.kind() == ArchitectureKind::TopK;
            for format in [Format::SaeLens, Format::Sparsify, Format::CircuitTracer] {
                let to = dir.path().join(format!("{architecture}-{skips}-{format}"));
                let holds = match format {
                    Format::Sparsify => is_topk,
                    Format::CircuitTracer => !is_topk,
                    _ => true,
                };
                if !holds {
                    let error = save(&before, &to, format).unwrap_err().to_string();
                    assert!(
                        error.contains(&format!("cannot hold a {architecture}")),
                        "{error}"
                    );
                    continue;
                }
                save(&before, &to, format).unwrap();
                assert_eq!(detect(&to).unwrap(), format);
                let after = opened(&to, None).unwrap();
                assert_eq!(after.provenance, before.provenance, "{format}");
                assert_eq!(sparse(&after).w_skip().is_some(), skips);
                assert!(after.transcodes());
                for (a, b) in made_of(&after).iter().zip(made_of(&before)) {
                    assert!(
                        (a - b).abs() < 1e-4 * b.abs().max(1.0),
                        "{architecture} in {format}"
                    );
                }
                trips += 1;
            }
            let to = dir.path().join("learning");
            let error = save(&before, &to, Format::DictionaryLearning).unwrap_err();
            assert!(
                error.to_string().contains("cannot hold a transcoder"),
                "{error}"
            );
        }
    }
    assert_eq!(trips, 12);
    let error = save(
        &dictionary(Architecture::Standard, false),
        &dir.path().join("a"),
        Format::CircuitTracer,
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("cannot hold an autoencoder")
    );
}

#[test]
fn a_set_is_written_together() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("set");
    let layers = [0, 1, 2].map(|layer| transcoder(Architecture::Standard, layer, layer == 0));
    save_all(&layers, &to, Format::CircuitTracer).unwrap();
    for (layer, before) in layers.iter().enumerate() {
        let after = opened(&to.join(format!("layer_{layer}.safetensors")), None).unwrap();
        assert_eq!(made_of(&after), made_of(before));
        assert_eq!(after.provenance.sites, before.provenance.sites);
    }
    // Each layer has a sample of its own.
    fs::copy(
        to.join("layer_0.safetensors"),
        to.join("layer_2.safetensors"),
    )
    .unwrap();
    let error = opened(&to.join("layer_2.safetensors"), None)
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.starts_with("DIR/lapidary_sample_2.safetensors: reconstruction: "),
        "{error}"
    );

    let refused = |them: &[Dictionary], format| {
        let error = save_all(them, &dir.path().join("no"), format).unwrap_err();
        error.to_string()
    };
    let error = refused(&layers, Format::SaeLens);
    assert!(
        error.ends_with("the format saelens cannot hold more than one dictionary"),
        "{error}"
    );
    let twice = [layers[0].clone(), layers[0].clone()];
    assert!(refused(&twice, Format::CircuitTracer).ends_with("two transcoders of one layer"));
    let mut elsewhere = layers.clone();
    let sites = &mut elsewhere[1].provenance.sites;
    sites.set_read("blocks.1.hook_mlp_in".into());
    let error = refused(&elsewhere, Format::CircuitTracer);
    assert!(
        error.ends_with("transcoders of different places together: ln2.hook_normalized to hook_mlp_out, and hook_mlp_in to hook_mlp_out"),
        "{error}"
    );
}

#[test]
fn gemma_scope_transcoders_are_told_by_their_folder_or_their_skip_connection() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir
        .path()
        .join("gemma-scope-2b-pt-transcoders/layer_5/width_16k/average_l0_41");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(fixture("gemma_scope.npz"), folder.join("params.npz")).unwrap();
    let d = opened(&folder, None).unwrap();
    assert_weights(&d);
    assert_eq!(d.provenance.sites, sites(5));

    // Two widths, and a skip connection that lies as [d_in, d_out].
    let wide = D + 1;
    let second = dir.path().join("second");
    fs::create_dir(&second).unwrap();
    let skip = numbers(D * wide, 6);
    let tensors = BTreeMap::from([
        ("w_enc", f32s(&[D, F], &turned(&numbers(F * D, 1), F, D))),
        ("w_dec", f32s(&[F, wide], &numbers(F * wide, 3))),
        ("b_enc", f32s(&[F], &numbers(F, 2))),
        ("b_dec", f32s(&[wide], &numbers(wide, 4))),
        ("threshold", f32s(&[F], &[0.5; F])),
        ("affine_skip_connection", f32s(&[D, wide], &skip)),
    ]);
    write(&second, 0, &tensors, "");
    fs::rename(
        second.join("layer_0.safetensors"),
        second.join("params.safetensors"),
    )
    .unwrap();
    let wider = opened(&second, None).unwrap();
    let coder = sparse(&wider);
    assert_eq!((coder.d_in(), coder.d_out()), (D, wide));
    assert_eq!(host(&coder.w_skip().unwrap()), turned(&skip, D, wide));
}
