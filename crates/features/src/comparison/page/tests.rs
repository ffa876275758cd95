use super::*;
use crate::comparison::{BipartiteConfig, DecoderCosines, SimilarityMatrix, match_latents};
use crate::tables::{FiringToken, LogitToken};
use crate::{Band, ExampleRow};
use serde_json::{Value, json};

fn feature(feature_id: u32, token: &str) -> FeatureRow {
    FeatureRow {
        feature_id,
        hook_point: "blocks.0.hook_resid_post".into(),
        firing_density: 0.25,
        firing_count: 5,
        mean_activation: 1.0,
        max_activation: 2.0,
        std_activation: 0.5,
        quantiles: [1.0; 5],
        mean_position: None,
        decoder_norm: 1.0,
        relative_decoder_norms: vec![],
        encoder_decoder_cosine: None,
        logit_kurtosis: None,
        nearest: vec![],
        promoted: vec![LogitToken {
            text: "up".into(),
            id: 7,
            logit: 0.123_456,
        }],
        suppressed: vec![],
        top_tokens: vec![FiringToken {
            text: token.into(),
            id: 3,
            count: 5,
            mean_activation: 1.0,
            lift: None,
        }],
        peak_token: None,
        dead: false,
        code: None,
    }
}

fn example(feature_id: u32, rank: u32, tokens: &[&str]) -> ExampleRow {
    ExampleRow {
        feature_id,
        rank,
        band: Band::Top,
        max_activation: 2.0,
        tokens: tokens.iter().map(|text| (*text).into()).collect(),
        token_ids: vec![0; tokens.len()],
        activations: (0..tokens.len()).map(|at| at as f32).collect(),
        peak_index: tokens.len() as u32 - 1,
        document: 0,
        position: 0,
    }
}

fn label(feature_id: u32, label: &str, detection: f64) -> LabelRow {
    LabelRow {
        feature_id,
        label: label.into(),
        method: "pmi".into(),
        detection: Some(detection),
        fuzzing: None,
        clamping: None,
    }
}

fn data_of(path: &Path) -> Value {
    let page = std::fs::read_to_string(path).unwrap();
    let (_, rest) = page
        .split_once("<script type=\"application/json\" id=\"data\">")
        .unwrap();
    let (json, _) = rest.split_once("</script").unwrap();
    serde_json::from_str(json).unwrap()
}

#[test]
fn the_page_has_the_matches_and_what_the_tables_say_of_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.html");
    let (a, b) = ([1.0, 0.0, 0.0, 1.0], [0.0, 2.0, 3.0, 4.0]);
    let cosines = DecoderCosines::new(&a, &b, 2).unwrap();
    let null = SimilarityMatrix::new(2, 2, vec![0.05, -0.31, 0.0, 0.07]).unwrap();
    let report = match_latents(&cosines, Some(&null), None, &BipartiteConfig::default()).unwrap();
    let pair = |feature_a, feature_b, method| PairRow {
        feature_a,
        feature_b,
        cosine: Some(0.599_96),
        correlation: None,
        method,
    };
    let pairs = [
        pair(0, 1, "greedy-cosine"),
        pair(1, 0, "greedy-cosine"),
        pair(0, 1, "bipartite-cosine"),
    ];
    let ends = "</script><!-- {{data}}";
    let features = [feature(0, " war"), feature(1, ends)];
    let tokens = [" the", " War"];
    let examples: Vec<ExampleRow> = (0..5).map(|rank| example(1, rank, &tokens)).collect();
    let labels = [label(1, "worse", 0.6), label(1, ends, 0.7)];
    let page = ComparisonPage {
        title: ends.to_owned(),
        dictionaries: vec![("one".to_owned(), 2), ("two".to_owned(), 2)],
        cosine: Some(&report),
        pairs: &pairs,
        sides: [
            Some(ComparedLatents {
                features: &features,
                examples: &examples,
                labels: &labels,
            }),
            None,
        ],
        ..ComparisonPage::default()
    };
    write_comparison_page(&path, &page).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        text.matches("</script").count(),
        TEMPLATE.matches("</script").count()
    );

    let data = data_of(&path);
    assert_eq!(data["title"], ends);
    // Of latent 0 the nearest is latent 1 (cosine 0.6), of latent 1 it is latent 0 (cosine 1).
    let greedy = &data["matchings"][0];
    assert_eq!(greedy["shuffled"], false);
    assert_eq!(
        (&greedy["mean"], &greedy["latents"]),
        (&json!(0.8), &json!(2))
    );
    assert_eq!(greedy["shares"], json!([1, 0.5, 0.5]));
    let counts = |matching: &Value, bin: usize| matching["counts"][bin].clone();
    assert_eq!(
        (counts(greedy, 30), counts(greedy, 49)),
        (json!(1), json!(1))
    );
    assert_eq!(greedy["counts"].as_array().unwrap().len(), 50);
    let shuffled = &data["matchings"][1];
    assert_eq!(
        (&shuffled["shuffled"], &shuffled["first"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(
        (counts(shuffled, 2), counts(shuffled, 3)),
        (json!(1), json!(1))
    );
    assert_eq!(data["matchings"][2]["kind"], "bipartite");

    assert_eq!(data["pairs"]["a"], json!([0, 1, 0]));
    assert_eq!(data["pairs"]["method"], json!([0, 0, 1]));
    assert_eq!(data["pairs"]["cosine"][0], 0.6);
    assert_eq!(
        data["methods"],
        json!(["greedy-cosine", "bipartite-cosine"])
    );
    let side = &data["sides"][0];
    assert_eq!(side["label"], json!([null, ends]));
    assert_eq!(side["contexts"][0], json!([]));
    assert_eq!(side["contexts"][1].as_array().unwrap().len(), CONTEXTS);
    assert_eq!(side["contexts"][1][0], json!([1, "AB", [[1, 1]]]));
    let token = side["top"][1][0][0].as_u64().unwrap() as usize;
    assert_eq!(data["tokens"][token], ends);
    assert_eq!(side["promoted"][0][0][1], 0.123);
    assert!(data["sides"][1].is_null() && data["prediction"].is_null());
}

#[test]
fn an_empty_comparison_is_still_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.html");
    write_comparison_page(&path, &ComparisonPage::default()).unwrap();
    assert_eq!(data_of(&path)["matchings"], json!([]));
}

#[test]
fn bins_go_from_the_lowest_similarity_to_one() {
    let (first, counts) = histogram(&[1.0, 0.979_8, 0.02, 0.019, -0.03, f64::NAN]);
    assert!((first + 0.04).abs() < 1e-12);
    assert_eq!(counts.len(), 52);
    assert_eq!([counts[0], counts[2], counts[3], counts[51]], [1, 1, 1, 2]);
    assert_eq!(histogram(&[]), (0.0, vec![0; 50]));
}
