use super::*;
use crate::page_data::DIGITS;
use crate::tables::{FiringToken, LogitToken};
use crate::{Band, ExampleRow};

/// Texts that end scripts, open comments, break strings, or cannot be seen.
const HOSTILE: [&str; 12] = [
    "</script><script>alert(1)</script>",
    "<!--",
    "<script",
    "]]>",
    "\"'\\`${x}",
    "{{data}}",
    "&lt;b&gt;",
    "\u{1f600}\u{200d}\u{1f525}",
    "\u{fffd}\u{0}\u{7f}",
    "\n\t\r",
    "\u{202e}\u{2028}\u{2066}",
    "",
];

fn feature(id: u32) -> FeatureRow {
    let text = |at: u32| HOSTILE[at as usize % HOSTILE.len()].into();
    let logits = |sign: f32| {
        (0..10)
            .map(|at| LogitToken {
                text: text(id + at),
                id: at,
                logit: sign / (at + 1) as f32,
            })
            .collect()
    };
    FeatureRow {
        feature_id: id,
        hook_point: "blocks.2.hook_resid_post".into(),
        firing_density: 0.01,
        firing_count: 1000,
        mean_activation: 1.25,
        max_activation: 7.5,
        std_activation: 0.5,
        quantiles: [0.5, 1.0, 2.0, 3.0, f32::NAN],
        mean_position: Some(10.0),
        decoder_norm: 1.0,
        relative_decoder_norms: vec![1.0],
        encoder_decoder_cosine: None,
        logit_kurtosis: None,
        nearest: vec![],
        promoted: logits(1.0),
        suppressed: logits(-1.0),
        top_tokens: (0..10)
            .map(|at| FiringToken {
                text: text(at),
                id: at,
                count: 5,
                mean_activation: 1.0,
                lift: Some(2.0),
            })
            .collect(),
        peak_token: None,
        dead: false,
        code: None,
    }
}

fn label(feature_id: u32, label: &str, method: &str, detection: Option<f64>) -> LabelRow {
    LabelRow {
        feature_id,
        label: label.into(),
        method: method.into(),
        detection,
        fuzzing: None,
        clamping: None,
    }
}

fn example(feature_id: u32, rank: u32, words: &[std::sync::Arc<str>]) -> ExampleRow {
    let at = |place: u32| (feature_id * 31 + rank * 17 + place) as usize % words.len();
    ExampleRow {
        feature_id,
        rank,
        band: Band::Top,
        max_activation: 7.5,
        tokens: (0..25).map(|place| words[at(place)].clone()).collect(),
        token_ids: (0..25).map(|place| at(place) as u32).collect(),
        activations: (0..25)
            .map(|place| {
                if place % 5 == 1 {
                    1.234_567 * place as f32
                } else {
                    0.0
                }
            })
            .collect(),
        peak_index: 16,
        document: 3,
        position: 1234,
    }
}

/// The JSON between the script tags, found as a browser finds it: up to the first `</script`.
fn data_of(page: &str) -> serde_json::Value {
    let (_, rest) = page
        .split_once("<script type=\"application/json\" id=\"data\">")
        .unwrap();
    let (json, _) = rest.split_once("</script").unwrap();
    serde_json::from_str(json).unwrap()
}

#[test]
fn hostile_texts_neither_break_out_of_the_data_nor_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    let words: Vec<std::sync::Arc<str>> = HOSTILE.iter().map(|&text| text.into()).collect();
    let features: Vec<FeatureRow> = (0..3).map(feature).collect();
    let examples = [example(1, 0, &words)];
    let labels = [
        label(2, HOSTILE[0], "pmi", None),
        label(9, "of no latent", "pmi", None),
    ];
    let report = Report {
        title: "</title><script>alert('{{data}}')</script>".into(),
        provenance: vec![("model".into(), "</script>".into())],
        metrics: vec![
            ("fvu".into(), f64::NAN, "<!-- -->".into()),
            ("l0".into(), 31.987_65, String::new()),
        ],
        curves: vec![Curve {
            name: "<loss>".into(),
            steps: vec![1, 2],
            values: vec![0.5, f64::INFINITY],
        }],
        features: &features,
        examples: &examples,
        labels: &labels,
        ..Report::default()
    };
    write_report(&path, &report).unwrap();
    let page = std::fs::read_to_string(&path).unwrap();

    // As many elements as the template has, and nothing that reaches for the network.
    for mark in ["<script", "</script", "<title>", "</title>", "<!--"] {
        assert_eq!(
            page.matches(mark).count(),
            TEMPLATE.matches(mark).count(),
            "{mark}"
        );
    }
    assert!(!page.contains("src=") && !page.contains("@import") && !page.contains("fetch("));

    let data = data_of(&page);
    assert_eq!(data["title"], report.title);
    assert_eq!(data["metrics"][0][1], serde_json::Value::Null);
    assert_eq!(data["metrics"][1][1], 31.987_65);
    assert_eq!(data["curves"][0]["values"][1], serde_json::Value::Null);
    let context = &data["contexts"][1][0];
    let numbers = context[4].as_str().unwrap().as_bytes();
    assert_eq!(data["digits"], 1);
    let texts: Vec<&str> = numbers
        .iter()
        .map(|digit| {
            data["tokens"][DIGITS.iter().position(|d| d == digit).unwrap()]
                .as_str()
                .unwrap()
        })
        .collect();
    assert_eq!(
        texts,
        examples[0]
            .tokens
            .iter()
            .map(|text| &**text)
            .collect::<Vec<_>>()
    );
    assert_eq!(
        context[5],
        serde_json::json!([[1, 1.23], [6, 7.41], [11, 13.6], [16, 19.8], [21, 25.9]])
    );
    assert_eq!(data["contexts"][0], serde_json::json!([]));
    let labels = serde_json::json!([[], [], [[HOSTILE[0], "pmi", null, null, null]]]);
    assert_eq!(data["features"]["labels"], labels);
}

