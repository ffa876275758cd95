//! circuit-tracer's cross-layer transcoders.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_coder::{
    Architecture, Coder, CrossLayerTranscoder, Dictionary, Provenance, Sites, SparseCoder, Weights,
};
use lapidary_formats::{Format, SAMPLE, detect, save, save_all};
use lapidary_model::HookPoint;
use safetensors::tensor::{Dtype, TensorView};

use crate::folder::{D, F, Stored, dictionary, f32s, host, numbers, opened, turned};

const LAYERS: usize = 3;
const CONFIG: &str = "model_name: \"google/gemma-2-2b\"\nmodel_kind: cross_layer_transcoder\n\
                      feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\nscan: gemma\n";

/// File by file, tensor by tensor.
type Files = BTreeMap<String, BTreeMap<String, Stored>>;

fn files(jumps: bool) -> Files {
    let mut files = Files::new();
    for l in 0..LAYERS {
        let seed = 10 * l as u32;
        let mut encoder = BTreeMap::from([
            (
                format!("W_enc_{l}"),
                f32s(&[F, D], &numbers(F * D, seed + 1)),
            ),
            (format!("b_enc_{l}"), f32s(&[F], &numbers(F, seed + 2))),
            (format!("b_dec_{l}"), f32s(&[D], &numbers(D, seed + 4))),
        ]);
        if jumps {
            encoder.insert(format!("threshold_{l}"), f32s(&[F], &[0.5 + l as f32; F]));
        }
        let n = LAYERS - l;
        let decoder = f32s(&[F, n, D], &numbers(F * n * D, seed + 3));
        files.insert(format!("W_enc_{l}.safetensors"), encoder);
        files.insert(
            format!("W_dec_{l}.safetensors"),
            BTreeMap::from([(format!("W_dec_{l}"), decoder)]),
        );
    }
    files
}

fn write(dir: &Path, files: &Files, config: Option<&str>) {
    for (name, tensors) in files {
        let views = tensors
            .iter()
            .map(|(n, (t, s, b))| (n.clone(), TensorView::new(*t, s.clone(), b).unwrap()));
        let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
    }
    if let Some(config) = config {
        fs::write(dir.join("config.yaml"), config).unwrap();
    }
}

fn read(files: &Files, config: Option<&str>) -> Result<Dictionary, String> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), files, config);
    assert_eq!(detect(dir.path()).unwrap(), Format::CircuitTracer);
    opened(dir.path(), None)
}

#[test]
fn a_folder_of_layers_is_a_cross_layer_transcoder() {
    for jumps in [false, true] {
        let d = read(&files(jumps), Some(CONFIG)).unwrap();
        let coder = d.coder.as_cross_layer().unwrap();
        let expected = match jumps {
            true => Architecture::JumpRelu,
            false => Architecture::Standard,
        };
        assert_eq!(
            (coder.architecture(), coder.layers().len()),
            (expected, LAYERS)
        );
        assert_eq!((coder.d_sae(), coder.d_in(), coder.d_out()), (18, 12, 12));
        let second = &coder.layers()[1];
        assert_eq!(host(&second.w_enc()), numbers(F * D, 11));
        assert_eq!(host(&second.b_enc()), numbers(F, 12));
        assert_eq!(host(&second.w_dec()), numbers(F * 2 * D, 13));
        assert_eq!(host(&coder.b_dec())[D..2 * D], numbers(D, 14));
        assert_eq!(
            second.threshold().map(|t| host(&t)),
            jumps.then(|| vec![1.5; F])
        );
        let from = &d.provenance;
        assert_eq!(from.model_name.as_deref(), Some("google/gemma-2-2b"));
        assert_eq!(from.sites.read()[2], "blocks.2.hook_resid_mid");
        assert_eq!(from.sites.written()[2], "blocks.2.hook_mlp_out");
        let written: Result<Vec<HookPoint>, _> =
            d.sites().written().iter().map(|h| h.parse()).collect();
        assert!(d.transcodes() && written.unwrap().len() == LAYERS);
    }
    // Without a configuration as their loader has it.
    let bare = read(&files(false), None).unwrap().provenance;
    assert_eq!(bare.sites.read()[0], "blocks.0.hook_resid_mid");
    assert_eq!(bare.sites.written()[0], "blocks.0.hook_mlp_out");
}

