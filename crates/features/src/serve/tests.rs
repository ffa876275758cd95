use super::*;
use crate::tables::{FeatureRow, FiringToken, LabelRow, LogitToken, TableSource, Token};
use crate::tables::{write_examples, write_features, write_labels};
use crate::{Band, ExampleRow};
use std::path::Path;

/// A latent that fires on tokens: (text, count, mean activation).
fn feature(feature_id: u32, tokens: &[(&str, u64, f32)], promoted: &[&str]) -> FeatureRow {
    let top_tokens = tokens.iter().map(|(text, count, mean)| FiringToken {
        text: (*text).into(),
        id: 0,
        count: *count,
        mean_activation: *mean,
        lift: None,
    });
    let promoted = promoted.iter().map(|text| LogitToken {
        text: (*text).into(),
        id: 0,
        logit: feature_id as f32,
    });
    let count = tokens.iter().map(|(_, count, _)| count).sum::<u64>();
    FeatureRow {
        feature_id,
        hook_point: "blocks.0.hook_resid_post".into(),
        firing_density: count as f64 / 10_000.0,
        firing_count: count,
        mean_activation: 1.0,
        max_activation: 10.0 - feature_id as f32,
        std_activation: 0.0,
        quantiles: [0.0; 5],
        mean_position: None,
        decoder_norm: 1.0,
        relative_decoder_norms: vec![],
        encoder_decoder_cosine: None,
        logit_kurtosis: None,
        nearest: vec![],
        promoted: promoted.collect(),
        suppressed: vec![],
        top_tokens: top_tokens.collect(),
        peak_token: tokens.first().map(|(text, ..)| Token {
            text: (*text).into(),
            id: 0,
        }),
        dead: tokens.is_empty(),
        code: None,
    }
}

fn example(feature_id: u32, text: &[&str]) -> ExampleRow {
    ExampleRow {
        feature_id,
        rank: 0,
        band: Band::Top,
        max_activation: 2.0,
        tokens: text.iter().map(|text| (*text).into()).collect(),
        token_ids: vec![0; text.len()],
        activations: vec![1.0; text.len()],
        peak_index: 0,
        document: 0,
        position: 0,
    }
}

