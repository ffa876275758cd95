//! Dictionaries on disk: what is written reads back exactly, other libraries' types are taken, and hostile files are
//! one clear error each.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use half::{bf16, f16};
use lapidary_coder::{
    Architecture, Description, Dictionary, ModelLoading, Penalty, Provenance, Pursuit, Shape,
    SparseCoder, Weight, Weights,
};
use lapidary_sae::Recipe;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

const D: usize = 4;
const F: usize = 6;

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| ((i * 37 + seed * 11) % 64) as f32 / 16.0 - 2.0)
        .collect()
}

fn dictionary(architecture: Architecture) -> Dictionary {
    let device = Device::flex();
    let matrix =
        |seed| Tensor::<2>::from_data(TensorData::new(numbers(F * D, seed), [F, D]), &device);
    let vector =
        |n: usize, seed| Tensor::<1>::from_data(TensorData::new(numbers(n, seed), [n]), &device);
    let mut weights = Weights::new([
        ("w_enc", matrix(1).into()),
        ("b_enc", vector(F, 2).into()),
        ("w_dec", matrix(3).into()),
        ("b_dec", vector(D, 4).into()),
    ]);
    if architecture == Architecture::JumpRelu {
        weights = weights.with("threshold", vector(F, 5).abs());
    }
    if architecture == Architecture::Gated {
        weights = Weights::new([
            ("w_enc", matrix(1).into()),
            ("b_gate", vector(F, 2).into()),
            ("b_mag", vector(F, 5).into()),
            ("r_mag", (vector(F, 6) / 4.0).into()),
            ("w_dec", matrix(3).into()),
            ("b_dec", vector(D, 4).into()),
        ]);
    }
    if let Architecture::MatchingPursuit(_) = architecture {
        weights = Weights::new([("w_dec", matrix(3).into()), ("b_dec", vector(D, 4).into())]);
    }
    Dictionary {
        coder: SparseCoder {
            architecture,
            k: if architecture == Architecture::TopK {
                2
            } else {
                6
            },
            apply_b_dec_to_input: true,
            weights,
        },
        provenance: Provenance {
            model_name: Some("gpt2".into()),
            hook_point: Some("blocks.2.hook_resid_post".into()),
            context: Some(128),
            prepend_bos: Some(true),
            corpus: Some("text.parquet".into()),
            steps: Some(7),
            tokens: Some(700),
            normalization: Some("unit_norm".into()),
            ..Default::default()
        },
    }
}

fn host<const N: usize>(t: &Tensor<N>) -> Vec<f32> {
    t.clone().try_into_vec_as().unwrap()
}

#[test]
fn a_dictionary_reads_back_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let pursuit = Pursuit {
        residual_threshold: 0.25,
        stop_on_duplicate_support: true,
        signed: false,
        refit: true,
    };
    for architecture in [
        Architecture::Standard,
        Architecture::TopK,
        Architecture::JumpRelu,
        Architecture::Gated,
        Architecture::MatchingPursuit(pursuit),
        Architecture::MatchingPursuit(Pursuit {
            signed: true,
            ..pursuit
        }),
        Architecture::Proximal(Penalty {
            shape: Shape::Scad,
            weight: 0.5,
            bend: 3.0,
        }),
    ] {
        let place = dir.path().join(format!("{architecture:?}"));
        let written = dictionary(architecture);
        written.save(&place).unwrap();
        written.save(&place).unwrap(); // replaces itself
        let read = Dictionary::load(&place, &Device::flex()).unwrap();
        assert_eq!(read.provenance, written.provenance);
        assert_eq!(read.coder.architecture, architecture);
        assert_eq!(read.coder.k, written.coder.k);
        let weights = |d: &Dictionary| -> Vec<(&str, Vec<usize>, Vec<f32>)> {
            let all = d.coder.weights.iter();
            all.map(|(name, w)| match w {
                Weight::Matrix(t) => (name, w.dims(), host(t)),
                Weight::Vector(t) => (name, w.dims(), host(t)),
            })
            .collect()
        };
        assert_eq!(weights(&read), weights(&written));
        // On disk the encoder is transposed: W_enc[j, i] = w_enc[i, j].
        let bytes = fs::read(place.join("sae_weights.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let Ok(view) = file.tensor("W_enc") else {
            // SAELens must not take for its own what it would do otherwise.
            let cfg = fs::read_to_string(place.join("cfg.json")).unwrap();
            assert!(cfg.contains("\"architecture\": \"lapidary_matching_pursuit\""));
            continue;
        };
        assert_eq!(view.shape(), [D, F]);
        let third = f32::from_le_bytes(view.data()[(2 * F + 1) * 4..][..4].try_into().unwrap());
        assert_eq!(third, host(&written.coder.w_enc())[D + 2]);
    }
    let names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 7, "no temporary folder stays: {names:?}");
}

