//! Dictionaries in integers: written, read as they were written, and refused where they are
//! damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_coder::{
    AnyCoder, Architecture, ArchitectureKind, Coder, Dictionary, Penalty, Provenance, Pursuit,
    Shape, Sites, Weight, WeightKey,
};
use lapidary_formats::{
    Format, QuantizedDictionary, describe, detect, only_ours, quantization, save,
};
use lapidary_io::StagedFolder;
use lapidary_quantize::{Bits, Calibration, Granularity};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::folder::{Stored, f32s, host, numbers, opened};
use crate::mutations::{Random, bend};

/// An odd width: half a byte is left over in 4 bits, and the last group is short.
const WIDE: usize = 35;
const LATENTS: usize = 12;
const LAYERS: usize = 3;
const WEIGHTS: &str = "quantized_weights.safetensors";

/// A dictionary with all weights of its architecture. `layers` are those of a cross-layer
/// transcoder.
fn dictionary(
    architecture: Architecture,
    sites: Sites,
    layers: Option<usize>,
    skips: bool,
) -> Dictionary {
    let device = Device::flex();
    let n = layers.unwrap_or(1);
    let sizes = [n * WIDE, n * WIDE, n * LATENTS];
    let shapes = AnyCoder::shapes(architecture.kind(), layers, sizes, skips);
    let weights = shapes.into_iter().enumerate().map(|(seed, (key, shape))| {
        let count = shape.iter().product();
        let data = TensorData::new(numbers(count, seed as u32), shape.clone());
        let weight: Weight = match (shape.len(), key.name) {
            (2, _) => Tensor::<2>::from_data(data, &device).into(),
            (_, "threshold") => Tensor::<1>::from_data(data, &device).abs().into(),
            _ => Tensor::<1>::from_data(data, &device).into(),
        };
        (key, weight)
    });
    let weights: Vec<(WeightKey, Weight)> = weights.collect();
    let subtracts = !sites.transcodes();
    Dictionary {
        coder: AnyCoder::of_weights(architecture, subtracts, weights),
        provenance: Provenance {
            model_name: Some("gpt2".into()),
            sites,
            context: Some(128),
            tokens: Some(700),
            ..Provenance::default()
        },
    }
}

fn autoencoder(architecture: Architecture) -> Dictionary {
    dictionary(
        architecture,
        Sites::autoencoder("blocks.2.hook_resid_post"),
        None,
        false,
    )
}

const TOP_3: Architecture = Architecture::TopK { k: 3 };

/// One of each kind that can be stored.
fn all() -> Vec<Dictionary> {
    let pursuit = Architecture::MatchingPursuit {
        steps: 3,
        pursuit: Pursuit {
            residual_threshold: 0.0,
            stop_on_duplicate_support: false,
            signed: false,
            refit: false,
        },
    };
    let penalty = Penalty {
        shape: Shape::Scad,
        weight: 0.5,
        shape_param: 3.0,
    };
    let mut all: Vec<Dictionary> = [
        Architecture::Standard,
        TOP_3,
        Architecture::JumpRelu,
        Architecture::Gated,
        pursuit,
        Architecture::Proximal(penalty),
    ]
    .map(autoencoder)
    .into();
    let hooks = |name: &str| -> Vec<String> {
        let each = (0..LAYERS).map(|layer| format!("blocks.{layer}.{name}"));
        each.collect()
    };
    let across = Sites::Crosscoder {
        at: vec![
            "blocks.0.hook_resid_post".into(),
            "blocks.1.hook_resid_post".into(),
        ],
    };
    all.push(dictionary(TOP_3, across, None, false));
    for skips in [false, true] {
        let sites = Sites::transcoder("blocks.2.ln2.hook_normalized", "blocks.2.hook_mlp_out");
        all.push(dictionary(Architecture::JumpRelu, sites, None, skips));
    }
    for architecture in [TOP_3, Architecture::JumpRelu] {
        let sites = Sites::CrossLayer {
            from: hooks("ln2.hook_normalized"),
            to: hooks("hook_mlp_out"),
        };
        all.push(dictionary(architecture, sites, Some(LAYERS), false));
    }
    all
}

fn quantized(original: &Dictionary, bits: Bits, granularity: Granularity) -> QuantizedDictionary {
    QuantizedDictionary::new(original, bits, granularity, Calibration::MinMax).unwrap()
}

