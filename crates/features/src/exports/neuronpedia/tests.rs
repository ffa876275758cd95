use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use serde_json::{Map, Value, json};

use super::*;
use crate::exports::tests::{dead, example, export, feature, histogram, names, written};
use crate::statistics::Band;

/// Type of a column: a list is never null and holds no null.
#[derive(Clone, Copy)]
enum Type {
    Text,
    Integer,
    Float,
    Bool,
    Time,
    Texts,
    Integers,
    Floats,
}
use Type::*;

#[derive(Clone, Copy, PartialEq)]
enum Column {
    /// Not null, and the database has no default: must be there.
    Required,
    /// Not null, but may be missing.
    Default,
    /// May be null or missing.
    Nullable,
}
use Column::*;

type Table = &'static [(&'static str, Type, Column)];

/// The columns of Neuronpedia's database that have a meaning in an export.
const RELEASE: Table = &[
    ("name", Text, Required),
    ("visibility", Text, Default),
    ("isNewUi", Bool, Default),
    ("featured", Bool, Default),
    ("description", Text, Required),
    ("descriptionShort", Text, Nullable),
    ("urls", Texts, Default),
    ("creatorEmail", Text, Nullable),
    ("creatorName", Text, Required),
    ("creatorNameShort", Text, Nullable),
    ("creatorId", Text, Required),
    ("defaultSourceSetName", Text, Nullable),
    ("defaultSourceId", Text, Nullable),
    ("defaultUmapSourceIds", Texts, Default),
    ("createdAt", Time, Default),
];
const MODEL: Table = &[
    ("id", Text, Required),
    ("displayNameShort", Text, Default),
    ("displayName", Text, Default),
    ("creatorId", Text, Required),
    ("tlensId", Text, Nullable),
    ("dimension", Integer, Nullable),
    ("visibility", Text, Default),
    ("defaultSourceSetName", Text, Nullable),
    ("defaultSourceId", Text, Nullable),
    ("inferenceEnabled", Bool, Default),
    ("instruct", Bool, Default),
    ("layers", Integer, Required),
    ("neuronsPerLayer", Integer, Required),
    ("createdAt", Time, Default),
    ("owner", Text, Required),
    ("updatedAt", Time, Default),
    ("website", Text, Nullable),
];
const SOURCE_SET: Table = &[
    ("modelId", Text, Required),
    ("name", Text, Required),
    ("hasDashboards", Bool, Default),
    ("allowInferenceSearch", Bool, Default),
    ("visibility", Text, Default),
    ("description", Text, Required),
    ("type", Text, Default),
    ("creatorName", Text, Required),
    ("urls", Texts, Default),
    ("creatorEmail", Text, Nullable),
    ("creatorId", Text, Required),
    ("releaseName", Text, Nullable),
    ("defaultRange", Integer, Default),
    ("defaultShowBreaks", Bool, Default),
    ("showDfa", Bool, Default),
    ("showCorrelated", Bool, Default),
    ("showHeadAttribution", Bool, Default),
    ("showUmap", Bool, Default),
    ("createdAt", Time, Default),
];
const SOURCE: Table = &[
    ("id", Text, Required),
    ("modelId", Text, Required),
    ("hasDashboards", Bool, Default),
    ("inferenceEnabled", Bool, Default),
    ("saelensRelease", Text, Nullable),
    ("saelensSaeId", Text, Nullable),
    ("hfRepoId", Text, Nullable),
    ("hfFolderId", Text, Nullable),
    ("visibility", Text, Default),
    ("setName", Text, Required),
    ("creatorId", Text, Required),
    ("hasUmap", Bool, Default),
    ("num_prompts", Integer, Nullable),
    ("num_tokens_in_prompt", Integer, Nullable),
    ("dataset", Text, Nullable),
    ("notes", Text, Nullable),
    ("createdAt", Time, Default),
];
const FEATURE: Table = &[
    ("modelId", Text, Required),
    ("layer", Text, Required),
    ("index", Text, Required),
    ("sourceSetName", Text, Nullable),
    ("creatorId", Text, Nullable),
    ("createdAt", Time, Default),
    ("maxActApprox", Float, Nullable),
    ("hasVector", Bool, Default),
    ("vector", Floats, Default),
    ("vectorLabel", Text, Nullable),
    ("vectorDefaultSteerStrength", Float, Nullable),
    ("hookName", Text, Nullable),
    ("topkCosSimIndices", Integers, Default),
    ("topkCosSimValues", Floats, Default),
    ("neuron_alignment_indices", Integers, Default),
    ("neuron_alignment_values", Floats, Default),
    ("neuron_alignment_l1", Floats, Default),
    ("correlated_neurons_indices", Integers, Default),
    ("correlated_neurons_pearson", Floats, Default),
    ("correlated_neurons_l1", Floats, Default),
    ("correlated_features_indices", Integers, Default),
    ("correlated_features_pearson", Floats, Default),
    ("correlated_features_l1", Floats, Default),
    ("neg_str", Texts, Default),
    ("neg_values", Floats, Default),
    ("pos_str", Texts, Default),
    ("pos_values", Floats, Default),
    ("frac_nonzero", Float, Default),
    ("freq_hist_data_bar_heights", Floats, Default),
    ("freq_hist_data_bar_values", Floats, Default),
    ("logits_hist_data_bar_heights", Floats, Default),
    ("logits_hist_data_bar_values", Floats, Default),
    ("decoder_weights_dist", Floats, Default),
];
/// The database would let `tokens` and `values` be missing, but no page could show such a row.
const ACTIVATION: Table = &[
    ("id", Text, Required),
    ("tokens", Texts, Required),
    ("dataIndex", Text, Nullable),
    ("index", Text, Required),
    ("layer", Text, Required),
    ("modelId", Text, Required),
    ("dataSource", Text, Nullable),
    ("maxValue", Float, Required),
    ("maxValueTokenIndex", Integer, Required),
    ("minValue", Float, Required),
    ("values", Floats, Required),
    ("dfaValues", Floats, Default),
    ("dfaTargetIndex", Integer, Nullable),
    ("dfaMaxValue", Float, Nullable),
    ("creatorId", Text, Required),
    ("createdAt", Time, Default),
    ("lossValues", Floats, Default),
    ("logitContributions", Text, Nullable),
    ("binMin", Float, Nullable),
    ("binMax", Float, Nullable),
    ("binContains", Float, Nullable),
    ("qualifyingTokenIndex", Integer, Nullable),
];
const EXPLANATION: Table = &[
    ("id", Text, Required),
    ("modelId", Text, Required),
    ("layer", Text, Required),
    ("index", Text, Required),
    ("description", Text, Required),
    ("authorId", Text, Required),
    ("triggeredByUserId", Text, Nullable),
    ("notes", Text, Nullable),
    ("typeName", Text, Nullable),
    ("explanationModelName", Text, Nullable),
    ("createdAt", Time, Default),
];