#[test]
fn standard_codes_are_as_wide_as_the_densest_row() {
    let mut d = dictionary(Architecture::Standard);
    d.coder.k = 1;
    let x: Tensor<2> =
        Tensor::from_data(TensorData::new(numbers(9 * D, 8), [9, D]), &Device::flex());
    let codes = d.coder.encode(x.clone());
    let pre = (x - d.coder.b_dec().unsqueeze()).matmul(d.coder.w_enc().transpose())
        + d.coder.b_enc().unsqueeze();
    let active: Vec<f32> = host(&pre.clone().greater_elem(0.0).float().sum_dim(1));
    assert_eq!(
        codes.values.dims()[1] as f32,
        active.iter().copied().fold(0.0, f32::max)
    );
    let found: Vec<f32> = host(&codes.values.greater_elem(0.0).float().sum_dim(1));
    assert_eq!(found, active);
    let none = d.coder.encode(Tensor::zeros([0, D], &Device::flex()));
    assert_eq!(none.values.dims()[0], 0);
}

#[test]
fn each_latent_has_its_own_jumprelu_threshold() {
    let mut d = dictionary(Architecture::JumpRelu);
    let thresholds = [0.5f32, 3.0, f32::INFINITY, 0.0, 1.5, 2.0];
    let tensor = Tensor::<1>::from_floats(thresholds, &Device::flex());
    d.coder.weights = d.coder.weights.with("threshold", tensor);
    d.coder.k = 1; // the width must grow on its own
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("d");
    d.save(&place).unwrap();
    let coder = Dictionary::load(&place, &Device::flex()).unwrap().coder;
    let x = numbers(9 * D, 8);
    let codes = coder.encode(Tensor::from_data(
        TensorData::new(x.clone(), [9, D]),
        &Device::flex(),
    ));
    let k = codes.values.dims()[1];
    let (values, indices): (Vec<f32>, Vec<i32>) = (
        host(&codes.values),
        codes.indices.try_into_vec_as().unwrap(),
    );
    let (w, b, b_dec) = (
        host(&coder.w_enc()),
        host(&coder.b_enc()),
        host(&coder.b_dec()),
    );
    let mut seen = 0;
    for row in 0..9 {
        let mut expected: Vec<(f32, i32)> = (0..F)
            .map(|i| {
                let pre = b[i]
                    + (0..D)
                        .map(|j| w[i * D + j] * (x[row * D + j] - b_dec[j]))
                        .sum::<f32>();
                (pre, i as i32)
            })
            .filter(|(pre, i)| *pre > 0.0 && *pre > thresholds[*i as usize])
            .collect();
        expected.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let found: Vec<(f32, i32)> = (row * k..(row + 1) * k)
            .map(|p| (values[p], indices[p]))
            .filter(|(v, _)| *v != 0.0)
            .collect();
        seen += expected.len();
        assert_eq!(
            found.iter().map(|f| f.1).collect::<Vec<_>>(),
            expected.iter().map(|e| e.1).collect::<Vec<_>>()
        );
        for (f, e) in found.iter().zip(&expected) {
            assert!((f.0 - e.0).abs() < 1e-4);
        }
    }
    assert!(seen > 9);
}

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
        Dictionary::load(dir.path(), &Device::flex()).map_err(|e| {
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
    assert_eq!((d.coder.architecture, d.coder.k), (Architecture::TopK, 3));
    assert_eq!(
        d.provenance.hook_point.as_deref(),
        Some("blocks.1.hook_resid_pre")
    );
    assert_eq!(d.provenance.context, Some(64));
}

#[test]
fn decoder_norms_of_a_rescaled_topk_are_folded() {
    let mut f = foreign();
    f.cfg["rescale_acts_by_decoder_norm"] = json!(true);
    let d = f.load().unwrap();
    let plain = foreign().load().unwrap();
    let norm = |t: &Tensor<2>| -> Vec<f32> { host(&t.clone().square().sum_dim(1).sqrt()) };
    assert!(
        norm(&d.coder.w_dec())
            .iter()
            .all(|n| (n - 1.0).abs() < 1e-6)
    );
    let expected: Vec<f32> = host(&plain.coder.b_enc())
        .iter()
        .zip(norm(&plain.coder.w_dec()))
        .map(|(b, n)| b * n)
        .collect();
    for (a, b) in host(&d.coder.b_enc()).iter().zip(expected) {
        assert!((a - b).abs() < 1e-5);
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
        f.load().map(|d| d.coder.k)
    };
    assert_eq!(pursuit(65_536), Ok(65_536));
    assert_eq!(
        pursuit(65_537).unwrap_err(),
        "DIR/cfg.json: max_iterations: found 65537, expected at most steps = 65536"
    );
    assert_eq!(
        refused(&|f| f.cfg = json!([1])),
        "DIR/cfg.json: file: found [1], expected a JSON object"
    );

    let dir = tempfile::tempdir().unwrap();
    let load = || {
        Dictionary::load(dir.path(), &Device::flex())
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(load().starts_with("cannot read ") && load().contains("cfg.json"));
    foreign().write(dir.path());
    for bytes in [
        &b""[..],
        b"\xff\xff\xff\xff\xff\xff\xff\xff{}",
        b"\x02\0\0\0\0\0\0\0[]",
        &[7; 4096],
    ] {
        fs::write(dir.path().join("sae_weights.safetensors"), bytes).unwrap();
        assert!(
            load().contains("sae_weights.safetensors: header: found "),
            "{}",
            load()
        );
    }
    fs::write(dir.path().join("cfg.json"), "{\"a\": ").unwrap();
    assert!(
        load().contains("cfg.json: file: found EOF while parsing"),
        "{}",
        load()
    );
}

#[test]
fn saving_never_replaces_a_folder_that_is_not_a_dictionary() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let error = dictionary(Architecture::TopK)
        .save(dir.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("something that is not a dictionary"),
        "{error}"
    );
    assert!(dir.path().join("thesis.tex").exists());
}

#[test]
fn recipes_of_other_versions_are_read_or_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = RunConfig::parse("run.toml", "training.sparsity_warmup_steps = 3", &[]).unwrap();
    let mut written = dictionary(Architecture::TopK);
    written.provenance.recipe = Some(recipe.clone());
    let place = dir.path().join("dictionary");
    written.save(&place).unwrap();
    let path = place.join("cfg.json");
    let recipe_of = |change: fn(&mut Value)| {
        let mut cfg: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut cfg["metadata"]["lapidary"]["recipe"]);
        fs::write(&path, cfg.to_string()).unwrap();
        let read = Dictionary::load(&place, &Device::flex()).unwrap();
        read.provenance.recipe
    };
    assert_eq!(recipe_of(|_| ()).as_ref(), Some(&recipe));
    // An older one has another name for a key, and has not heard of another.
    let older = recipe_of(|recipe| {
        recipe["coder"]
            .as_object_mut()
            .unwrap()
            .remove("multi_topk");
        let training = recipe["training"].as_object_mut().unwrap();
        let steps = training.remove("sparsity_warmup_steps").unwrap();
        training.insert("l1_warmup_steps".into(), steps);
    });
    assert_eq!(older.as_ref(), Some(&recipe));
    // A newer one may have a coder that is not known here.
    let newer = recipe_of(|recipe| recipe["coder"]["architecture"] = json!("facets"));
    assert_eq!(newer, None);
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
    for (name, architecture, k, hook) in [
        (
            "cfg-with-nan",
            Architecture::Standard,
            None,
            "blocks.1.hook_resid_post",
        ),
        (
            "flat-cfg-without-architecture",
            Architecture::Standard,
            None,
            "blocks.1.hook_resid_pre",
        ),
        (
            "saelens5-topk",
            Architecture::TopK,
            Some(5),
            "blocks.1.hook_resid_post",
        ),
    ] {
        let folder = fixtures.join(name);
        let read = Dictionary::load(&folder, &Device::flex()).unwrap();
        assert_eq!(read.coder.architecture, architecture, "{name}");
        assert_eq!(read.provenance.hook_point.as_deref(), Some(hook), "{name}");
        assert_eq!(
            read.provenance.corpus.as_deref(),
            Some("Skylion007/openwebtext")
        );
        let described = Description::read(&folder).unwrap();
        assert_eq!((described.k, described.d_sae), (k, 40), "{name}");
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
fn what_decides_activations_stays_with_a_dictionary() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("d");
    let mut written = dictionary(Architecture::Standard);
    written.provenance.loading = ModelLoading {
        class: Some("HookedMamba".into()),
        options: serde_json::from_value(json!({"center_writing_weights": true, "fold_ln": false}))
            .unwrap(),
        head: Some(3),
        head_out: None,
        positions: Some(json!([5, -5])),
        excluded_tokens: Some(json!([0, 1])),
    };
    written.save(&place).unwrap();
    let read = Dictionary::load(&place, &Device::flex()).unwrap();
    assert_eq!(read.provenance, written.provenance);
    assert!(read.provenance.loading.changes_activations());
    // Under the names that SAELens has for them.
    let cfg: Value =
        serde_json::from_str(&fs::read_to_string(place.join("cfg.json")).unwrap()).unwrap();
    let metadata = &cfg["metadata"];
    assert_eq!(
        metadata["model_from_pretrained_kwargs"]["center_writing_weights"],
        true
    );
    assert_eq!(metadata["hook_head_index"], 3);
    assert_eq!(metadata["model_class_name"], "HookedMamba");
    assert_eq!(metadata["seqpos_slice"], json!([5, -5]));
    assert_eq!(metadata["exclude_special_tokens"], json!([0, 1]));
}