#[test]
fn labels_neighbours_and_histograms_are_those_of_their_latent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    let mut features: Vec<FeatureRow> = (0..3).map(feature).collect();
    features[1].nearest = vec![(2, 0.987_65), (0, -0.25)];
    let labels = [
        label(1, "bad", "pmi", Some(0.5)),
        label(1, "good", "top-token", Some(0.75)),
        label(1, "of a model", "llm", None),
    ];
    let partner = |partner_id, phi| PartnerRow {
        partner_id,
        count: 3,
        jaccard: 0.5,
        phi,
    };
    let partners = [vec![partner(1, 0.5)], vec![partner(0, 0.5)], vec![]];
    // Eighths of an octave: two of the first quarter, one of the next octave.
    let bin = |lower: f32, count| HistogramBin {
        lower,
        upper: lower * 1.1,
        count,
    };
    let histograms = [
        vec![bin(0.5, 3), bin(0.5625, 4), bin(0.875, 5), bin(1.0, 6)],
        vec![bin(f32::NAN, 1)],
        vec![],
    ];
    let report = Report {
        features: &features,
        labels: &labels,
        partners: &partners,
        histograms: &histograms,
        ..Report::default()
    };
    write_report(&path, &report).unwrap();
    let data = &data_of(&std::fs::read_to_string(&path).unwrap())["features"];
    let names: Vec<&str> = (0..3)
        .map(|at| data["labels"][1][at][0].as_str().unwrap())
        .collect();
    assert_eq!(names, ["of a model", "good", "bad"]);
    assert_eq!(data["labels"][1][1][2], 0.75);
    assert_eq!(
        data["nearest"],
        serde_json::json!([[], [[2, 0.988], [0, -0.25]], []])
    );
    assert_eq!(
        data["coactive"],
        serde_json::json!([[[1, 0.5]], [[0, 0.5]], []])
    );
    assert_eq!(
        data["histogram"],
        serde_json::json!([[-4, 7, 0, 0, 5, 6], [], []])
    );

    let error = write_report(
        &path,
        &Report {
            partners: &partners[..2],
            ..report
        },
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "partners: found 2 entries, expected 3, one per latent, or none"
    );
}

#[test]
fn a_page_of_4096_latents_with_22_contexts_each_stays_under_15_megabytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    let words: Vec<std::sync::Arc<str>> = (0..8192)
        .map(|word| format!(" word{word}").into())
        .collect();
    let features: Vec<FeatureRow> = (0..4096).map(feature).collect();
    let examples: Vec<ExampleRow> = (0..4096)
        .flat_map(|id| (0..22).map(move |rank| (id, rank)))
        .map(|(id, rank)| example(id, rank, &words))
        .collect();
    let report = Report {
        features: &features,
        examples: &examples,
        ..Report::default()
    };
    write_report(&path, &report).unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 15_000_000, "{size} bytes");
    let data = data_of(&std::fs::read_to_string(&path).unwrap());
    assert_eq!(data["contexts"][4095].as_array().unwrap().len(), 22);
}

#[test]
fn an_empty_report_is_still_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    write_report(&path, &Report::default()).unwrap();
    assert_eq!(
        data_of(&std::fs::read_to_string(&path).unwrap())["features"]["id"],
        serde_json::json!([])
    );
}

#[test]
fn a_report_that_cannot_be_written_names_the_file_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no such folder").join("report.html");
    let error = write_report(&path, &Report::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("report.html"), "{error}");
    let curves = vec![Curve {
        name: "l0".into(),
        steps: vec![1],
        values: vec![],
    }];
    let path = folder.path().join("report.html");
    let error = write_report(
        &path,
        &Report {
            curves,
            ..Report::default()
        },
    )
    .unwrap_err()
    .to_string();
    assert_eq!(
        error,
        "curve.values: found 0 values in `l0`, expected 1, one per step"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn long_curves_are_thinned_but_keep_their_end() {
    let steps: Vec<u64> = (0..12_345).collect();
    let curve = Curve {
        name: "loss".into(),
        values: steps.iter().map(|&step| step as f64).collect(),
        steps,
    };
    let page = PageCurve::new(&curve);
    assert!(page.steps.len() <= POINTS_OF_A_CURVE + 1);
    assert_eq!(page.steps.last(), Some(&12_344));
    assert_eq!(page.steps.len(), page.values.len());
}
