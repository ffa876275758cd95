use std::path::Path;

use lapidary_evaluation::LatentFigures;
use polars::prelude::*;

use super::*;
use crate::{BlockView, FeatureStatistics, StatisticsConfig};

fn text_of(token: u32) -> String {
    ["the", " \u{1f600}", "\n", "</script>", "\u{fffd}", ""][token as usize % 6].to_owned()
}

fn summary() -> StatisticsSummary {
    let mut statistics = FeatureStatistics::new(StatisticsConfig::new(6));
    for block_index in 0..40u64 {
        let tokens: Vec<u32> = (0..20).map(|at| (at + block_index as u32) % 7).collect();
        let position: Vec<u32> = (0..20).collect();
        let values: Vec<f32> = (0..40)
            .map(|at| ((at * 7 + block_index) % 11) as f32 / 3.0)
            .collect();
        let indices: Vec<i32> = (0..40)
            .map(|at| if at % 2 == 0 { at % 3 } else { 3 + at % 2 })
            .collect();
        let block = BlockView {
            tokens: &tokens,
            document: &[9; 20],
            position: &position,
            block_index,
            active: &[true; 20],
        };
        statistics
            .observe_block(block, &values, &indices, 2)
            .unwrap();
    }
    statistics.finish()
}

fn decoder(latents: usize) -> DecoderSummary {
    let list = |sign: f32| {
        (0..latents)
            .map(|at| (0..at as u32).map(|n| (n, sign * n as f32)).collect())
            .collect()
    };
    DecoderSummary {
        decoder_norm: (0..latents).map(|at| 1.0 + at as f32).collect(),
        relative_decoder_norms: (0..latents).map(|at| vec![1.0; at % 3]).collect(),
        encoder_decoder_cosine: Some((0..latents).map(|at| at as f32 / 10.0).collect()),
        logit_kurtosis: (0..latents).map(|at| Some(at as f32)).collect(),
        nearest: (0..latents)
            .map(|at| (0..at as u32).map(|n| (n, n as f32 / 8.0)).collect())
            .collect(),
        promoted: list(1.0),
        suppressed: list(-1.0),
    }
}

fn written(folder: &Path) -> (Vec<FeatureRow>, Vec<ExampleRow>) {
    let features = feature_rows(
        &summary(),
        &decoder(6),
        &["blocks.2.hook_resid_post".into()],
        &text_of,
    )
    .unwrap();
    let examples = example_rows(&summary(), &|tokens| {
        tokens.iter().map(|t| text_of(*t)).collect()
    });
    let source = TableSource::default();
    write_features(&folder.join("features.parquet"), &features, &source).unwrap();
    write_examples(&folder.join("examples.parquet"), &examples, &source).unwrap();
    (features, examples)
}

/// Rewrites a table with one column changed.
fn spoil(path: &Path, change: impl FnOnce(&mut DataFrame)) {
    let mut table = ParquetReader::new(std::fs::File::open(path).unwrap())
        .finish()
        .unwrap();
    change(&mut table);
    ParquetWriter::new(std::fs::File::create(path).unwrap())
        .finish(&mut table)
        .unwrap();
}

#[test]
fn latents_of_several_layers_have_the_hook_point_of_their_own() {
    let hooks = ["blocks.0.hook_resid_mid", "blocks.1.hook_resid_mid"].map(String::from);
    let rows = feature_rows(&summary(), &decoder(6), &hooks, &text_of).unwrap();
    let found: Vec<&str> = rows.iter().map(|row| &*row.hook_point).collect();
    assert_eq!(found[..3], [&*hooks[0]; 3]);
    assert_eq!(found[3..], [&*hooks[1]; 3]);
    let none = feature_rows(&summary(), &decoder(6), &[], &text_of).unwrap_err();
    assert!(none.to_string().contains("0 for 6 latents"), "{none}");
}

#[test]
fn tables_come_back_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let (features, examples) = written(folder.path());
    assert!(
        features[5].dead
            && !features[0].dead
            && features[0].promoted.is_empty()
            && features[5].promoted.len() == 5
    );
    assert!(
        examples.iter().any(|row| row.band == Band::Q25)
            && examples[0].rank == 0
            && examples[1].rank == 1
    );
    assert_eq!(
        read_features(&folder.path().join("features.parquet")).unwrap(),
        features
    );
    assert_eq!(
        read_examples(&folder.path().join("examples.parquet")).unwrap(),
        examples
    );
    for name in ["features.parquet", "examples.parquet"] {
        let bytes = std::fs::read(folder.path().join(name)).unwrap();
        let string_views = bytes.windows(12).any(|window| window == b"ARROW:schema");
        assert!(
            !string_views,
            "{name} has an Arrow schema of string views, which pandas cannot read in lists"
        );
    }
    let names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "nothing unfinished is left: {names:?}");
}

