//! `histograms.parquet` and `coactivations.parquet`: numbers of the statistics, one per row.

use std::path::Path;

use polars::prelude::*;

use super::columns::Table;
use super::write::{TableSource, write_table};
use crate::FeaturesError;
use crate::statistics::{Coactivation, HistogramBin, StatisticsSummary};

/// Writes `histograms.parquet`, by latent and bin; the file appears whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_histograms(
    path: &Path,
    summary: &StatisticsSummary,
    source: &TableSource,
) -> Result<(), FeaturesError> {
    let latents = summary.latents.iter().enumerate();
    let rows: Vec<(u32, &HistogramBin)> = latents
        .flat_map(|(id, latent)| latent.histogram.iter().map(move |bin| (id as u32, bin)))
        .collect();
    let edges = |of: fn(&HistogramBin) -> f32| -> Vec<f32> {
        rows.iter().map(|(_, bin)| of(bin)).collect()
    };
    let ids: Vec<u32> = rows.iter().map(|(id, _)| *id).collect();
    let counts: Vec<u64> = rows.iter().map(|(_, bin)| bin.count).collect();
    let columns = vec![
        Column::new("feature_id".into(), ids),
        Column::new("lower".into(), edges(|bin| bin.lower)),
        Column::new("upper".into(), edges(|bin| bin.upper)),
        Column::new("count".into(), counts),
    ];
    write_table(path, rows.len(), columns, Some(("histograms", source)))
}

/// Reads `histograms.parquet`: the bins of each of `latents` latents.
///
/// # Errors
/// If the file cannot be read or is not such a table, or a latent is not below `latents`.
pub fn read_histograms(
    path: &Path,
    latents: usize,
) -> Result<Vec<Vec<HistogramBin>>, FeaturesError> {
    let mut bins = vec![vec![]; latents];
    for (row, (id, bin)) in read_histogram_rows(path)?.into_iter().enumerate() {
        let Some(bins) = bins.get_mut(id as usize) else {
            let expected = format!("below {latents}, the number of latents");
            return Err(FeaturesError::Cell {
                path: path.into(),
                column: "feature_id",
                row,
                found: id.to_string(),
                expected,
            });
        };
        bins.push(bin);
    }
    Ok(bins)
}

/// Reads `histograms.parquet`, in the order of its rows: latents and bins.
///
/// # Errors
/// If the file cannot be read or is not such a table.
pub fn read_histogram_rows(path: &Path) -> Result<Vec<(u32, HistogramBin)>, FeaturesError> {
    let table = Table::open(path)?;
    let ids = table.numbers::<UInt32Type>("feature_id")?;
    let lower = table.numbers::<Float32Type>("lower")?;
    let upper = table.numbers::<Float32Type>("upper")?;
    let counts = table.numbers::<UInt64Type>("count")?;
    let bin = |row: usize| HistogramBin {
        lower: lower[row],
        upper: upper[row],
        count: counts[row],
    };
    Ok((0..ids.len()).map(|row| (ids[row], bin(row))).collect())
}

