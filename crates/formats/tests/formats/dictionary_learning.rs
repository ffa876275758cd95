//! dictionary_learning's files, as PyTorch wrote them.

use std::fs;
use std::path::PathBuf;

use lapidary_coder::{Architecture, Coder, Dictionary, Sites};
use lapidary_formats::Format;
use serde_json::{Value, json};

use crate::folder::{D, F, assert_weights, fixture, host, numbers, opened, sparse};

/// A trainer's folder with a fixture as its weights.
struct Trainer {
    dir: tempfile::TempDir,
    ae: PathBuf,
}

impl Trainer {
    fn new(name: &str, config: Option<Value>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ae = dir.path().join("ae.pt");
        fs::copy(fixture(&format!("{name}.pt")), &ae).unwrap();
        if let Some(config) = config {
            fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        }
        Self { dir, ae }
    }

    fn open(&self) -> Result<Dictionary, String> {
        opened(self.dir.path(), None)
    }
}

fn config(class: &str) -> Value {
    json!({"trainer": {"dict_class": class, "activation_dim": D, "dict_size": F, "k": 2, "layer": 8, "steps": 100,
                       "lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": "resid_post_layer_8"},
           "buffer": {"ctx_len": 128}})
}

fn read(name: &str, class: &str) -> Result<Dictionary, String> {
    Trainer::new(name, Some(config(class))).open()
}

#[test]
fn the_class_says_what_tensors_mean() {
    let topk = read("topk", "AutoEncoderTopK").unwrap();
    assert_eq!(topk.coder.architecture(), Architecture::TopK { k: 2 });
    assert!(sparse(&topk).apply_b_dec_to_input);
    assert_weights(&topk);
    let from = topk.provenance;
    assert_eq!(
        from.model_name.as_deref(),
        Some("EleutherAI/pythia-70m-deduped")
    );
    assert_eq!(from.sites, Sites::autoencoder("blocks.8.hook_resid_post"));
    assert_eq!((from.context, from.steps), (Some(128), Some(100)));

    let batch = read("topk", "BatchTopKSAE").unwrap();
    assert_eq!(batch.coder.architecture(), Architecture::JumpRelu);
    assert_eq!(host(&sparse(&batch).threshold().unwrap()), [0.5; F]);
    assert_eq!(
        batch.provenance.training_architecture.as_deref(),
        Some("batchtopk")
    );
    assert_weights(&batch);

    let jump = read("jumprelu", "JumpReluAutoEncoder").unwrap();
    assert!(!sparse(&jump).apply_b_dec_to_input);
    let thresholds: Vec<f32> = numbers(F, 5).iter().map(|t| t.max(0.0)).collect();
    assert_eq!(host(&sparse(&jump).threshold().unwrap()), thresholds);
    assert_weights(&jump);

    for name in ["topk_bf16", "topk_views"] {
        assert_weights(&read(name, "AutoEncoderTopK").unwrap());
    }
    let mut square = config("AutoEncoderTopK");
    square["trainer"]["dict_size"] = json!(D);
    let square = Trainer::new("topk_square", Some(square)).open().unwrap();
    assert_eq!(host(&square.coder.w_enc()), numbers(D * D, 1));
    assert_eq!(host(&square.coder.w_dec()), numbers(D * D, 3));
}

#[test]
fn a_file_without_its_configuration_is_read_where_only_one_class_fits() {
    let error = Trainer::new("topk", None).open().map(|_| ()).unwrap_err();
    assert_eq!(
        error,
        "DIR/ae.pt: tensors: found those of AutoEncoderTopK and of BatchTopKSAE, expected a config.json beside, or a folder above, whose trainer.dict_class says which"
    );
    let jump = Trainer::new("jumprelu", None).open().unwrap();
    assert_weights(&jump);
}

#[test]
fn a_checkpoint_finds_the_configuration_above_it() {
    let trainer = Trainer::new("topk", Some(config("AutoEncoderTopK")));
    let checkpoints = trainer.dir.path().join("checkpoints");
    fs::create_dir(&checkpoints).unwrap();
    let file = checkpoints.join("ae_100.pt");
    fs::rename(&trainer.ae, &file).unwrap();
    assert_weights(&opened(&file, None).unwrap());
    fs::copy(&file, checkpoints.join("ae_200.pt")).unwrap();
    let two = opened(&checkpoints, Some(Format::DictionaryLearning));
    assert_eq!(
        two.map(|_| ()).unwrap_err(),
        "DIR: files: found 2 of them, [ae_100.pt, ae_200.pt], expected one file .pt: name one, such as DIR/ae_100.pt"
    );
}