fn written(original: &Dictionary, bits: Bits, granularity: Granularity, to: &Path) {
    let quantized = quantized(original, bits, granularity);
    quantized.save(StagedFolder::begin(to).unwrap()).unwrap();
}

fn values(dictionary: &Dictionary) -> Vec<(WeightKey, Vec<f32>)> {
    let each = dictionary.coder.weights().into_iter();
    each.map(|(key, weight)| match weight {
        Weight::Matrix(t) => (key, host(&t)),
        Weight::Vector(t) => (key, host(&t)),
    })
    .collect()
}

#[test]
fn every_coder_is_read_as_it_was_quantized() {
    let dir = tempfile::tempdir().unwrap();
    let mut kinds = vec![];
    for (number, original) in all().iter().enumerate() {
        for (bits, group) in [
            (Bits::Eight, Granularity::Row),
            (Bits::Eight, Granularity::Group64),
            (Bits::Four, Granularity::Row),
            (Bits::Four, Granularity::Group32),
        ] {
            let to = dir.path().join(format!("{number}-{bits:?}-{group:?}"));
            let made = quantized(original, bits, group);
            drop(made.save(StagedFolder::begin(&to).unwrap()).unwrap());
            assert_eq!(detect(&to).unwrap(), Format::Quantized);
            assert_eq!(detect(&to.join(WEIGHTS)).unwrap(), Format::Quantized);
            let scheme = quantization(&to).unwrap().unwrap();
            assert_eq!((scheme.bits, scheme.granularity), (bits, group));
            let read = opened(&to, None).unwrap();
            assert_eq!(read.coder.architecture(), original.coder.architecture());
            assert_eq!(read.provenance, original.provenance);
            assert_eq!(values(&read), values(made.dictionary()));
            // Rows of latents are rounded, everything else is kept.
            let largest_step = 2.0 / if bits == Bits::Eight { 127.0 } else { 7.0 };
            for ((key, before), (_, after)) in values(original).iter().zip(values(&read)) {
                let by_latent = ["w_enc", "w_dec"].contains(&key.name);
                let most = if by_latent {
                    0.5001 * largest_step
                } else {
                    0.0
                };
                let apart = before.iter().zip(&after).map(|(a, b)| (a - b).abs());
                assert!(apart.fold(0.0, f32::max) <= most, "{key}");
                assert_eq!(by_latent, *before != after, "{key}");
            }
            let (format, described) = describe(&to, None).unwrap();
            let described = described.unwrap();
            assert_eq!(format, Format::Quantized);
            assert_eq!(described.d_sae, original.coder.d_sae());
        }
        kinds.push(original.coder.architecture().kind());
    }
    let stored = ArchitectureKind::all().filter(|kind| kind.not_stored().is_none());
    for kind in stored {
        assert!(kinds.contains(&kind), "{kind} is not tested");
    }
}

#[test]
fn a_quantized_dictionary_is_converted_and_replaced_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let (to, plain) = (dir.path().join("q"), dir.path().join("f32"));
    written(&autoencoder(TOP_3), Bits::Four, Granularity::Group32, &to);
    let read = opened(&to, None).unwrap();
    save(&read, &plain, Format::SaeLens).unwrap();
    assert_eq!(values(&opened(&plain, None).unwrap()), values(&read));
    assert_eq!(quantization(&plain).unwrap(), None);
    // The report beside it belongs to it.
    fs::write(to.join("quantization.json"), "{}").unwrap();
    only_ours(&to).unwrap();
    written(&autoencoder(TOP_3), Bits::Eight, Granularity::Row, &to);
    assert!(!to.join("quantization.json").exists());
    fs::write(to.join("thesis.tex"), "years of work").unwrap();
    let begun = StagedFolder::begin(&to).unwrap();
    let error = quantized(&autoencoder(TOP_3), Bits::Eight, Granularity::Row).save(begun);
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("found `thesis.tex` beside a dictionary"),
        "{error}"
    );
    fs::remove_file(to.join("thesis.tex")).unwrap();
    // Beside weights in f32, it could be either.
    fs::copy(
        plain.join("sae_weights.safetensors"),
        to.join("sae_weights.safetensors"),
    )
    .unwrap();
    let error = opened(&to, None).err().unwrap();
    assert!(
        error.contains("this could be saelens (cfg.json with sae_weights.safetensors), quantized"),
        "{error}"
    );
    let error = opened(&plain, Some(Format::Quantized)).err().unwrap();
    assert!(
        error.contains("expected quantized_weights.safetensors among them"),
        "{error}"
    );

    let batch = autoencoder(Architecture::BatchTopK { k: 2 });
    let begun = StagedFolder::begin(&dir.path().join("batch")).unwrap();
    let error = quantized(&batch, Bits::Eight, Granularity::Row).save(begun);
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("stored as the JumpReLU that it becomes"),
        "{error}"
    );
}