#[test]
fn empty_tables_and_absent_cosines_come_back_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.parquet");
    let source = TableSource::default();
    write_features(&path, &[], &source).unwrap();
    assert_eq!(read_features(&path).unwrap(), vec![]);
    write_examples(&path, &[], &source).unwrap();
    assert_eq!(read_examples(&path).unwrap(), vec![]);

    let without = DecoderSummary {
        encoder_decoder_cosine: None,
        logit_kurtosis: vec![None; 6],
        nearest: vec![vec![]; 6],
        ..decoder(6)
    };
    let features = feature_rows(&summary(), &without, &["hook_embed".into()], &text_of).unwrap();
    write_features(&path, &features, &source).unwrap();
    assert_eq!(read_features(&path).unwrap(), features);
    spoil(&path, |table| {
        *table = table.drop("encoder_decoder_cosine").unwrap();
        *table = table.drop("logit_kurtosis").unwrap();
        *table = table.drop("nearest").unwrap();
    });
    assert_eq!(read_features(&path).unwrap(), features);
}

#[test]
fn a_row_group_ends_between_latents() {
    let folder = tempfile::tempdir().unwrap();
    let (_, examples) = written(folder.path());
    // 7 latents with 100 contexts each: 256 rows would end within the third one.
    let row = |at: u32| ExampleRow {
        feature_id: at / 100,
        ..examples[0].clone()
    };
    let rows: Vec<ExampleRow> = (0..700).map(row).collect();
    let path = folder.path().join("examples.parquet");
    write_examples(&path, &rows, &TableSource::default()).unwrap();
    let mut reader = ParquetReader::new(std::fs::File::open(&path).unwrap());
    let groups = reader.get_metadata().unwrap().row_groups.clone();
    let rows: Vec<usize> = groups.iter().map(|group| group.num_rows()).collect();
    assert_eq!(rows, [300, 300, 100]);
}

