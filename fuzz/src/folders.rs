//! Folders with good files in them, made once a process: copies of `tests/fixtures`, and what the
//! library itself writes.

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_activations::{
    ActivationMatrix, BatchSource, Excluded, Exclusion, RowPlace, StoreDtype, StoreSettings,
    StoreWriter, StoredHook,
};
use lapidary_coder::{Architecture, Dictionary, Provenance, Sites, SparseCoder, Weights};
use lapidary_features::{
    Band, ExampleRow, FeatureRow, FiringToken, LogitToken, TableSource, write_examples, write_features,
};
use lapidary_formats::{Format, QuantizedDictionary, save_all};
use lapidary_io::StagedFolder;
use lapidary_io::tensors::TensorWriter;
use lapidary_quantize::{Bits, Calibration, Granularity};
use lapidary_sae::{Recipe, TrainingRun};
use polars::prelude::{Column, DataFrame, ParquetWriter};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The folder of this process, in the folder for temporary files.
pub(crate) fn scratch() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| tempfile::tempdir().expect("a temporary folder"))
        .path()
}

/// A folder of [`scratch`], filled when it is first asked for.
pub(crate) fn folder(name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let path = scratch().join(name);
    if !path.exists() {
        fs::create_dir_all(&path).expect("a temporary folder");
        fill(&path);
    }
    path
}

/// A file or folder of `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    root.join(name)
}

/// Copies the files of a folder, those of its folders not.
pub(crate) fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
        }
    }
}

/// Width of activations, and latents, of everything made here.
pub(crate) const D: usize = 4;
const LATENTS: usize = 6;
const HOOK: &str = "blocks.0.hook_resid_post";

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    let number = |i| ((i * 37 + seed * 11) % 64) as f32 / 16.0 - 2.0;
    (0..n).map(number).collect()
}

/// A store of two shards at one hook point.
pub(crate) fn store(path: &Path) {
    let settings = StoreSettings {
        model: "m".into(),
        model_digest: "0".repeat(16),
        tokenizer_digest: "0".repeat(16),
        corpus: "c".into(),
        text_field: "text".into(),
        context: 8,
        prepend_bos: false,
        bos_token: None,
        attend_across_documents: false,
        batch_blocks: 2,
        hook_points: vec![StoredHook {
            name: HOOK.into(),
            d_in: D,
        }],
        dtype: StoreDtype::Int8,
        shard_tokens: 24,
        exclude: Exclusion {
            special_tokens: false,
            first_positions: 0,
            norm_multiple: None,
        },
    };
    let mut writer = StoreWriter::open(path, settings).expect("a store");
    for i in 0..40u32 {
        let (document, position) = (i / 10, i % 10);
        let place = RowPlace {
            token: i,
            document,
            position,
        };
        let row = numbers(D, i as usize);
        writer.push(&[place], &[&row]).expect("a row");
        if writer.room() == 0 || i == 39 {
            let closed = writer.close_shard(u64::from(i) + 1, 0, 7, Excluded::default());
            closed.expect("a shard");
        }
    }
    writer.finish().expect("a store");
}

/// What a training run draws from.
pub(crate) fn source() -> Box<dyn BatchSource> {
    let rows = TensorData::new(numbers(64 * D, 3), [64, D]);
    let rows = Tensor::from_data(rows, &Device::flex());
    Box::new(ActivationMatrix::aligned(vec![rows], 16, 3).expect("a matrix"))
}

/// The checkpoint of a run of two coders.
pub(crate) fn checkpoint(path: &Path) {
    let recipe = |settings: &[&str]| {
        let text = format!(
            "hook_point = '{HOOK}'
             [coder]
             d_sae = {LATENTS}
             k = 2
             [training]
             batch_tokens = 16
             tokens = 64
             dead_after_tokens = 16"
        );
        let set: Vec<String> = settings.iter().map(ToString::to_string).collect();
        Recipe::parse("recipe.toml", &text, &set).expect("a recipe")
    };
    let recipes = [recipe(&[]), recipe(&["coder.architecture=jumprelu"])];
    let mut run = TrainingRun::new(&recipes, source(), &Device::flex()).expect("a run");
    run.step().expect("a step");
    run.save_checkpoint(path).expect("a checkpoint");
}

