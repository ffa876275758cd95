//! Files that other programs write, of this version and older ones, and files that nobody should
//! write.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use half::{bf16, f16};
use lapidary_coder::{Architecture, Coder, Dictionary, Sites};
use lapidary_formats::saelens::{describe, load, save};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::dictionary::{D, F, dictionary, host, numbers};

/// A folder as some other program might write it.
struct Foreign {
    cfg: Value,
    tensors: HashMap<&'static str, (Dtype, Vec<usize>, Vec<u8>)>,
}

fn f32s(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn foreign() -> Foreign {
    let t = |shape: &[usize], seed| {
        (
            Dtype::F32,
            shape.to_vec(),
            f32s(&numbers(shape.iter().product(), seed)),
        )
    };
    Foreign {
        cfg: json!({"architecture": "topk", "d_in": D, "d_sae": F, "k": 2, "dtype": "float32",
                    "metadata": {"sae_lens_version": "6.0.0", "hook_name": "blocks.0.hook_resid_pre"}}),
        tensors: HashMap::from([
            ("W_enc", t(&[D, F], 1)),
            ("b_enc", t(&[F], 2)),
            ("W_dec", t(&[F, D], 3)),
            ("b_dec", t(&[D], 4)),
        ]),
    }
}

impl Foreign {
    fn write(&self, dir: &Path) {
        fs::write(dir.join("cfg.json"), self.cfg.to_string()).unwrap();
        let views: Vec<_> = self
            .tensors
            .iter()
            .map(|(n, (t, s, b))| (*n, TensorView::new(*t, s.clone(), b).unwrap()))
            .collect();
        fs::write(
            dir.join("sae_weights.safetensors"),
            safetensors::serialize(views, None).unwrap(),
        )
        .unwrap();
    }

    fn load(&self) -> Result<Dictionary, String> {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path());
        load(dir.path(), &Device::flex()).map_err(|e| {
            let text = e.to_string();
            text.replace(&dir.path().display().to_string(), "DIR")
        })
    }
}

#[test]
fn half_precision_files_are_read() {
    let expected = foreign().load().unwrap();
    let mut f = foreign();
    for (name, (dtype, _, bytes)) in &mut f.tensors {
        let values: Vec<f32> = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        // The test values are exact in both.
        if name.starts_with('W') {
            *dtype = Dtype::BF16;
            *bytes = values
                .iter()
                .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                .collect();
        } else {
            *dtype = Dtype::F16;
            *bytes = values
                .iter()
                .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                .collect();
        }
    }
    let found = f.load().unwrap();
    assert_eq!(host(&found.coder.w_enc()), host(&expected.coder.w_enc()));
    assert_eq!(host(&found.coder.b_dec()), host(&expected.coder.b_dec()));
}

#[test]
fn files_from_before_version_6_are_read() {
    let mut f = foreign();
    f.cfg = json!({"architecture": "standard", "d_in": D, "d_sae": F, "activation_fn_str": "topk",
                   "activation_fn_kwargs": {"k": 3}, "hook_point": "blocks.1.hook_resid_pre",
                   "model_name": "gpt2-small", "prepend_bos": true, "context_size": 64});
    let d = f.load().unwrap();
    assert_eq!(d.coder.architecture(), Architecture::TopK { k: 3 });
    assert_eq!(
        d.provenance.sites,
        Sites::autoencoder("blocks.1.hook_resid_pre")
    );
    assert_eq!(d.provenance.context, Some(64));
}

#[test]
fn decoder_norms_of_a_rescaled_topk_are_folded() {
    let mut f = foreign();
    f.cfg["rescale_acts_by_decoder_norm"] = json!(true);
    let d = f.load().unwrap();
    let plain = foreign().load().unwrap();
    let b_enc = |d: &Dictionary| d.coder.as_sparse().unwrap().b_enc();
    let norm = |t: &Tensor<2>| -> Vec<f32> { host(&t.clone().square().sum_dim(1).sqrt()) };
    assert!(
        norm(&d.coder.w_dec())
            .iter()
            .all(|n| (n - 1.0).abs() < 1e-6)
    );
    let expected: Vec<f32> = host(&b_enc(&plain))
        .iter()
        .zip(norm(&plain.coder.w_dec()))
        .map(|(b, n)| b * n)
        .collect();
    for (a, b) in host(&b_enc(&d)).iter().zip(expected) {
        assert!((a - b).abs() < 1e-5);
    }
}