#[test]
fn what_is_wrong_is_refused_with_the_reason() {
    let refused = |name, class| read(name, class).map(|_| ()).unwrap_err();
    let topk = |name| refused(name, "AutoEncoderTopK");
    assert_eq!(
        topk("transposed"),
        "DIR/ae.pt: tensor `encoder.weight`: found shape [4, 6], expected shape [6, 4] (this one lies transposed)"
    );
    let named = "those of a AutoEncoderTopK: [encoder.weight, encoder.bias, decoder.weight, b_dec, k, threshold]";
    assert_eq!(
        topk("missing"),
        format!(
            "DIR/ae.pt: tensors: found [decoder.weight, encoder.bias, encoder.weight, k, threshold], expected {named}"
        )
    );
    assert!(topk("extra").contains("tensors: found [W_skip, b_dec, "));
    assert_eq!(
        topk("wrong_k"),
        "DIR/ae.pt: tensor `k`: found 7, expected 2, as config.json has it"
    );
    assert_eq!(
        topk("integers"),
        "DIR/ae.pt: tensor `encoder.weight`: found type I32, expected F32, F16, BF16 or F64"
    );
    assert_eq!(
        topk("nan"),
        "DIR/ae.pt: tensor `encoder.bias`: found NaN at element 0, expected finite numbers"
    );
    assert!(
        refused("topk", "JumpReluAutoEncoder").contains("expected those of a JumpReluAutoEncoder")
    );
    assert!(
        refused("topk", "IdentityDict")
            .contains("trainer.dict_class: found \"IdentityDict\", expected one of AutoEncoder, ")
    );
    assert_eq!(
        refused("unset_threshold", "BatchTopKSAE"),
        "DIR/ae.pt: tensor `threshold`: found -1: training ended before it was set (threshold_start_step), expected the threshold that inference uses"
    );
    assert_eq!(
        refused("groups", "MatryoshkaBatchTopKSAE"),
        "DIR/ae.pt: tensor `group_sizes`: found [2, 3], expected sizes that add up to dict_size = 6"
    );
    let mut other = config("AutoEncoderTopK");
    other["trainer"]["k"] = json!(7);
    let seven = Trainer::new("wrong_k", Some(other))
        .open()
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        seven,
        "DIR/ae.pt: tensor `k`: found 7, expected 1 to dict_size = 6"
    );
}

#[test]
fn nothing_in_a_pickle_is_run_or_trusted() {
    let refused = |name| read(name, "AutoEncoderTopK").map(|_| ()).unwrap_err();
    let expected = "expected a zip archive by torch.save with tensors under names";
    for (name, found) in [
        ("float8", "torch.float8_e4m3fn"),
        ("rebuilt", "'__main__.Call'"),
        ("huge_view", "4398046511104 bytes, above"),
        ("legacy", "Legacy"),
    ] {
        let error = refused(name);
        let whole = error.starts_with("DIR/ae.pt: archive: found ") && error.ends_with(expected);
        assert!(whole && error.contains(found), "{name}: {error}");
    }
    let view = refused("wide_view");
    let found = "tensor `encoder.weight`: found shape [1024, 1024], 4194304 bytes, expected no more than the file's";
    assert!(view.contains(found), "{view}");
    assert_eq!(
        refused("call"),
        "DIR/ae.pt: `b_dec`: found Unsupported(\"posix.system\"), expected a tensor"
    );
    assert_eq!(
        refused("object"),
        "DIR/ae.pt: `config`: found Dict({\"lr\": Float(1.0)}), expected a tensor"
    );
    assert!(refused("no_dictionary").contains("found list, expected"));

    // Every file cut short is an error; every byte of one flipped is an error or a file, never a
    // panic.
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("config.json"),
        config("AutoEncoderTopK").to_string(),
    )
    .unwrap();
    let ae = dir.path().join("ae.pt");
    let bytes = fs::read(fixture("topk.pt")).unwrap();
    for length in (0..bytes.len()).step_by(7) {
        fs::write(&ae, &bytes[..length]).unwrap();
        assert!(opened(dir.path(), None).is_err(), "cut at {length}");
    }
    for at in (0..bytes.len()).step_by(3) {
        let mut bent = bytes.clone();
        bent[at] ^= 0x41;
        fs::write(&ae, &bent).unwrap();
        let _ = opened(dir.path(), None);
    }
}