/// The same as of format version 2, which has no checksums: what is changed in it is read.
pub(crate) fn old_checkpoint(path: &Path) {
    checkpoint(path);
    let manifest = path.join("manifest.json");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    value["format_version"] = 2.into();
    for key in ["files", "checksum"] {
        value.as_object_mut().expect("an object").remove(key);
    }
    fs::write(manifest, value.to_string()).expect("a manifest");
}

/// A dictionary that every format which is written can hold.
fn dictionary() -> Dictionary {
    Dictionary {
        coder: coder(Architecture::TopK { k: 2 }, true).into(),
        provenance: provenance(Sites::autoencoder("blocks.2.hook_resid_post")),
    }
}

/// A transcoder, for circuit-tracer's sets.
fn transcoder() -> Dictionary {
    let sites = Sites::transcoder("blocks.2.ln2.hook_normalized", "blocks.2.hook_mlp_out");
    Dictionary {
        coder: coder(Architecture::Standard, false).into(),
        provenance: provenance(sites),
    }
}

fn provenance(sites: Sites) -> Provenance {
    Provenance {
        model_name: Some("gpt2".into()),
        sites,
        context: Some(128),
        tokens: Some(700),
        ..Provenance::default()
    }
}

fn coder(architecture: Architecture, apply_b_dec_to_input: bool) -> SparseCoder {
    let device = Device::flex();
    let matrix = |seed| {
        let values = TensorData::new(numbers(LATENTS * D, seed), [LATENTS, D]);
        Tensor::<2>::from_data(values, &device)
    };
    let vector = |n, seed| {
        let values = TensorData::new(numbers(n, seed), [n]);
        Tensor::<1>::from_data(values, &device)
    };
    let weights = Weights::default()
        .with("w_enc", matrix(1))
        .with("b_enc", vector(LATENTS, 2))
        .with("w_dec", matrix(3))
        .with("b_dec", vector(D, 4));
    SparseCoder {
        architecture,
        apply_b_dec_to_input,
        weights,
    }
}

/// The formats with a configuration of their own, each with the file that it is in; and the weights
/// of a quantized dictionary.
pub(crate) const CONFIGURED: [(&str, &str); 8] = [
    ("saelens", "cfg.json"),
    ("sparsify", "cfg.json"),
    ("dictionary_learning", "config.json"),
    ("circuit-tracer", "config.yaml"),
    ("llama_scope", "hyperparams.json"),
    ("llamascopium", "config.json"),
    ("quantized", "cfg.json"),
    ("quantized-weights", "quantized_weights.safetensors"),
];