/// The error after a change of the configuration or the tensors.
fn refused(bits: Bits, change: impl FnOnce(&mut Value, &mut BTreeMap<String, Stored>)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("q");
    written(&autoencoder(TOP_3), bits, Granularity::Group32, &to);
    let (cfg, weights) = (to.join("cfg.json"), to.join(WEIGHTS));
    let mut said: Value = serde_json::from_slice(&fs::read(&cfg).unwrap()).unwrap();
    let bytes = fs::read(&weights).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter();
    let mut tensors: BTreeMap<String, Stored> = tensors
        .map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec())))
        .collect();
    change(&mut said, &mut tensors);
    fs::write(&cfg, said.to_string()).unwrap();
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    fs::write(&weights, bytes).unwrap();
    let described = describe(&to, None).err().map(|e| e.to_string());
    let error = opened(&to, None).map(|_| ()).unwrap_err();
    if let Some(described) = described {
        let described = described.replace(&to.display().to_string(), "DIR");
        assert_eq!(described, error);
    }
    error
}

#[test]
fn a_damaged_dictionary_is_refused_by_the_field() {
    assert_eq!(
        refused(Bits::Eight, |cfg, _| cfg["quantization"]["bits"] = json!(3)),
        "DIR/cfg.json: quantization.bits: found 3, expected 8 or 4"
    );
    assert_eq!(
        refused(Bits::Eight, |cfg, _| cfg["quantization"]["group"] =
            json!(33)),
        "DIR/cfg.json: quantization.group: found 33, expected null, 32, 64 or 128"
    );
    for (field, value) in [
        ("format_version", json!(2)),
        ("scheme", json!("asymmetric")),
        ("calibration", json!("entropy")),
        ("bits", Value::Null),
        ("group", json!("row")),
    ] {
        let error = refused(Bits::Eight, |cfg, _| cfg["quantization"][field] = value);
        let expected = format!("DIR/cfg.json: quantization.{field}: found ");
        assert!(error.starts_with(&expected), "{error}");
    }
    let error = refused(Bits::Eight, |cfg, _| cfg["quantization"] = json!(8));
    assert!(
        error.starts_with("DIR/cfg.json: quantization: found 8, expected"),
        "{error}"
    );
    let error = refused(Bits::Eight, |cfg, _| cfg["quantization"] = Value::Null);
    assert!(
        error.starts_with("DIR/cfg.json: quantization: found "),
        "{error}"
    );
    // The integers of another number of bits.
    let error = refused(Bits::Four, |cfg, _| cfg["quantization"]["bits"] = json!(8));
    assert!(
        error.ends_with("tensor `W_enc.quantized`: found shape [12, 18], expected shape [12, 35]"),
        "{error}"
    );
    let error = refused(Bits::Eight, |cfg, _| {
        cfg["quantization"]["group"] = Value::Null
    });
    assert!(
        error.ends_with("tensor `W_enc.scale`: found shape [12, 2], expected shape [12, 1]"),
        "{error}"
    );

    // Truncated scales, wrong shapes, types and values, tensors too few and too many.
    let scale = "W_dec.scale";
    let error = refused(Bits::Eight, |_, t| {
        t.insert(
            scale.into(),
            f32s(&[LATENTS - 1, 2], &[1.0; 2 * LATENTS - 2]),
        );
    });
    assert_eq!(
        error,
        "DIR/quantized_weights.safetensors: tensor `W_dec.scale`: found shape [11, 2], expected shape [12, 2]"
    );
    for (value, shown) in [
        (-1.0, "-1"),
        (f32::MAX, "340282350000000000000000000000000000000"),
    ] {
        let error = refused(Bits::Eight, |_, t| {
            let bytes = &mut t.get_mut(scale).unwrap().2;
            bytes[4 * 5..4 * 6].copy_from_slice(&f32::to_le_bytes(value));
        });
        let expected = format!(
            "DIR/quantized_weights.safetensors: tensor `W_dec.scale`: found {shown} at row 2, group 1, expected 0 or more"
        );
        assert!(error.starts_with(&expected), "{error}");
    }
    let error = refused(Bits::Eight, |_, t| {
        t.get_mut(scale).unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    assert!(
        error.ends_with("found NaN at element 0, expected finite numbers"),
        "{error}"
    );
    let codes = "W_dec.quantized";
    let error = refused(Bits::Eight, |_, t| t.get_mut(codes).unwrap().2[36] = 0x80);
    assert_eq!(
        error,
        "DIR/quantized_weights.safetensors: tensor `W_dec.quantized`: found -128 at row 1, column 1, expected -127 to 127"
    );
    let error = refused(Bits::Four, |_, t| t.get_mut(codes).unwrap().2[17] |= 0x50);
    assert_eq!(
        error,
        "DIR/quantized_weights.safetensors: tensor `W_dec.quantized`: found 5 in the unused upper half of the last byte of row 0, expected 0"
    );
    let error = refused(Bits::Eight, |_, t| t.get_mut(codes).unwrap().0 = Dtype::U8);
    assert!(
        error.ends_with("tensor `W_dec.quantized`: found type U8, expected I8"),
        "{error}"
    );
    let error = refused(Bits::Eight, |_, t| drop(t.remove("W_enc.scale")));
    assert!(
        error.contains("tensor `W_enc.scale`: found only ["),
        "{error}"
    );
    let error = refused(Bits::Eight, |_, t| drop(t.remove("b_dec")));
    assert!(error.contains("tensor `b_dec`: found only ["), "{error}");
    let error = refused(Bits::Eight, |_, t| {
        t.insert("W_enc".into(), f32s(&[1], &[1.0]));
    });
    assert!(
        error.contains("tensor `W_enc`: found a tensor that means nothing here"),
        "{error}"
    );
    let error = refused(Bits::Eight, |cfg, _| cfg["d_in"] = json!(64));
    assert!(
        error.contains("tensor `W_enc.quantized`: found shape [12, 35]"),
        "{error}"
    );
    // Integers that were changed by little: the sample tells.
    let error = refused(Bits::Eight, |_, t| {
        t.get_mut("W_enc.quantized")
            .unwrap()
            .2
            .iter_mut()
            .for_each(|b| *b = (*b as i8 / 2) as u8);
    });
    assert!(
        error.starts_with("DIR/lapidary_sample.safetensors: "),
        "{error}"
    );
}

#[test]
fn no_change_of_a_file_makes_the_reader_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for bits in [Bits::Eight, Bits::Four] {
        let to = dir.path().join(format!("{bits:?}"));
        written(&autoencoder(TOP_3), bits, Granularity::Group32, &to);
        fs::remove_file(to.join(lapidary_formats::SAMPLE)).unwrap();
        for name in ["cfg.json", WEIGHTS] {
            let whole = fs::read(to.join(name)).unwrap();
            let mut refused = 0;
            for _ in 0..300 {
                let mut bytes = whole.clone();
                bend(&mut bytes, &mut random);
                fs::write(to.join(name), bytes).unwrap();
                refused += usize::from(opened(&to, Some(Format::Quantized)).is_err());
            }
            assert!(refused > 100, "{refused} of 300 refused");
            for length in (0..whole.len()).step_by(13) {
                fs::write(to.join(name), &whole[..length]).unwrap();
                assert!(
                    opened(&to, Some(Format::Quantized)).is_err(),
                    "cut at {length}"
                );
            }
            fs::write(to.join(name), &whole).unwrap();
            opened(&to, None).unwrap();
        }
        fs::remove_file(to.join(WEIGHTS)).unwrap();
        let error = opened(&to, None).err().unwrap();
        assert!(
            error.contains("files: found [cfg.json], expected quantized_weights.safetensors among"),
            "{error}"
        );
    }
}