#[test]
fn metadata_that_say_what_is_usual_change_nothing() {
    for metadata in [
        json!({"model_from_pretrained_kwargs": {"center_writing_weights": false}, "hook_head_index": null}),
        json!({"seqpos_slice": [null], "exclude_special_tokens": false, "model_class_name": "HookedTransformer"}),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("d");
        dictionary(Architecture::Standard).save(&place).unwrap();
        let path = place.join("cfg.json");
        let mut cfg: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for (key, value) in metadata.as_object().unwrap() {
            cfg["metadata"][key] = value.clone();
        }
        fs::write(&path, cfg.to_string()).unwrap();
        let read = Dictionary::load(&place, &Device::flex()).unwrap();
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
        dictionary(Architecture::Standard).save(&place).unwrap();
        let path = place.join("cfg.json");
        let mut cfg: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        cfg["normalize_activations"] = value.clone();
        fs::write(&path, cfg.to_string()).unwrap();
        match Dictionary::load(&place, &Device::flex()) {
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
fn a_dictionary_with_foreign_files_beside_it_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("d");
    let d = dictionary(Architecture::Standard);
    d.save(&place).unwrap();
    fs::write(place.join("notes.md"), "years of work").unwrap();
    let error = d.save(&place).unwrap_err().to_string();
    assert!(error.contains("`notes.md`"), "{error}");
    assert_eq!(
        fs::read_to_string(place.join("notes.md")).unwrap(),
        "years of work"
    );
}

#[test]
fn an_error_says_its_cause_once() {
    let dir = tempfile::tempdir().unwrap();
    let error = Dictionary::load(&dir.path().join("none"), &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
    assert!(
        std::error::Error::source(&error).is_none(),
        "its message has the cause already"
    );
}