fn table(path: &str) -> Table {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[2] {
        "release.jsonl" => RELEASE,
        "model.jsonl" => MODEL,
        "sourceset.jsonl" => SOURCE_SET,
        "source.jsonl" => SOURCE,
        "features" => FEATURE,
        "activations" => ACTIVATION,
        "explanations" => EXPLANATION,
        other => panic!("unknown file {other}"),
    }
}

fn is(value: &Value, kind: Type) -> bool {
    let list = |of: fn(&Value) -> bool| value.as_array().is_some_and(|l| l.iter().all(of));
    // An INTEGER of the database has 32 bits.
    let integer = |value: &Value| value.as_i64().is_some_and(|v| i32::try_from(v).is_ok());
    match kind {
        Text => value.is_string(),
        Integer => integer(value),
        Float => value.is_number(),
        Bool => value.is_boolean(),
        Time => value
            .as_str()
            .is_some_and(|t| t.len() == 20 && t.ends_with('Z')),
        Texts => list(Value::is_string),
        Integers => list(|v| v.as_i64().is_some_and(|v| i32::try_from(v).is_ok())),
        Floats => list(Value::is_number),
    }
}

fn check(row: &Map<String, Value>, table: Table) -> Result<(), String> {
    for key in row.keys() {
        if !table.iter().any(|(name, ..)| name == key) {
            return Err(format!("unknown {key}"));
        }
    }
    for &(name, kind, column) in table {
        match row.get(name) {
            None if column == Required => return Err(format!("no {name}")),
            None => {}
            Some(Value::Null) if column == Nullable => {}
            Some(value) if is(value, kind) => {}
            Some(value) => return Err(format!("{name} is {value}")),
        }
    }
    Ok(())
}