/// A dictionary in one of [`CONFIGURED`].
pub(crate) fn configured(name: &str, path: &Path) {
    let written = |format, dictionary| {
        let saved = save_all(&[dictionary], path, format);
        saved.unwrap_or_else(|e| panic!("{name}: {e}"));
    };
    match name {
        "saelens" => written(Format::SaeLens, dictionary()),
        "sparsify" => written(Format::Sparsify, dictionary()),
        "dictionary_learning" => written(Format::DictionaryLearning, dictionary()),
        "circuit-tracer" => written(Format::CircuitTracer, transcoder()),
        "quantized" | "quantized-weights" => {
            let (group, range) = (Granularity::Group32, Calibration::MinMax);
            let quantized = QuantizedDictionary::new(&dictionary(), Bits::Four, group, range);
            let begun = StagedFolder::begin(path).expect("a folder");
            let saved = quantized.expect("integers").save(begun);
            drop(saved.expect("a dictionary"));
        }
        "llama_scope" => {
            let config = r#"{"d_model": 4, "d_sae": 6, "jump_relu_threshold": 0.5, "act_fn": "jumprelu", "norm_activation": "dataset-wise",
                "dataset_average_activation_norm": {"in": 4.0, "out": 4.0}, "use_glu_encoder": false,
                "hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": "blocks.3.hook_resid_post"}"#;
            fs::write(path.join("hyperparams.json"), config).expect("a file");
            fs::create_dir(path.join("checkpoints")).expect("a folder");
            let tensors = tensors([
                ("encoder.weight", &[LATENTS, D]),
                ("encoder.bias", &[LATENTS]),
                ("decoder.weight", &[D, LATENTS]),
                ("decoder.bias", &[D]),
            ]);
            let written = tensors.write(&path.join("checkpoints/final.safetensors"), None);
            written.expect("tensors");
        }
        _ => {
            let config = r#"{"sae_type": "sae", "d_model": 4, "expansion_factor": 1.5, "act_fn": "topk", "top_k": 2, "use_decoder_bias": true,
                "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": true,
                "hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": "blocks.3.hook_resid_post"}"#;
            fs::write(path.join("config.json"), config).expect("a file");
            let norm = "dataset_average_activation_norm.blocks.3.hook_resid_post";
            let mut tensors = tensors([
                ("W_E", &[D, LATENTS]),
                ("b_E", &[LATENTS]),
                ("W_D", &[LATENTS, D]),
                ("b_D", &[D]),
            ]);
            tensors.f32(norm, &[], &[4.0]);
            let written = tensors.write(&path.join("sae_weights.safetensors"), None);
            written.expect("tensors");
        }
    }
}

/// Tensors with their shapes; each has other numbers.
fn tensors(shapes: [(&str, &[usize]); 4]) -> TensorWriter<'static> {
    let mut out = TensorWriter::default();
    for (number, (name, shape)) in shapes.into_iter().enumerate() {
        let values = numbers(shape.iter().product(), number + 1);
        out.f32(name, shape, &values);
    }
    out
}

/// `features.parquet` and `examples.parquet` of few latents, and `texts.parquet`, a corpus.
pub(crate) fn tables(path: &Path) {
    let texts = [Some("war and peace"), None, Some("été")];
    let mut frame = DataFrame::new(
        texts.len(),
        vec![
            Column::new("text".into(), texts),
            Column::new("label".into(), ["a", "b", "a"]),
        ],
    )
    .expect("a table");
    let file = fs::File::create(path.join("texts.parquet")).expect("a file");
    ParquetWriter::new(file)
        .finish(&mut frame)
        .expect("a table");
    let token = |id, logit| LogitToken {
        text: "in".into(),
        id,
        logit,
    };
    let feature = |feature_id| FeatureRow {
        feature_id,
        hook_point: HOOK.into(),
        firing_density: 0.25,
        firing_count: 10,
        mean_activation: 1.0,
        max_activation: 2.0,
        std_activation: 0.5,
        quantiles: [0.25, 0.5, 1.0, 1.5, 2.0],
        mean_position: Some(12.5),
        decoder_norm: 1.0,
        relative_decoder_norms: vec![1.0],
        encoder_decoder_cosine: Some(0.5),
        promoted: vec![token(1, 2.0), token(2, 1.0)],
        suppressed: vec![token(3, -1.0)],
        top_tokens: vec![FiringToken {
            text: " war".into(),
            id: 7,
            count: 4,
            mean_activation: 1.5,
            lift: Some(3.0),
        }],
        peak_token: None,
        dead: false,
        code: None,
    };
    let source = TableSource::default();
    write_features(&path.join("features.parquet"), &[feature(0), feature(1)], &source).expect("a table");
    let example = |rank| ExampleRow {
        feature_id: 0,
        rank,
        band: Band::Top,
        max_activation: 2.0,
        tokens: vec!["of".into(), " war".into()],
        token_ids: vec![4, 7],
        activations: vec![0.0, 2.0],
        peak_index: 1,
        document: 3,
        position: 9,
    };
    write_examples(&path.join("examples.parquet"), &[example(0), example(1)], &source).expect("a table");
}
