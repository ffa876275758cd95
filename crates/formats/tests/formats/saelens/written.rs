//! What is written reads back exactly, and nothing else is lost.

use std::fs;

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_coder::{
    AnyCoder, Architecture, Coder, Dictionary, ModelLoading, Penalty, Pursuit, Shape, Weight,
    WeightKey,
};
use lapidary_formats::saelens::{load, save};
use lapidary_sae::Recipe;
use serde_json::{Value, json};

use super::dictionary::{D, F, dictionary, host, numbers};

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
        Architecture::TopK { k: 2 },
        Architecture::JumpRelu,
        Architecture::Gated,
        Architecture::MatchingPursuit { steps: 6, pursuit },
        Architecture::MatchingPursuit {
            steps: 6,
            pursuit: Pursuit {
                signed: true,
                ..pursuit
            },
        },
        Architecture::Proximal(Penalty {
            shape: Shape::Scad,
            weight: 0.5,
            shape_param: 3.0,
        }),
    ] {
        let place = dir.path().join(format!("{architecture:?}"));
        let written = dictionary(architecture);
        save(&written, &place).unwrap();
        save(&written, &place).unwrap(); // replaces itself
        let read = load(&place, &Device::flex()).unwrap();
        assert_eq!(read.provenance, written.provenance);
        assert_eq!(read.coder.architecture(), architecture);
        let weights = |d: &Dictionary| -> Vec<(WeightKey, Vec<usize>, Vec<f32>)> {
            let all = d.coder.weights().into_iter();
            all.map(|(key, w)| match &w {
                Weight::Matrix(t) => (key, w.dims(), host(t)),
                Weight::Vector(t) => (key, w.dims(), host(t)),
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
fn each_latent_has_its_own_jumprelu_threshold() {
    let mut d = dictionary(Architecture::JumpRelu);
    let thresholds = [0.5f32, 3.0, f32::INFINITY, 0.0, 1.5, 2.0];
    let tensor = Tensor::<1>::from_floats(thresholds, &Device::flex());
    let AnyCoder::Sparse(own) = &mut d.coder else {
        unreachable!()
    };
    own.weights = own.weights.clone().with("threshold", tensor);
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("d");
    save(&d, &place).unwrap();
    let read = load(&place, &Device::flex()).unwrap();
    let coder = read.coder.as_sparse().unwrap();
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
    save(&written, &place).unwrap();
    let read = load(&place, &Device::flex()).unwrap();
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
fn recipes_of_other_versions_are_read_or_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = Recipe::parse("run.toml", "training.sparsity_warmup_steps = 3", &[]).unwrap();
    let mut written = dictionary(Architecture::TopK { k: 2 });
    written.provenance.recipe = Some(recipe.to_json());
    let place = dir.path().join("dictionary");
    save(&written, &place).unwrap();
    let path = place.join("cfg.json");
    let recipe_of = |change: fn(&mut Value)| {
        let mut cfg: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut cfg["metadata"]["lapidary"]["recipe"]);
        fs::write(&path, cfg.to_string()).unwrap();
        let read = load(&place, &Device::flex()).unwrap().provenance.recipe;
        // The dictionary keeps what the file says, whether it can be read here or not.
        assert_eq!(read.as_ref(), Some(&cfg["metadata"]["lapidary"]["recipe"]));
        Recipe::from_json(&read.unwrap())
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

#[test]
fn saving_never_replaces_a_folder_that_is_not_a_dictionary() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let written = dictionary(Architecture::TopK { k: 2 });
    let error = save(&written, dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("something that is not a dictionary"),
        "{error}"
    );
    assert!(dir.path().join("thesis.tex").exists());
}

#[test]
fn a_dictionary_with_foreign_files_beside_it_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("d");
    let d = dictionary(Architecture::Standard);
    save(&d, &place).unwrap();
    fs::write(place.join("notes.md"), "years of work").unwrap();
    let error = save(&d, &place).unwrap_err().to_string();
    assert!(error.contains("`notes.md`"), "{error}");
    assert_eq!(
        fs::read_to_string(place.join("notes.md")).unwrap(),
        "years of work"
    );
}
