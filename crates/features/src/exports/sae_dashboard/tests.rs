use serde_json::Value;

use super::*;
use crate::exports::tests::{dead, example, export, feature, histogram, names, written};
use crate::statistics::Band;

/// Keys of a batch, of a feature and of an activation, with a letter for the type: s for a string,
/// i for an integer, f for a float, ? for a string or null, S, I and F for lists of them, l for a
/// list of objects.
const BATCH: &[(&str, char)] = &[
    ("model_id", 's'),
    ("layer", 'i'),
    ("sae_set", 's'),
    ("sae_id_suffix", '?'),
    ("features", 'l'),
];
const FEATURE: &[(&str, char)] = &[
    ("feature_index", 'i'),
    ("neuron_alignment_indices", 'I'),
    ("neuron_alignment_values", 'F'),
    ("neuron_alignment_l1", 'F'),
    ("correlated_neurons_indices", 'I'),
    ("correlated_neurons_l1", 'F'),
    ("correlated_neurons_pearson", 'F'),
    ("correlated_features_indices", 'I'),
    ("correlated_features_l1", 'F'),
    ("correlated_features_pearson", 'F'),
    ("neg_str", 'S'),
    ("neg_values", 'F'),
    ("pos_str", 'S'),
    ("pos_values", 'F'),
    ("frac_nonzero", 'f'),
    ("freq_hist_data_bar_values", 'F'),
    ("freq_hist_data_bar_heights", 'I'),
    ("logits_hist_data_bar_heights", 'I'),
    ("logits_hist_data_bar_values", 'F'),
    ("n_prompts_total", 'i'),
    ("n_tokens_in_prompt", 'i'),
    ("dataset", 's'),
    ("decoder_weights_dist", 'F'),
    ("activations", 'l'),
    ("vector", 'F'),
];
const ACTIVATION: &[(&str, char)] = &[
    ("bin_min", 'f'),
    ("bin_max", 'f'),
    ("bin_contains", 'f'),
    ("tokens", 'S'),
    ("values", 'F'),
    ("qualifying_token_index", 'i'),
];

/// The classes that read the file take these keys and no other.
fn check(object: &Value, keys: &[(&str, char)]) -> Result<(), String> {
    let object = object.as_object().ok_or("no object")?;
    for key in object.keys() {
        if !keys.iter().any(|(known, _)| known == key) {
            return Err(format!("unknown {key}"));
        }
    }
    for (key, kind) in keys {
        let value = object.get(*key).ok_or(format!("no {key}"))?;
        let list = |of: fn(&Value) -> bool| value.as_array().is_some_and(|l| l.iter().all(of));
        let right = match kind {
            's' => value.is_string(),
            'i' => value.is_u64(),
            'f' => value.is_f64(),
            '?' => value.is_string() || value.is_null(),
            'S' => list(Value::is_string),
            'I' => list(Value::is_u64),
            'F' => list(Value::is_f64),
            _ => list(Value::is_object),
        };
        if !right {
            return Err(format!("{key} is {value}"));
        }
    }
    Ok(())
}

fn check_batch(batch: &Value) -> Result<(), String> {
    check(batch, BATCH)?;
    for feature in batch["features"].as_array().unwrap() {
        check(feature, FEATURE)?;
        for activation in feature["activations"].as_array().unwrap() {
            check(activation, ACTIVATION)?;
        }
    }
    Ok(())
}

#[test]
fn every_key_of_a_batch_is_there_and_of_its_type() {
    let names = names();
    let features = [feature(0), dead(1)];
    let examples = [
        example(0, Band::Q50, 0, &[0.0, 1.0]),
        example(0, Band::Top, 0, &[0.5, 4.0, 0.0]),
    ];
    let histograms = [histogram(), vec![]];
    let export = DictionaryExport {
        histograms: &histograms,
        ..export(&names, &features, &examples)
    };
    let (files, paths) = written(write_sae_dashboard, &export).unwrap();
    assert_eq!(paths, ["run_settings.json", "batch-0.json"]);
    let batch: Value = serde_json::from_slice(&files["batch-0.json"]).unwrap();
    check_batch(&batch).unwrap();

    // The check notices a missing key at every level.
    for (path, keys) in [
        ("", BATCH),
        ("/features/0", FEATURE),
        ("/features/0/activations/0", ACTIVATION),
    ] {
        for (key, _) in keys {
            let mut without = batch.clone();
            let object = without.pointer_mut(path).unwrap().as_object_mut();
            assert!(object.unwrap().remove(*key).is_some());
            let error = check_batch(&without).unwrap_err();
            assert_eq!(error, format!("no {key}"));
        }
    }
}