/// By hand: what the first layer writes at the third is the third part of its decoder rows.
#[test]
fn codes_and_reconstructions_are_those_of_the_equations() {
    let d = read(&files(true), Some(CONFIG)).unwrap();
    let n = 5;
    let x = numbers(n * LAYERS * D, 8);
    let input = TensorData::new(x.clone(), [n, LAYERS * D]);
    let input = Tensor::<2>::from_data(input, &Device::flex());
    let codes = d.coder.encode(input.clone());
    let found = host(&d.coder.reconstruct(codes, input));
    let mut active = 0;
    for token in 0..n {
        let mut y: Vec<f32> = (0..LAYERS as u32)
            .flat_map(|l| numbers(D, 10 * l + 4))
            .collect();
        for l in 0..LAYERS {
            let seed = 10 * l as u32;
            let (w_enc, b_enc) = (numbers(F * D, seed + 1), numbers(F, seed + 2));
            let w_dec = numbers(F * (LAYERS - l) * D, seed + 3);
            for f in 0..F {
                let row = &x[token * LAYERS * D + l * D..][..D];
                let pre = row
                    .iter()
                    .zip(&w_enc[f * D..])
                    .map(|(x, w)| x * w)
                    .sum::<f32>()
                    + b_enc[f];
                if pre <= 0.5 + l as f32 {
                    continue;
                }
                active += 1;
                for to in l..LAYERS {
                    for j in 0..D {
                        y[to * D + j] += pre * w_dec[(f * (LAYERS - l) + to - l) * D + j];
                    }
                }
            }
        }
        for (f, e) in found[token * LAYERS * D..].iter().zip(&y) {
            assert!((f - e).abs() < 1e-4 * e.abs().max(1.0), "{f}, {e}");
        }
    }
    assert!(active > 5);
}