fn label(feature_id: u32, label: &str, detection: Option<f64>) -> LabelRow {
    LabelRow {
        feature_id,
        label: label.into(),
        method: "pmi".into(),
        detection,
        fuzzing: None,
        clamping: None,
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = TableSource::default();
    let rows = [
        feature(0, &[(" War", 10, 5.0)], &[" peace"]), // mass 50
        feature(1, &[("war", 100, 2.0), (" the", 1, 1.0)], &[]), // mass 200
        feature(2, &[(" warm", 900, 9.0)], &[]),       // contains the term
        feature(3, &[(" summer", 5, 1.0)], &[" war"]), // promotes it
        feature(4, &[(" nation", 5, 1.0)], &[]),
        feature(5, &[], &["war"]), // dead
        FeatureRow {
            nearest: vec![(4, 0.5), (0, 0.25)],
            ..feature(6, &[(" <b>x</b>", 7, 1.0)], &[])
        },
    ];
    let path = |name: &str| folder.path().join(name);
    write_features(&path("features.parquet"), &rows, &source).unwrap();
    let examples = [
        example(4, &[" the", " White", " Hou", "se", " and", " WAR", "fare"]),
        example(6, &[" white", " paint"]),
    ];
    write_examples(&path("examples.parquet"), &examples, &source).unwrap();
    let labels = [
        label(4, " country |  nation", Some(0.9)),
        label(0, "conflict", Some(0.6)),
        label(0, "armed conflict", Some(0.8)),
    ];
    write_labels(&path("labels.parquet"), &labels, &source).unwrap();
    folder
}

/// The index of a folder, whose contexts have not been read.
fn opened(folder: &Path) -> FeatureIndex {
    let labels = crate::read_labels(&folder.join("labels.parquet"));
    FeatureIndex::open(folder, labels.unwrap_or_default()).unwrap()
}

fn search(index: &FeatureIndex, text: &str) -> Vec<(u32, Option<Match>)> {
    let query = Query {
        text: text.into(),
        ..Query::default()
    };
    let found = index.search(&query);
    found.iter().map(|f| (index.id(f), f.how)).collect()
}

fn ids(index: &FeatureIndex, query: &Query) -> Vec<u32> {
    index.search(query).iter().map(|f| index.id(f)).collect()
}

fn open(folder: &Path) -> FeatureIndex {
    let index = opened(folder);
    index.read_context_texts();
    assert_eq!(index.contexts_missing(), None);
    index
}

#[test]
fn a_token_is_found_before_a_part_and_more_mass_before_less() {
    let folder = folder();
    let index = open(folder.path());
    let [exact, part, context] = [Match::Exact, Match::Part, Match::Context].map(Some);
    let expected = [
        (1, exact),
        (0, exact),
        (3, exact),
        (5, exact),
        (2, part),
        (4, context),
    ];
    assert_eq!(search(&index, "war"), expected);
    assert_eq!(search(&index, " WAR "), expected);
    assert_eq!(search(&index, "war the"), [(1, exact), (4, context)]);
    assert_eq!(search(&index, "nowhere"), []);
}

#[test]
fn labels_numbers_and_contexts_are_found() {
    let folder = folder();
    let index = open(folder.path());
    assert_eq!(search(&index, "country"), [(4, Some(Match::Exact))]);
    assert_eq!(
        search(&index, "\"armed conflict\""),
        [(0, Some(Match::Exact))]
    );
    assert_eq!(search(&index, "onflic"), [(0, Some(Match::Part))]);
    assert_eq!(search(&index, "#5"), [(5, Some(Match::Number))]);
    // A word of several tokens, and two words in their order.
    assert_eq!(search(&index, "house"), [(4, Some(Match::Context))]);
    assert_eq!(
        search(&index, "\"white house\""),
        [(4, Some(Match::Context))]
    );
    assert_eq!(search(&index, "white").len(), 2);
    assert_eq!(index.label(0).unwrap().label, "armed conflict");
}

#[test]
fn before_the_contexts_are_read_tokens_are_searched() {
    let folder = folder();
    let index = opened(folder.path());
    assert!(
        index
            .contexts_missing()
            .unwrap()
            .contains("still being read")
    );
    assert_eq!(search(&index, "house"), []);
    assert_eq!(search(&index, "nation"), [(4, Some(Match::Exact))]);
    index.read_context_texts();
    assert_eq!(search(&index, "house"), [(4, Some(Match::Context))]);
}

#[test]
fn latents_are_sorted_and_left_out_as_asked() {
    let folder = folder();
    let index = open(folder.path());
    let of = |order, dead, density| {
        let text = String::new();
        ids(
            &index,
            &Query {
                text,
                order,
                dead,
                density,
            },
        )
    };
    assert_eq!(
        of(Order::Relevance, Dead::Show, None),
        [0, 1, 2, 3, 4, 5, 6]
    );
    assert_eq!(of(Order::Id, Dead::Hide, None), [0, 1, 2, 3, 4, 6]);
    assert_eq!(of(Order::Id, Dead::Only, None), [5]);
    assert_eq!(of(Order::Density, Dead::Hide, None), [2, 1, 0, 6, 3, 4]);
    assert_eq!(of(Order::Rarest, Dead::Hide, None), [3, 4, 6, 0, 1, 2]);
    assert_eq!(
        of(Order::MaxActivation, Dead::Hide, None),
        [0, 1, 2, 3, 4, 6]
    );
    assert_eq!(of(Order::LabelScore, Dead::Hide, None)[..2], [4, 0]);
    assert_eq!(of(Order::Logit, Dead::Show, None)[..3], [5, 3, 0]);
    assert_eq!(of(Order::Id, Dead::Show, Some([0.001, 0.02])), [0, 1]);
    // The same query again comes from the rankings that are kept.
    assert_eq!(of(Order::Density, Dead::Hide, None), [2, 1, 0, 6, 3, 4]);
}

#[test]
fn all_of_a_latent_is_shown_and_texts_stay_texts() {
    let folder = folder();
    let index = open(folder.path());
    let detail = index.detail(6).unwrap().unwrap();
    let detail = serde_json::to_value(detail).unwrap();
    assert_eq!(detail["top_tokens"][0]["token"], " <b>x</b>");
    assert_eq!(detail["contexts"][0]["tokens"][1], " paint");
    assert_eq!(detail["similar"][0]["id"], 4);
    assert_eq!(detail["similar"][0]["label"], " country |  nation");
    assert_eq!(detail["similar"][1]["cosine"], 0.25);
    assert!(detail["coactive"].is_null() && detail["histogram"].is_null());
    let found = index.search(&Query::default());
    let line = serde_json::to_value(index.summary(&found[4])).unwrap();
    assert_eq!(line["label"], " country |  nation");
    assert_eq!(line["peak"], " nation");
    assert!(index.detail(7).unwrap().is_none());
    let bins = index.density_bins().unwrap();
    assert_eq!(bins.counts.iter().sum::<usize>(), 6);
}

#[test]
fn a_damaged_table_is_an_error_and_the_rest_is_served() {
    let folder = folder();
    let path = folder.path().join("examples.parquet");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let index = opened(folder.path());
    index.read_context_texts();
    assert!(
        index
            .contexts_missing()
            .unwrap()
            .contains("examples.parquet")
    );
    let problem = index.detail(4).unwrap_err().to_string();
    assert!(problem.contains("examples.parquet"), "{problem}");
    assert_eq!(search(&index, "nation"), [(4, Some(Match::Exact))]);
    std::fs::remove_file(&path).unwrap();
    let detail = index.detail(4).unwrap().unwrap();
    assert!(serde_json::to_value(detail).unwrap()["contexts"].is_null());
}