/// Tensors of a file that SAELens's values were kept in.
fn expected(folder: &Path) -> HashMap<String, Vec<f32>> {
    let bytes = fs::read(folder.join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| {
        let floats = data.as_chunks::<4>().0.iter();
        floats.map(|b| f32::from_le_bytes(*b)).collect()
    };
    file.tensors()
        .into_iter()
        .map(|(name, view)| (name, values(view.data())))
        .collect()
}

#[test]
fn older_files_give_the_codes_that_saelens_gives() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dictionaries");
    for (name, architecture, hook) in [
        (
            "cfg-with-nan",
            Architecture::Standard,
            "blocks.1.hook_resid_post",
        ),
        (
            "flat-cfg-without-architecture",
            Architecture::Standard,
            "blocks.1.hook_resid_pre",
        ),
        (
            "saelens5-topk",
            Architecture::TopK { k: 5 },
            "blocks.1.hook_resid_post",
        ),
    ] {
        let folder = fixtures.join(name);
        let read = load(&folder, &Device::flex()).unwrap();
        assert_eq!(read.coder.architecture(), architecture, "{name}");
        assert_eq!(read.provenance.sites, Sites::autoencoder(hook), "{name}");
        assert_eq!(
            read.provenance.corpus.as_deref(),
            Some("Skylion007/openwebtext")
        );
        let described = describe(&folder).unwrap();
        assert_eq!(described.architecture, architecture.kind(), "{name}");
        assert_eq!(
            (described.k, described.d_sae),
            (architecture.k(), 40),
            "{name}"
        );
        assert_eq!(described.provenance, read.provenance);

        let wanted = expected(&folder);
        let x = TensorData::new(wanted["x"].clone(), [5, 12]);
        let x = Tensor::<2>::from_data(x, &Device::flex());
        let codes = read.coder.encode(x.clone());
        let width = codes.values.dims()[1];
        let indices: Vec<i32> = codes.indices.clone().try_into_vec_as().unwrap();
        let mut dense = vec![0f32; 5 * 40];
        for (at, (value, index)) in host(&codes.values).iter().zip(indices).enumerate() {
            if *value != 0.0 {
                dense[at / width * 40 + index as usize] = *value;
            }
        }
        let close = |found: &[f32], wanted: &[f32]| {
            assert_eq!(found.len(), wanted.len());
            let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4 * b.abs().max(1.0);
            assert!(found.iter().zip(wanted).all(near), "{name}: {found:?}");
        };
        close(&dense, &wanted["codes"]);
        close(
            &host(&read.coder.reconstruct(codes, x)),
            &wanted["reconstruction"],
        );
    }
}

#[test]
fn metadata_that_say_what_is_usual_change_nothing() {
    for metadata in [
        json!({"model_from_pretrained_kwargs": {"center_writing_weights": false}, "hook_head_index": null}),
        json!({"seqpos_slice": [null], "exclude_special_tokens": false, "model_class_name": "HookedTransformer"}),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("d");
        save(&dictionary(Architecture::Standard), &place).unwrap();
        let path = place.join("cfg.json");
        let mut cfg: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for (key, value) in metadata.as_object().unwrap() {
            cfg["metadata"][key] = value.clone();
        }
        fs::write(&path, cfg.to_string()).unwrap();
        let read = load(&place, &Device::flex()).unwrap();
        assert!(!read.provenance.loading.changes_activations(), "{metadata}");
    }
}