#[test]
fn contexts_come_strongest_first_with_their_intervals() {
    let names = names();
    let features = [feature(0)];
    let examples = [
        example(0, Band::Q25, 0, &[1.0, 0.0]),
        example(0, Band::Top, 1, &[0.0, 3.0]),
        example(0, Band::Top, 0, &[0.0, 4.0]),
    ];
    let histograms = [histogram()];
    let export = DictionaryExport {
        histograms: &histograms,
        ..export(&names, &features, &examples)
    };
    let (files, _) = written(write_sae_dashboard, &export).unwrap();
    let batch: Value = serde_json::from_slice(&files["batch-0.json"]).unwrap();
    let activations = batch["features"][0]["activations"].as_array().unwrap();
    let numbers = |key: &str| -> Vec<f64> {
        let of_key = activations.iter().map(|a| a[key].as_f64().unwrap());
        of_key.collect()
    };
    assert_eq!(activations[0]["values"], serde_json::json!([0.0, 4.0]));
    assert_eq!(activations[1]["values"], serde_json::json!([0.0, 3.0]));
    let close = |got: Vec<f64>, expected: [f64; 3]| {
        assert!(
            got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
            "{got:?}"
        );
    };
    close(numbers("bin_min"), [-1.0, -1.0, 0.8]);
    close(numbers("bin_max"), [4.0, 4.0, 1.6]);
    // From 0.8 to 1.6: 60 * 0.4 + 30 * 0.6 of 100 firings, on a quarter of all tokens.
    close(numbers("bin_contains"), [-1.0, -1.0, 0.42 * 0.25]);
    close(numbers("qualifying_token_index"), [1.0, 1.0, 0.0]);
}

#[test]
fn numbers_that_are_not_finite_never_reach_the_file() {
    let names = names();
    let mut features = [feature(0), feature(1)];
    features[0].max_activation = f32::NAN;
    features[0].promoted[0].logit = f32::INFINITY;
    features[0].suppressed[0].logit = f32::NAN;
    let examples = [
        example(0, Band::Top, 0, &[f32::NAN, 1.0]),
        example(0, Band::Top, 1, &[0.0, 2.0]),
        example(1, Band::Q75, 0, &[f32::INFINITY]),
    ];
    let (files, _) = written(write_sae_dashboard, &export(&names, &features, &examples)).unwrap();
    let batch: Value = serde_json::from_slice(&files["batch-0.json"]).unwrap();
    check_batch(&batch).unwrap();
    let first = &batch["features"][0];
    assert_eq!(first["pos_str"], serde_json::json!(["</div>"]));
    assert_eq!(first["neg_values"], serde_json::json!([]));
    assert_eq!(first["activations"].as_array().unwrap().len(), 1);
    assert_eq!(batch["features"][1]["activations"], serde_json::json!([]));
}

#[test]
fn a_dictionary_of_1025_latents_has_two_batches_and_an_empty_one_none() {
    let names = names();
    let features: Vec<_> = (0..1025).map(dead).collect();
    let (files, paths) = written(write_sae_dashboard, &export(&names, &features, &[])).unwrap();
    assert_eq!(paths, ["run_settings.json", "batch-0.json", "batch-1.json"]);
    let ids = |name: &str| -> Vec<u64> {
        let batch: Value = serde_json::from_slice(&files[name]).unwrap();
        let features = batch["features"].as_array().unwrap().clone();
        features
            .iter()
            .map(|f| f["feature_index"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(ids("batch-0.json"), (0..1024).collect::<Vec<_>>());
    assert_eq!(ids("batch-1.json"), [1024]);
    let (_, paths) = written(write_sae_dashboard, &export(&names, &[], &[])).unwrap();
    assert_eq!(paths, ["run_settings.json"]);
}

#[test]
fn the_settings_say_what_the_batches_show() {
    let mut names = names();
    names.suffix = Some("l0-32".into());
    let features = [feature(0)];
    let (files, _) = written(write_sae_dashboard, &export(&names, &features, &[])).unwrap();
    let settings: Value = serde_json::from_slice(&files["run_settings.json"]).unwrap();
    let batch: Value = serde_json::from_slice(&files["batch-0.json"]).unwrap();
    assert_eq!(batch["sae_id_suffix"], "l0-32");
    for (setting, shown) in [
        ("model_id", &batch["model_id"]),
        ("layer", &batch["layer"]),
        ("np_set_name", &batch["sae_set"]),
        ("np_sae_id_suffix", &batch["sae_id_suffix"]),
        ("n_prompts_total", &batch["features"][0]["n_prompts_total"]),
        (
            "n_tokens_in_prompt",
            &batch["features"][0]["n_tokens_in_prompt"],
        ),
        ("huggingface_dataset_path", &batch["features"][0]["dataset"]),
    ] {
        assert_eq!(&settings[setting], shown, "{setting}");
    }
}