#[test]
fn what_is_wrong_is_refused_with_the_reason() {
    let refused = |change: &dyn Fn(&mut Files)| {
        let mut changed = files(false);
        change(&mut changed);
        read(&changed, Some(CONFIG)).map(|_| ()).unwrap_err()
    };
    fn of<'a>(files: &'a mut Files, file: &str) -> &'a mut BTreeMap<String, Stored> {
        files.get_mut(&format!("{file}.safetensors")).unwrap()
    }
    for (expected, change) in [
        (
            "DIR/W_enc_1.safetensors: tensor `W_enc_1`: found shape [4, 6], expected shape [6, 4] (this one lies transposed)",
            &(|f: &mut Files| {
                let turned = f32s(&[D, F], &turned(&numbers(F * D, 11), F, D));
                of(f, "W_enc_1").insert("W_enc_1".into(), turned);
            }) as &dyn Fn(&mut Files),
        ),
        (
            "DIR/W_dec_0.safetensors: tensor `W_dec_0`: found shape [3, 6, 4], expected shape [6, 3, 4]",
            &|f| {
                let turned = f32s(&[LAYERS, F, D], &numbers(LAYERS * F * D, 3));
                of(f, "W_dec_0").insert("W_dec_0".into(), turned);
            },
        ),
        // All layers at each layer, as other tools have them.
        (
            "DIR/W_dec_2.safetensors: tensor `W_dec_2`: found shape [6, 3, 4], expected shape [6, 1, 4]",
            &|f| {
                let all = f32s(&[F, LAYERS, D], &numbers(LAYERS * F * D, 3));
                of(f, "W_dec_2").insert("W_dec_2".into(), all);
            },
        ),
        (
            "DIR/W_enc_2.safetensors: tensor `b_enc_2`: found shape [4], expected shape [6]",
            &|f| {
                of(f, "W_enc_2").insert("b_enc_2".into(), f32s(&[D], &numbers(D, 2)));
            },
        ),
        ("tensor `b_dec_1`", &|f| {
            of(f, "W_enc_1").remove("b_dec_1");
        }),
        (
            "DIR/W_enc_0.safetensors: tensor `b_enc_0`: found none, expected a vector",
            &|f| {
                of(f, "W_enc_0").remove("b_enc_0");
            },
        ),
        (
            "DIR/W_enc_0.safetensors: tensor `W_skip_0`: found a tensor that means nothing here",
            &|f| {
                of(f, "W_enc_0").insert("W_skip_0".into(), f32s(&[D, D], &numbers(D * D, 2)));
            },
        ),
        // Thresholds of one layer alone.
        (
            "DIR/W_enc_1.safetensors: tensor `threshold_1`: found a tensor that means nothing here",
            &|f| {
                of(f, "W_enc_1").insert("threshold_1".into(), f32s(&[F], &[0.5; F]));
            },
        ),
        ("tensor `threshold_1`", &|f| {
            *f = files(true);
            of(f, "W_enc_1").remove("threshold_1");
        }),
        (
            "DIR/W_dec_1.safetensors: tensor `W_dec_1`: found type I32, expected F32, F16, BF16 or F64",
            &|f| of(f, "W_dec_1").get_mut("W_dec_1").unwrap().0 = Dtype::I32,
        ),
        ("expected W_dec_1.safetensors", &|f| {
            f.remove("W_dec_1.safetensors");
        }),
        ("expected W_enc_0.safetensors", &|f| {
            f.remove("W_enc_0.safetensors");
        }),
        // The last of its encoders is missing.
        ("expected W_enc_2.safetensors", &|f| {
            f.remove("W_enc_2.safetensors");
        }),
    ] {
        let error = refused(change);
        assert!(error.contains(expected), "{error}");
    }
    let kind = |config: &str| read(&files(false), Some(config)).map(|_| ()).unwrap_err();
    assert!(kind("model_kind: transcoder_set\n").contains("model_kind: found \"transcoder_set\""));
    let topk = "model_kind: cross_layer_transcoder\nactivation: topk\n";
    assert!(kind(topk).contains("activation: found \"topk\""));
    assert!(kind("k: 5\n").contains("are read as ReLU or JumpReLU"));
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &files(false), Some(CONFIG));
    let one = opened(&dir.path().join("W_enc_1.safetensors"), None);
    let error = one.map(|_| ()).unwrap_err();
    assert!(
        error.contains("expected the folder, in which each layer has two"),
        "{error}"
    );
    fs::write(dir.path().join("W_enc_4000000000.safetensors"), "").unwrap();
    let error = opened(dir.path(), None).map(|_| ()).unwrap_err();
    assert!(
        error.contains("found layer 4000000000, expected at most 256 layers"),
        "{error}"
    );
}

/// A hook point of each layer from `first` on.
fn hooks(name: &str, first: usize) -> Vec<String> {
    let layers = first..first + LAYERS;
    layers.map(|l| format!("blocks.{l}.{name}")).collect()
}

/// A cross-layer transcoder with the numbers of the files.
fn across(architecture: Architecture) -> Dictionary {
    let device = Device::flex();
    let matrix = |shape: [usize; 2], seed| {
        let values = numbers(shape[0] * shape[1], seed);
        Tensor::<2>::from_data(TensorData::new(values, shape), &device)
    };
    let vector = |values: Vec<f32>| {
        let n = values.len();
        Tensor::<1>::from_data(TensorData::new(values, [n]), &device)
    };
    let layer = |l: usize| {
        let seed = 10 * l as u32;
        let mut weights = Weights::default()
            .with("w_enc", matrix([F, D], seed + 1))
            .with("b_enc", vector(numbers(F, seed + 2)))
            .with("w_dec", matrix([F, (LAYERS - l) * D], seed + 3));
        if architecture == Architecture::JumpRelu {
            weights = weights.with("threshold", vector(vec![0.5 + l as f32; F]));
        }
        SparseCoder {
            architecture,
            apply_b_dec_to_input: false,
            weights,
        }
    };
    let layers: Vec<SparseCoder> = (0..LAYERS).map(layer).collect();
    let b_dec = (0..LAYERS as u32).flat_map(|l| numbers(D, 10 * l + 4));
    Dictionary {
        coder: CrossLayerTranscoder::new(layers, vector(b_dec.collect())).into(),
        provenance: Provenance {
            model_name: Some("gpt2".into()),
            sites: Sites::CrossLayer {
                from: hooks("hook_resid_mid", 0),
                to: hooks("hook_mlp_out", 0),
            },
            tokens: Some(700),
            ..Provenance::default()
        },
    }
}