/// Writes `coactivations.parquet`; the file appears whole or not at all. Each pair is there twice,
/// once under each of its latents, so that the partners of a latent stand together, those with the
/// highest phi coefficient first.
///
/// # Errors
/// If it cannot be written.
pub fn write_coactivations(
    path: &Path,
    summary: &StatisticsSummary,
    source: &TableSource,
) -> Result<(), FeaturesError> {
    let pairs = summary.coactivations.iter();
    let mut rows: Vec<(u32, u32, &Coactivation)> = pairs
        .flat_map(|pair| [(pair.a, pair.b, pair), (pair.b, pair.a, pair)])
        .collect();
    rows.sort_by(|x, y| {
        x.0.cmp(&y.0)
            .then(y.2.phi.total_cmp(&x.2.phi))
            .then(x.1.cmp(&y.1))
    });
    let shares = |of: fn(&Coactivation) -> f64| -> Vec<f64> {
        rows.iter().map(|(.., pair)| of(pair)).collect()
    };
    let counts = |of: fn(&Coactivation) -> u64| -> Vec<u64> {
        rows.iter().map(|(.., pair)| of(pair)).collect()
    };
    let latents: Vec<u32> = rows.iter().map(|row| row.0).collect();
    let partners: Vec<u32> = rows.iter().map(|row| row.1).collect();
    let columns = vec![
        Column::new("feature_id".into(), latents),
        Column::new("partner_id".into(), partners),
        Column::new("count".into(), counts(|pair| pair.count)),
        Column::new("count_error".into(), counts(|pair| pair.count_error)),
        Column::new("jaccard".into(), shares(|pair| pair.jaccard)),
        Column::new("phi".into(), shares(|pair| pair.phi)),
    ];
    write_table(path, rows.len(), columns, Some(("coactivations", source)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FeatureStatistics;
    use crate::statistics::{BlockView, StatisticsConfig};
    use crate::tables::describe_table;
    use std::fs::File;

    #[test]
    fn partners_of_a_latent_stand_together_and_metadata_say_what_made_the_table() {
        let mut statistics = FeatureStatistics::new(StatisticsConfig::new(3));
        let block = BlockView {
            tokens: &[1, 2, 3, 4],
            document: &[0; 4],
            position: &[0, 1, 2, 3],
            block_index: 0,
            active: &[true; 4],
        };
        // Latents 0 and 2 fire together, 1 once with them.
        let indices = [0, 2, -1, 0, 2, 1, -1, -1, -1, -1, -1, -1];
        let values = [1.0, 1.0, 0.0, 2.0, 3.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        statistics
            .observe_block(block, &values, &indices, 3)
            .unwrap();
        let summary = statistics.finish();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coactivations.parquet");
        let source = TableSource {
            provenance: vec![("Model".into(), "tiny".into())],
        };
        write_coactivations(&path, &summary, &source).unwrap();
        let table = ParquetReader::new(File::open(&path).unwrap())
            .finish()
            .unwrap();
        let ids = |name: &str| -> Vec<u32> {
            table
                .column(name)
                .unwrap()
                .u32()
                .unwrap()
                .iter()
                .flatten()
                .collect()
        };
        assert_eq!(ids("feature_id"), [0, 0, 1, 1, 2, 2]);
        assert_eq!(ids("partner_id"), [2, 1, 0, 2, 0, 1]);
        let phi = table.column("phi").unwrap().f64().unwrap().get(0).unwrap();
        assert!((phi - 1.0).abs() < 1e-12);
        let bytes = std::fs::read(&path).unwrap();
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(has(br#""provenance":{"Model":"tiny"}"#) && has(br#""schema_version":2"#));

        let path = folder.path().join("histograms.parquet");
        write_histograms(&path, &summary, &source).unwrap();
        let table = ParquetReader::new(File::open(&path).unwrap())
            .finish()
            .unwrap();
        let number = |name: &str, row| table.column(name).unwrap().get(row).unwrap();
        assert_eq!(table.height(), 5); // two activations of latents 0 and 2, one of latent 1
        assert_eq!(number("lower", 1), AnyValue::Float32(2.0));
        assert_eq!(number("upper", 1), AnyValue::Float32(2.25));
        assert_eq!(number("count", 4), AnyValue::UInt64(1));
        assert_eq!(describe_table(&path).unwrap().columns.len(), 4);
        let read = read_histograms(&path, 3).unwrap();
        let written = summary
            .latents
            .iter()
            .map(|latent| latent.histogram.clone());
        assert_eq!(read, written.collect::<Vec<_>>());
        let error = read_histograms(&path, 2).unwrap_err().to_string();
        assert!(
            error.contains("column `feature_id`, row 3: found 2, expected below 2"),
            "{error}"
        );
    }
}