#[test]
fn columns_have_the_documented_types() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path());
    let types = |name: &str| {
        let file = std::fs::File::open(folder.path().join(name)).unwrap();
        let table = ParquetReader::new(file).finish().unwrap();
        table
            .columns()
            .iter()
            .map(|c| format!("{} {}", c.name(), c.dtype()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    assert_eq!(
        types("features.parquet"),
        "feature_id u32, hook_point str, firing_density f64, firing_count u64, mean_activation f32, max_activation f32, \
         std_activation f32, quantile_25 f32, quantile_50 f32, quantile_75 f32, quantile_90 f32, quantile_99 f32, \
         mean_position f64, decoder_norm f32, relative_decoder_norms list[f32], encoder_decoder_cosine f32, \
         logit_kurtosis f32, nearest list[struct[2]], promoted list[struct[3]], suppressed list[struct[3]], \
         top_tokens list[struct[5]], peak_token str, peak_token_id u32, dead bool"
    );
    assert_eq!(
        types("examples.parquet"),
        "feature_id u32, rank u32, band str, max_activation f32, tokens list[str], token_ids list[u32], \
         activations list[f32], peak_index u32, document u32, position u32"
    );
}

/// A table as earlier versions wrote it.
#[test]
fn tables_of_schema_version_1_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (mut rows, _) = written(folder.path());
    let path = folder.path().join("features.parquet");
    let lists = |cells: Vec<Series>, name: &str| Series::new(name.into(), cells).into_column();
    spoil(&path, |table| {
        for name in [
            "promoted",
            "suppressed",
            "top_tokens",
            "mean_position",
            "peak_token",
        ] {
            *table = table.drop(name).unwrap();
        }
        *table = table.drop("peak_token_id").unwrap();
        let texts = |of: &dyn Fn(&FeatureRow) -> Vec<String>| -> Vec<Series> {
            rows.iter()
                .map(|row| Series::new("".into(), of(row)))
                .collect()
        };
        let logits = |row: &FeatureRow, promoted| match promoted {
            true => row.promoted.clone(),
            false => row.suppressed.clone(),
        };
        let mut columns = vec![];
        for (kind, promoted) in [("promoted", true), ("suppressed", false)] {
            let of = |row: &FeatureRow| logits(row, promoted);
            let names = texts(&|row| of(row).iter().map(|t| t.text.to_string()).collect());
            columns.push(lists(names, &format!("{kind}_tokens")));
            let ids = rows
                .iter()
                .map(|row| of(row).iter().map(|t| t.id).collect::<Vec<u32>>());
            let ids = ids.map(|ids| Series::new("".into(), ids)).collect();
            columns.push(lists(ids, &format!("{kind}_token_ids")));
            let all = rows
                .iter()
                .map(|row| of(row).iter().map(|t| t.logit).collect::<Vec<f32>>());
            let all = all.map(|logits| Series::new("".into(), logits)).collect();
            columns.push(lists(all, &format!("{kind}_logits")));
        }
        let names = texts(&|row| row.top_tokens.iter().map(|t| t.text.to_string()).collect());
        columns.push(lists(names, "top_tokens"));
        let ids = rows
            .iter()
            .map(|row| row.top_tokens.iter().map(|t| t.id).collect::<Vec<u32>>());
        let ids = ids.map(|ids| Series::new("".into(), ids)).collect();
        columns.push(lists(ids, "top_token_ids"));
        let counts = rows
            .iter()
            .map(|row| row.top_tokens.iter().map(|t| t.count));
        let counts = counts.map(|counts| Series::new("".into(), counts.collect::<Vec<u64>>()));
        columns.push(lists(counts.collect(), "top_token_counts"));
        let means = rows
            .iter()
            .map(|row| row.top_tokens.iter().map(|t| t.mean_activation));
        let means = means.map(|means| Series::new("".into(), means.collect::<Vec<f32>>()));
        columns.push(lists(means.collect(), "top_token_mean_activations"));
        for column in columns {
            let _ = table.with_column(column).unwrap();
        }
    });
    for row in &mut rows {
        (row.mean_position, row.peak_token) = (None, None);
        row.top_tokens
            .iter_mut()
            .for_each(|token| token.lift = None);
    }
    assert_eq!(read_features(&path).unwrap(), rows);
}

#[test]
fn a_latent_has_its_lift_and_the_usual_token_at_its_peaks() {
    let mut statistics = FeatureStatistics::new(StatisticsConfig::new(1));
    for block_index in 0..4u64 {
        // The latent fires weakly on each token 1, and strongly on token 2, in one block on 3.
        let strong = if block_index == 0 { 3 } else { 2 };
        let block = BlockView {
            tokens: &[1, 1, 1, strong],
            document: &[0; 4],
            position: &[0, 1, 2, 3],
            block_index,
            active: &[true; 4],
        };
        let peak = if block_index == 0 { 99.0 } else { 9.0 };
        statistics
            .observe_block(block, &[1.0, 1.0, 0.0, peak], &[0; 4], 1)
            .unwrap();
    }
    let decoder = DecoderSummary {
        decoder_norm: vec![1.0],
        promoted: vec![vec![]],
        suppressed: vec![vec![]],
        logit_kurtosis: vec![None],
        nearest: vec![vec![]],
        ..DecoderSummary::default()
    };
    let hooks = ["hook_embed".to_owned()];
    let rows = feature_rows(&statistics.finish(), &decoder, &hooks, &|t| t.to_string()).unwrap();
    let token = Token {
        text: "2".into(),
        id: 2,
    };
    assert_eq!(rows[0].peak_token, Some(token));
    let top: Vec<(u32, u64)> = rows[0].top_tokens.iter().map(|t| (t.id, t.count)).collect();
    assert_eq!(top, [(3, 1), (2, 3), (1, 8)], "by activation mass");
    // 8 of 12 firings are on token 1, which is 12 of 16 tokens.
    let lift = rows[0].top_tokens[2].lift.unwrap();
    assert!((lift - (8.0 / 12.0) / (12.0 / 16.0)).abs() < 1e-6);
}

#[test]
fn what_is_wrong_with_a_table_is_named_by_file_column_and_row() {
    let folder = tempfile::tempdir().unwrap();
    let (features, examples) = (
        folder.path().join("features.parquet"),
        folder.path().join("examples.parquet"),
    );
    let feature_error = |change: &dyn Fn(&mut DataFrame)| {
        written(folder.path());
        spoil(&features, change);
        read_features(&features).unwrap_err().to_string()
    };
    let example_error = |change: &dyn Fn(&mut DataFrame)| {
        written(folder.path());
        spoil(&examples, change);
        read_examples(&examples).unwrap_err().to_string()
    };
    let place = |path: &Path| path.display().to_string();
    let replace = |name: &'static str, cells: Series| {
        move |table: &mut DataFrame| {
            let _ = table
                .with_column(cells.clone().with_name(name.into()).into_column())
                .unwrap();
        }
    };

    assert_eq!(
        feature_error(&|table| *table = table.drop("firing_density").unwrap()),
        format!(
            "{}: column `firing_density` is missing, expected a column of type f64",
            place(&features)
        )
    );
    assert_eq!(
        feature_error(&replace("max_activation", Series::new("".into(), ["x"; 6]))),
        format!(
            "{}: column `max_activation` has type str, expected f32",
            place(&features)
        )
    );
    let nulls: [Option<f32>; 6] = [Some(0.0), None, None, Some(0.0), None, None];
    assert_eq!(
        feature_error(&replace("decoder_norm", Series::new("".into(), nulls))),
        format!(
            "{}: column `decoder_norm`, row 1: found null, expected a value of type f32",
            place(&features)
        )
    );
    assert_eq!(
        feature_error(&|table| {
            let cells = table.column("top_tokens").unwrap().clone();
            let _ = table
                .with_column(cells.with_name("promoted".into()))
                .unwrap();
        }),
        format!(
            "{}: column `promoted` has type list[struct[5]], expected list[struct[3]]",
            place(&features)
        )
    );
    let rows = {
        written(folder.path());
        read_examples(&examples).unwrap().len()
    };
    assert_eq!(
        example_error(&replace(
            "band",
            Series::new("".into(), vec!["middle"; rows])
        )),
        format!(
            "{}: column `band`, row 0: found `middle`, expected top, q75, q50 or q25",
            place(&examples)
        )
    );
    assert!(
        example_error(&replace(
            "peak_index",
            Series::new("".into(), vec![999u32; rows])
        ))
        .contains("column `peak_index`, row 0: found 999, expected below")
    );
}