#[test]
fn cross_layer_transcoders_go_through_each_format_that_holds_them() {
    let dir = tempfile::tempdir().unwrap();
    let made_of = |d: &Dictionary| {
        let x = TensorData::new(numbers(9 * LAYERS * D, 8), [9, LAYERS * D]);
        let x = Tensor::<2>::from_data(x, &Device::flex());
        let codes = d.coder.encode(x.clone());
        (host(&codes.values), host(&d.coder.reconstruct(codes, x)))
    };
    for architecture in [
        Architecture::Standard,
        Architecture::JumpRelu,
        Architecture::TopK { k: 2 },
    ] {
        let before = across(architecture);
        for format in [Format::SaeLens, Format::CircuitTracer] {
            let to = dir.path().join(format!("{architecture}-{format}"));
            if architecture.k().is_some() && format == Format::CircuitTracer {
                let error = save(&before, &to, format).unwrap_err().to_string();
                assert!(
                    error.ends_with(
                        "cannot hold a topk cross-layer transcoder: its own are ReLU and JumpReLU"
                    ),
                    "{error}"
                );
                continue;
            }
            for _ in 0..2 {
                // The second time in place of the first.
                save(&before, &to, format).unwrap();
            }
            assert_eq!(detect(&to).unwrap(), format);
            let after = opened(&to, None).unwrap();
            assert_eq!(after.provenance, before.provenance, "{format}");
            assert_eq!(after.coder.architecture(), architecture);
            assert!(
                made_of(&after) == made_of(&before),
                "{architecture} in {format}"
            );
            assert!(to.join(SAMPLE).is_file());
        }
        for format in [Format::Sparsify, Format::DictionaryLearning] {
            let error = save(&before, &dir.path().join("no"), format).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("cannot hold a cross-layer transcoder"),
                "{error}"
            );
        }
    }
    // A layer's decoder of another run is noticed.
    let to = dir.path().join("standard-circuit_tracer");
    let mut other = across(Architecture::Standard);
    let layers = other.coder.layers().iter().enumerate();
    let layers: Vec<SparseCoder> = layers
        .map(|(l, layer)| {
            let mut layer = layer.clone();
            let w_dec = layer.w_dec() * if l == 1 { 1.1 } else { 1.0 };
            layer.weights = layer.weights.with("w_dec", w_dec);
            layer
        })
        .collect();
    other.coder = CrossLayerTranscoder::new(layers, other.coder.b_dec()).into();
    let apart = dir.path().join("apart");
    save(&other, &apart, Format::CircuitTracer).unwrap();
    fs::copy(
        apart.join("W_dec_1.safetensors"),
        to.join("W_dec_1.safetensors"),
    )
    .unwrap();
    let error = opened(&to, None).map(|_| ()).unwrap_err();
    assert!(
        error.contains("lapidary_sample.safetensors: reconstruction"),
        "{error}"
    );
}

#[test]
fn cross_layer_transcoders_that_the_format_cannot_say_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |them: &[Dictionary]| {
        let error = save_all(them, &dir.path().join("no"), Format::CircuitTracer).unwrap_err();
        error.to_string()
    };
    let elsewhere = "cannot hold this cross-layer transcoder: it must have the same input and the same output hook point in each layer, from layer 0 on";
    let mut later = across(Architecture::Standard);
    later.provenance.sites = Sites::CrossLayer {
        from: hooks("hook_resid_mid", 1),
        to: hooks("hook_mlp_out", 0),
    };
    assert!(refused(&[later]).ends_with(elsewhere));
    let mut mixed = across(Architecture::Standard);
    let mut to = hooks("hook_mlp_out", 0);
    to[1] = "blocks.1.hook_attn_out".into();
    mixed.provenance.sites = Sites::CrossLayer {
        from: hooks("hook_resid_mid", 0),
        to,
    };
    assert!(refused(&[mixed]).ends_with(elsewhere));
    let mut set = dictionary(Architecture::Standard, false);
    set.provenance.sites =
        Sites::transcoder("blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out");
    let error = refused(&[across(Architecture::Standard), set]);
    assert!(
        error.ends_with("a cross-layer transcoder and another dictionary together"),
        "{error}"
    );
}