fn text(path: &str, bytes: &[u8]) -> String {
    if !path.ends_with(".gz") {
        return String::from_utf8(bytes.to_vec()).unwrap();
    }
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_string(&mut text)
        .unwrap();
    text
}

/// Reads all files as the importer does: NUL becomes a space, the first line gives the columns.
fn import(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<Map<String, Value>>> {
    let read = |path: &String, bytes: &Vec<u8>| {
        let text = text(path, bytes).replace("\\u0000", " ");
        assert!(text.ends_with('\n') && !text.contains("NaN") && !text.contains("Infinity"));
        let rows: Vec<Map<String, Value>> = text
            .trim()
            .split('\n')
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        for row in &rows {
            check(row, table(path)).unwrap();
            assert!(row.keys().eq(rows[0].keys()), "{path}");
        }
        (path.clone(), rows)
    };
    files
        .iter()
        .map(|(path, bytes)| read(path, bytes))
        .collect()
}

const FOLDER: &str = "gpt2-small/3-res-16k";

fn all_files() -> BTreeMap<String, Vec<u8>> {
    let names = names();
    let mut features = [feature(0), dead(1), feature(7)];
    let examples = [
        example(7, Band::Top, 0, &[0.0, 4.0, 1.0]),
        example(0, Band::Q25, 0, &[0.0, 1.0]),
        example(0, Band::Top, 1, &[0.5, 3.5, 3.5]),
        example(0, Band::Top, 0, &[0.0, 0.0, 4.0]),
    ];
    let histograms = [histogram(), vec![], histogram()];
    features[0].nearest = vec![(7, 0.75), (1, -0.5)];
    features[2].nearest = vec![(7, 1.0), (0, 0.75)];
    let explanations = [
        FeatureExplanation {
            feature_id: 7,
            text: "cats".into(),
            type_name: Some("oai_token-act-pair".into()),
            model_name: None,
        },
        FeatureExplanation {
            feature_id: 0,
            text: "the word \"dog\"".into(),
            ..FeatureExplanation::default()
        },
    ];
    let export = DictionaryExport {
        histograms: &histograms,
        explanations: &explanations,
        ..export(&names, &features, &examples)
    };
    written(write_neuronpedia, &export).unwrap().0
}

#[test]
fn every_file_of_the_folder_passes_the_check_of_its_table() {
    let files = all_files();
    let rows = import(&files);
    let paths: Vec<&str> = rows.keys().map(|path| &path[FOLDER.len() + 1..]).collect();
    assert_eq!(
        paths,
        [
            "activations/batch-0.jsonl.gz",
            "explanations/batch-0.jsonl.gz",
            "features/batch-0.jsonl.gz",
            "model.jsonl",
            "release.jsonl",
            "source.jsonl",
            "sourceset.jsonl",
        ]
    );
    let count = |kind: &str| rows[&format!("{FOLDER}/{kind}/batch-0.jsonl.gz")].len();
    let counts = ["features", "activations", "explanations"].map(count);
    assert_eq!(counts, [3, 4, 2]);
}

#[test]
fn the_check_fails_without_any_one_of_the_required_keys() {
    let mut removed = 0;
    for (path, rows) in import(&all_files()) {
        let table = table(&path);
        for (name, ..) in table.iter().filter(|(_, _, column)| *column == Required) {
            let mut row = rows[0].clone();
            assert!(row.remove(*name).is_some(), "{path}: {name}");
            assert_eq!(check(&row, table).unwrap_err(), format!("no {name}"));
            row.insert((*name).to_owned(), Value::Null);
            assert!(check(&row, table).is_err());
            removed += 1;
        }
        let mut row = rows[0].clone();
        row.insert("steering".into(), Value::Null);
        assert!(check(&row, table).is_err());
    }
    assert_eq!(removed, 4 + 5 + 5 + 4 + 3 + 10 + 6);
}

#[test]
fn rows_refer_to_each_other() {
    let rows = import(&all_files());
    let one = |file: &str| rows[&format!("{FOLDER}/{file}")][0].clone();
    let (release, model) = (one("release.jsonl"), one("model.jsonl"));
    let (set, source) = (one("sourceset.jsonl"), one("source.jsonl"));
    assert_eq!(set["releaseName"], release["name"]);
    assert_eq!(
        (&set["modelId"], &source["modelId"]),
        (&model["id"], &model["id"])
    );
    assert_eq!(source["setName"], set["name"]);
    assert_eq!(source["id"], "3-res-16k");
    let batch = |kind: &str| &rows[&format!("{FOLDER}/{kind}/batch-0.jsonl.gz")];
    let indices: HashSet<&Value> = batch("features").iter().map(|row| &row["index"]).collect();
    for row in ["features", "activations", "explanations"]
        .iter()
        .flat_map(|k| batch(k))
    {
        assert_eq!(
            (&row["modelId"], &row["layer"]),
            (&model["id"], &source["id"])
        );
        assert!(indices.contains(&row["index"]));
        assert_eq!(row["createdAt"], "2024-12-31T23:59:59Z");
    }
}

#[test]
fn the_highest_value_stands_where_the_row_says() {
    let rows = import(&all_files());
    let rows = &rows[&format!("{FOLDER}/activations/batch-0.jsonl.gz")];
    for row in rows {
        let values: Vec<f64> = row["values"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap())
            .collect();
        assert_eq!(row["tokens"].as_array().unwrap().len(), values.len());
        let max = values.iter().copied().fold(f64::MIN, f64::max);
        let min = values.iter().copied().fold(f64::MAX, f64::min);
        assert_eq!(row["maxValue"], json!(max));
        assert_eq!(row["minValue"], json!(min));
        // Of equal values the first, as Array.indexOf and list.index find it.
        let first = values.iter().position(|v| *v == max).unwrap();
        assert_eq!(row["maxValueTokenIndex"], json!(first));
        assert_eq!(row["qualifyingTokenIndex"], json!(first));
    }
    assert_eq!(rows[0]["dataIndex"], "12:345");
    // The strongest contexts first; these are marked with -1.
    let bins: Vec<&Value> = rows.iter().map(|row| &row["binMin"]).collect();
    assert_eq!(
        bins,
        [&json!(-1.0), &json!(-1.0), &json!(0.8), &json!(-1.0)]
    );
    assert_eq!(rows[2]["binMax"], json!(1.6));
}

#[test]
fn ids_differ_between_rows_and_sets_and_do_not_depend_on_the_order_of_the_input() {
    let ids = |names: &ExportNames, examples: &[crate::ExampleRow]| -> Vec<String> {
        let features = [feature(0), feature(1)];
        let explanations = [0, 1].map(|feature_id| FeatureExplanation {
            feature_id,
            text: "cats".into(),
            ..FeatureExplanation::default()
        });
        let export = DictionaryExport {
            explanations: &explanations,
            ..export(names, &features, examples)
        };
        let rows = import(&written(write_neuronpedia, &export).unwrap().0);
        let with_id = rows
            .values()
            .flatten()
            .filter(|row| row.contains_key("tokens"));
        let explained = rows
            .values()
            .flatten()
            .filter(|row| row.contains_key("authorId"));
        let ids = with_id
            .chain(explained)
            .map(|row| row["id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    let mut examples = vec![
        example(0, Band::Top, 0, &[1.0]),
        example(0, Band::Top, 1, &[0.5]),
        example(0, Band::Q75, 0, &[0.25]),
        example(1, Band::Top, 0, &[1.0]),
    ];
    let first = ids(&names(), &examples);
    assert_eq!(first.len(), 6);
    examples.reverse();
    assert_eq!(ids(&names(), &examples), first);
    let mut other = names();
    other.layer = 4;
    let all: HashSet<String> = first.into_iter().chain(ids(&other, &examples)).collect();
    assert_eq!(all.len(), 12);
}

#[test]
fn a_context_that_is_left_out_does_not_change_the_ids_of_the_others() {
    let id_of_last = |first: f32| {
        let names = names();
        let features = [feature(0)];
        let examples = [
            example(0, Band::Top, 0, &[first]),
            example(0, Band::Top, 1, &[1.0]),
        ];
        let files = written(write_neuronpedia, &export(&names, &features, &examples))
            .unwrap()
            .0;
        let rows = &import(&files)[&format!("{FOLDER}/activations/batch-0.jsonl.gz")];
        (rows.len(), rows.last().unwrap()["id"].clone())
    };
    let (two, one) = (id_of_last(2.0), id_of_last(f32::NAN));
    assert_eq!((two.0, one.0), (2, 1));
    assert_eq!(two.1, one.1);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    assert!(all_files() == all_files());
}

#[test]
fn numbers_that_are_not_finite_are_null_or_left_out() {
    let names = names();
    let mut features = [feature(0), feature(1), feature(2)];
    features[0].max_activation = f32::NAN;
    features[0].promoted[0].logit = f32::NAN;
    features[0].suppressed[0].logit = f32::NEG_INFINITY;
    features[1].max_activation = f32::INFINITY;
    let examples = [
        example(0, Band::Top, 0, &[0.0, f32::NAN]),
        example(0, Band::Top, 1, &[0.0, 2.0]),
        example(1, Band::Q50, 0, &[f32::INFINITY, 1.0]),
    ];
    let nan = crate::HistogramBin {
        lower: f32::NAN,
        upper: 1.0,
        count: 3,
    };
    let histograms = [vec![nan], histogram(), vec![nan]];
    features[0].nearest = vec![(1, f32::NAN)];
    features[1].nearest = vec![(0, f32::INFINITY), (2, 0.5)];
    let export = DictionaryExport {
        histograms: &histograms,
        ..export(&names, &features, &examples)
    };
    let rows = import(&written(write_neuronpedia, &export).unwrap().0);
    let features = &rows[&format!("{FOLDER}/features/batch-0.jsonl.gz")];
    assert_eq!(
        (&features[0]["maxActApprox"], &features[1]["maxActApprox"]),
        (&json!(null), &json!(null))
    );
    assert_eq!(features[0]["pos_str"], json!(["</div>"]));
    assert_eq!(features[0]["neg_values"], json!([]));
    assert_eq!(features[0]["topkCosSimIndices"], json!([]));
    assert_eq!(features[1]["topkCosSimIndices"], json!([1, 2]));
    assert_eq!(features[0]["freq_hist_data_bar_values"], json!([]));
    let activations = &rows[&format!("{FOLDER}/activations/batch-0.jsonl.gz")];
    assert_eq!(activations.len(), 1);
    assert_eq!(activations[0]["binMax"], json!(null));
}

#[test]
fn similar_latents_begin_with_the_latent_itself() {
    let rows = import(&all_files());
    let rows = &rows[&format!("{FOLDER}/features/batch-0.jsonl.gz")];
    let similar = |row: usize| {
        (
            &rows[row]["topkCosSimIndices"],
            &rows[row]["topkCosSimValues"],
        )
    };
    assert_eq!(similar(0), (&json!([0, 7, 1]), &json!([1.0, 0.75, -0.5])));
    assert_eq!(similar(1), (&json!([]), &json!([])));
    // It was there already.
    assert_eq!(similar(2), (&json!([7, 0]), &json!([1.0, 0.75])));
}

#[test]
fn an_empty_dictionary_has_only_the_four_small_files() {
    let names = names();
    let (files, paths) = written(write_neuronpedia, &export(&names, &[], &[])).unwrap();
    let expected = ["release", "model", "sourceset", "source"];
    assert_eq!(paths, expected.map(|name| format!("{FOLDER}/{name}.jsonl")));
    import(&files);
}

#[test]
fn dead_latents_have_a_row_but_no_empty_file() {
    let names = names();
    let features = [dead(0), dead(1)];
    let (files, paths) = written(write_neuronpedia, &export(&names, &features, &[])).unwrap();
    assert_eq!(paths[4..], [format!("{FOLDER}/features/batch-0.jsonl.gz")]);
    let rows = &import(&files)[&paths[4]];
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (&rows[1]["maxActApprox"], &rows[1]["frac_nonzero"]),
        (&json!(0.0), &json!(0.0))
    );
}

#[test]
fn a_dictionary_of_1025_latents_has_two_batches() {
    let names = names();
    let features: Vec<_> = (0..1025).map(feature).collect();
    let examples: Vec<_> = (0..1025)
        .map(|id| example(id, Band::Top, 0, &[4.0]))
        .collect();
    let (files, _) = written(write_neuronpedia, &export(&names, &features, &examples)).unwrap();
    let rows = import(&files);
    for kind in ["features", "activations"] {
        let [first, second] = [0, 1].map(|n| &rows[&format!("{FOLDER}/{kind}/batch-{n}.jsonl.gz")]);
        assert_eq!((first.len(), second.len()), (1024, 1));
        assert_eq!(
            (&first[1023]["index"], &second[0]["index"]),
            (&json!("1023"), &json!("1024"))
        );
    }
    assert_eq!(rows.len(), 4 + 4);
}

#[test]
fn tokens_of_any_text_survive_the_import() {
    let odd = [
        "<script>alert(\"&amp;\")</script>",
        " leading space",
        "\n\t\r",
        "<0xED><0xA0><0x80>",
        "\u{fffd}",
        "\\ud800",
        "\\u0000",
        "\\\\",
        "\u{2028}\u{85}",
        "\u{1f600}",
        "",
    ];
    let names = names();
    let mut row = example(0, Band::Top, 0, &[1.0; 11]);
    row.tokens = odd.iter().map(|text| (*text).into()).collect();
    let mut features = [feature(0)];
    features[0].promoted[0].text = "\\u0000".into();
    let files = written(write_neuronpedia, &export(&names, &features, &[row]))
        .unwrap()
        .0;
    let rows = import(&files);
    let read = &rows[&format!("{FOLDER}/activations/batch-0.jsonl.gz")][0]["tokens"];
    assert_eq!(read, &json!(odd));
    let read = &rows[&format!("{FOLDER}/features/batch-0.jsonl.gz")][0]["pos_str"][0];
    assert_eq!(read, "\\u0000");
}

#[test]
fn a_nul_in_a_token_becomes_a_space() {
    let names = names();
    let mut row = example(0, Band::Top, 0, &[1.0]);
    row.tokens = vec!["a\0b".into()];
    let features = [feature(0)];
    let files = written(write_neuronpedia, &export(&names, &features, &[row]))
        .unwrap()
        .0;
    let rows = &import(&files)[&format!("{FOLDER}/activations/batch-0.jsonl.gz")];
    assert_eq!(rows[0]["tokens"], json!(["a b"]));
}

#[test]
fn files_on_disk_read_back() {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in all_files() {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let source = folder.path().join(FOLDER);
    let features = std::fs::read(source.join("features/batch-0.jsonl.gz")).unwrap();
    // No time and no name in the header.
    assert_eq!(features[3..8], [0; 5]);
    assert_eq!(text("x.gz", &features).lines().count(), 3);
}

#[test]
fn a_suffix_becomes_part_of_the_id() {
    let mut names = names();
    names.suffix = Some("l0-32".into());
    let (files, paths) = written(write_neuronpedia, &export(&names, &[], &[])).unwrap();
    assert_eq!(paths[3], "gpt2-small/3-res-16k__l0-32/source.jsonl");
    let source: Value = serde_json::from_slice(&files[&paths[3]]).unwrap();
    assert_eq!(
        (&source["id"], &source["setName"]),
        (&json!("3-res-16k__l0-32"), &json!("res-16k"))
    );
}