#[test]
fn a_file_that_is_no_table_is_an_error_and_not_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.parquet");
    let missing = read_features(&path).unwrap_err().to_string();
    assert!(
        missing.starts_with(&format!("cannot read {}", path.display())),
        "{missing}"
    );
    written(folder.path());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, "not a table").unwrap();
    assert!(
        read_features(&path)
            .unwrap_err()
            .to_string()
            .contains("features.parquet is not a readable Parquet table")
    );
    for length in [0, 4, 12, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(
            matches!(read_features(&path), Err(FeaturesError::Parquet { .. })),
            "cut to {length} bytes"
        );
    }
    // Damaged somewhere: rows or an error, never a panic.
    for at in (4..whole.len() - 8).step_by(29) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x5a;
        std::fs::write(&path, &damaged).unwrap();
        let _ = read_features(&path);
    }
}

#[test]
fn a_decoder_of_another_size_is_refused() {
    let error = feature_rows(&summary(), &decoder(5), &["hook_embed".into()], &text_of)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "decoder.decoder_norm: found 5 entries, expected 6, one per latent of the statistics"
    );
}

#[test]
fn the_table_of_latents_has_a_typed_column_for_each_metric_and_null_for_what_is_undefined() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latents.parquet");
    let figures = LatentFigures {
        feature_density: vec![0.5, 0.0],
        consistent_activation_heuristic: vec![2.0, f64::NAN],
        encoder_bias: vec![-1.0, 1.0],
        encoder_norm: vec![3.0, 4.0],
        encoder_decoder_cosine_sim: vec![0.25, f32::NAN],
        max_encoder_cosine_sim: vec![0.1, 0.2],
        max_decoder_cosine_sim: vec![0.3, 0.4],
    };
    write_latents(&path, &figures).unwrap();
    let columns = [
        ("feature_id", "u32"),
        ("feature_density", "f64"),
        ("consistent_activation_heuristic", "f64"),
        ("encoder_bias", "f32"),
        ("encoder_norm", "f32"),
        ("encoder_decoder_cosine_sim", "f32"),
        ("max_encoder_cosine_sim", "f32"),
        ("max_decoder_cosine_sim", "f32"),
    ];
    let columns = columns.map(|(name, of)| (name.to_owned(), of.to_owned()));
    assert_eq!(describe_table(&path).unwrap().columns, columns);
    let table = ParquetReader::new(std::fs::File::open(&path).unwrap())
        .finish()
        .unwrap();
    let cell = |name: &str, row| table.column(name).unwrap().get(row).unwrap().into_static();
    assert_eq!(
        cell("consistent_activation_heuristic", 0),
        AnyValue::Float64(2.0)
    );
    assert_eq!(cell("consistent_activation_heuristic", 1), AnyValue::Null);
    assert_eq!(
        cell("encoder_decoder_cosine_sim", 0),
        AnyValue::Float32(0.25)
    );
    assert_eq!(cell("encoder_decoder_cosine_sim", 1), AnyValue::Null);
    assert_eq!(cell("max_decoder_cosine_sim", 1), AnyValue::Float32(0.4));
}
