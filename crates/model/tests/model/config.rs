//! Every key of every family's `config.json`, left out or set to null, means what it means to
//! `transformers` (`scripts/check_config_defaults.py` asks it), and so do older spellings.

use crate::fixtures::fixture;
use lapidary_model::{Activation, ModelConfig, Rope, RopeScaling};
use serde_json::{Map, Value, json};

/// A configuration in the words of the script.
fn facts(c: &ModelConfig) -> Value {
    let activation = match c.activation {
        Activation::GeluTanh => "gelu_new",
        Activation::Gelu => "gelu",
        Activation::Silu => "silu",
        Activation::Relu => "relu",
    };
    let rope = |rope: &Option<Rope>| match rope {
        None => Value::Null,
        Some(rope) => {
            let (kind, factor, original) = match &rope.scaling {
                RopeScaling::None => ("default", None, None),
                RopeScaling::Linear { factor } => ("linear", Some(*factor), None),
                RopeScaling::Llama3 {
                    factor, original, ..
                } => ("llama3", Some(*factor), Some(*original as u64)),
                other => panic!("{other:?}"),
            };
            json!({"theta": rope.theta, "type": kind, "dims": rope.dims, "factor": factor, "original": original})
        }
    };
    let same = |values: Vec<Value>| match values.iter().all(|v| *v == values[0]) {
        true => values[..1].to_vec(),
        false => values,
    };
    json!({
        "d_model": c.d_model, "n_layers": c.n_layers(), "n_heads": c.n_heads, "n_kv_heads": c.n_kv_heads,
        "d_head": c.d_head, "d_mlp": c.d_mlp, "d_vocab": c.d_vocab, "n_ctx": c.n_ctx, "norm_eps": c.norm_eps,
        "activation": activation, "tied": c.tied, "bos": c.bos, "eos": c.eos, "pad": c.pad, "qkv_bias": c.qkv_bias,
        "o_bias": c.o_bias, "mlp_bias": c.mlp_bias, "attn_softcap": c.attn_softcap, "logit_softcap": c.logit_softcap,
        "attn_scale": c.attn_scale, "parallel": c.parallel,
        "windows": same(c.layers.iter().map(|l| l.window.into()).collect()),
        "ropes": same(c.layers.iter().map(|l| rope(&l.rope)).collect()),
    })
}

/// Whether two values are the same, numbers nearly, and names of one function.
fn agree(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= 1e-9 * b.abs()
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| agree(a, b))
        }
        (Value::Object(a), Value::Object(b)) => b
            .iter()
            .all(|(key, value)| a.get(key).is_some_and(|a| agree(a, value))),
        (Value::String(a), Value::String(b)) => {
            a == b || (a == "gelu_new" && b == "gelu_pytorch_tanh")
        }
        _ => found == expected,
    }
}

#[test]
fn absent_and_null_keys_mean_what_they_mean_to_transformers() {
    let path = fixture("config-cases.json");
    let families: Map<String, Value> = lapidary_io::read_json(&path).unwrap();
    assert_eq!(families.len(), 10);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let mut wrong = vec![];
    let mut tried = 0;
    for (family, all) in &families {
        let whole = all["config"].as_object().unwrap();
        let unchanged = json!({"with": {}, "changes": {}});
        for case in std::iter::once(&unchanged).chain(all["cases"].as_array().unwrap()) {
            let mut config = whole.clone();
            for key in case["without"].as_array().into_iter().flatten() {
                config.remove(key.as_str().unwrap());
            }
            config.extend(case["with"].as_object().cloned().unwrap_or_default());
            std::fs::write(&file, Value::Object(config).to_string()).unwrap();
            let found = ModelConfig::read(&file);
            let what = format!("{family} without {} with {}", case["without"], case["with"]);
            tried += 1;
            let Some(changes) = case["changes"].as_object() else {
                if found.is_ok() {
                    wrong.push(format!("{what}: transformers refuses it"));
                }
                continue;
            };
            let found = match found {
                Ok(found) => facts(&found),
                Err(error) => {
                    wrong.push(format!("{what}: {error}"));
                    continue;
                }
            };
            let mut expected = all["expected"].as_object().unwrap().clone();
            expected.extend(changes.clone());
            for (key, value) in &expected {
                if !agree(&found[key], value) {
                    wrong.push(format!(
                        "{what}: {key}: found {}, expected {value}",
                        found[key]
                    ));
                }
            }
        }
    }
    assert!(tried > 350, "{tried} cases");
    assert!(
        wrong.is_empty(),
        "{} of {tried}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn several_ends_of_a_sequence_are_read_and_negative_ones_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let read = |eos: &str, bos: &str| {
        let text =
            format!(r#"{{"model_type": "llama", "eos_token_id": {eos}, "bos_token_id": {bos}}}"#);
        std::fs::write(&file, text).unwrap();
        ModelConfig::read(&file)
    };
    let config = read("[2, 550]", "1").unwrap();
    assert_eq!((config.eos, config.bos), (vec![2, 550], Some(1)));
    assert!(read("-1", "-1").unwrap().eos.is_empty());
    let error = read("\"</s>\"", "1").unwrap_err().to_string();
    assert!(
        error.contains("eos_token_id") && error.contains("a token id"),
        "{error}"
    );
}

#[test]
fn a_configuration_that_is_too_long_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    let error = ModelConfig::read(&file).unwrap_err().to_string();
    assert!(
        error.contains("config.json") && error.contains("at most"),
        "{error}"
    );
}