#[test]
fn normalizations_that_a_file_lacks_are_refused() {
    for (value, refused) in [
        (json!("none"), false),
        (json!(null), false),
        (json!(false), false),
        (json!(true), true),
        (json!("expected_average_only_in"), true),
        (json!("layer_norm"), true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("d");
        save(&dictionary(Architecture::Standard), &place).unwrap();
        let path = place.join("cfg.json");
        let mut cfg: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        cfg["normalize_activations"] = value.clone();
        fs::write(&path, cfg.to_string()).unwrap();
        match load(&place, &Device::flex()) {
            Ok(_) => assert!(!refused, "{value}"),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    refused && error.contains("normalize_activations: found"),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn a_hostile_file_is_one_clear_error() {
    let refused = |change: &dyn Fn(&mut Foreign)| {
        let mut f = foreign();
        change(&mut f);
        f.load().map(|_| ()).unwrap_err()
    };
    let weights = "DIR/sae_weights.safetensors";
    assert_eq!(
        refused(&|f| f.cfg["d_sae"] = json!(7)),
        format!("{weights}: tensor `W_enc`: found shape [4, 6], expected shape [4, 7]")
    );
    assert_eq!(
        refused(&|f| f.cfg["d_sae"] = json!(9_000_000_000_000_000_000u64)),
        "DIR/cfg.json: d_sae: found 9000000000000000000, expected a whole number from 1 to 2147483647"
    );
    assert_eq!(
        refused(&|f| f.cfg["d_in"] = json!("4")),
        "DIR/cfg.json: d_in: found \"4\", expected a whole number from 1 to 2147483647"
    );
    assert_eq!(
        refused(&|f| f.cfg["architecture"] = json!("temporal")),
        "DIR/cfg.json: architecture: found \"temporal\", expected one of \"standard\", \"topk\", \"jumprelu\", \"gated\", \"matching_pursuit\", \"proximal\""
    );
    assert_eq!(
        refused(&|f| {
            f.cfg["architecture"] = json!("standard");
            f.cfg["activation_fn_str"] = json!("tanh-relu");
        }),
        "DIR/cfg.json: activation_fn_str: found \"tanh-relu\", expected \"relu\" or \"topk\""
    );
    assert_eq!(
        refused(&|f| f.cfg["k"] = json!(7)),
        "DIR/cfg.json: k: found 7, expected at most d_sae = 6"
    );
    assert!(
        refused(&|f| {
            f.cfg.as_object_mut().unwrap().remove("k");
        })
        .contains("k: found nothing")
    );
    assert_eq!(
        refused(&|f| f.cfg["normalize_activations"] = json!("layer_norm")),
        "DIR/cfg.json: normalize_activations: found \"layer_norm\", expected \"none\": others scale each token by its own norm, or by a factor that is not in the file"
    );
    assert_eq!(
        refused(&|f| {
            f.tensors.remove("b_dec");
        }),
        format!("{weights}: tensor `b_dec`: found only [W_dec, W_enc, b_enc], expected b_dec [4]")
    );
    assert_eq!(
        refused(&|f| f.tensors.get_mut("b_enc").unwrap().2[8..12]
            .copy_from_slice(&f32::NAN.to_le_bytes())),
        format!("{weights}: tensor `b_enc`: found NaN at element 2, expected finite numbers")
    );
    assert_eq!(
        refused(&|f| f.tensors.get_mut("b_enc").unwrap().0 = Dtype::I32),
        format!("{weights}: tensor `b_enc`: found type I32, expected F32, F16, BF16 or F64")
    );
    assert_eq!(
        refused(&|f| f.cfg["architecture"] = json!("jumprelu")),
        format!(
            "{weights}: tensor `threshold`: found only [W_dec, W_enc, b_dec, b_enc], expected threshold [6]"
        )
    );
    assert_eq!(
        refused(&|f| {
            f.tensors.get_mut("W_enc").unwrap().1 = vec![F, D];
        }),
        format!(
            "{weights}: tensor `W_enc`: found shape [6, 4], expected shape [4, 6] (this one lies transposed)"
        )
    );
    assert_eq!(
        refused(&|f| {
            let skip = (Dtype::F32, vec![D, D], f32s(&numbers(D * D, 5)));
            f.tensors.insert("W_skip", skip);
        }),
        format!(
            "{weights}: tensor `W_skip`: found a tensor that means nothing here, expected only [W_enc, b_enc, W_dec, b_dec, scaling_factor, log_threshold]"
        )
    );
    assert_eq!(
        refused(&|f| {
            let eighth = (Dtype::F8_E4M3, vec![F, D], vec![0x38; F * D]);
            f.tensors.insert("W_dec", eighth);
        }),
        format!("{weights}: tensor `W_dec`: found type F8_E4M3, expected F32, F16, BF16 or F64")
    );
    let pursuit = |steps: u64| {
        let mut f = foreign();
        f.cfg["architecture"] = json!("matching_pursuit");
        f.cfg["max_iterations"] = json!(steps);
        f.tensors
            .retain(|name, _| ["W_dec", "b_dec"].contains(name));
        f.load().map(|d| d.coder.architecture().k())
    };
    assert_eq!(pursuit(65_536), Ok(Some(65_536)));
    assert_eq!(
        pursuit(65_537).unwrap_err(),
        "DIR/cfg.json: max_iterations: found 65537, expected at most steps = 65536"
    );
    assert_eq!(
        refused(&|f| f.cfg = json!([1])),
        "DIR/cfg.json: file: found [1], expected a JSON object"
    );

    let dir = tempfile::tempdir().unwrap();
    let refused = || {
        load(dir.path(), &Device::flex())
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let absent = format!("{}/cfg.json: cannot be read: ", dir.path().display());
    assert!(refused().starts_with(&absent), "{}", refused());
    foreign().write(dir.path());
    for bytes in [
        &b""[..],
        b"\xff\xff\xff\xff\xff\xff\xff\xff{}",
        b"\x02\0\0\0\0\0\0\0[]",
        &[7; 4096],
    ] {
        fs::write(dir.path().join("sae_weights.safetensors"), bytes).unwrap();
        assert!(
            refused().contains("sae_weights.safetensors: header: found "),
            "{}",
            refused()
        );
    }
    fs::write(dir.path().join("cfg.json"), "{\"a\": ").unwrap();
    assert!(
        refused().contains("cfg.json: file: found EOF while parsing"),
        "{}",
        refused()
    );
}

#[test]
fn an_error_says_its_cause_once() {
    let dir = tempfile::tempdir().unwrap();
    let error = load(&dir.path().join("none"), &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
    assert!(
        std::error::Error::source(&error).is_none(),
        "its message has the cause already"
    );
}
