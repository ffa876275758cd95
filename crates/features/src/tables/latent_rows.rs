//! The rows of one latent, from a table that may be far larger than memory: only the row groups
//! whose statistics may have the latent are read. What comes out is checked as a whole table is.

use std::fmt::Formatter;
use std::path::Path;
use std::sync::Arc;

use lapidary_activations::check_parquet_pages;
use polars::io::parquet::metadata::FileMetadata;
use polars::prelude::*;
use polars_parquet::parquet::metadata::RowGroupMetadata;
use polars_parquet::parquet::statistics::Statistics;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::ExampleRow;
use super::TableSource;
use super::columns::{Table, decoded, open};
use super::read::examples;
use crate::FeaturesError;
use crate::statistics::HistogramBin;

/// A latent that fires on the same tokens as another one.
#[derive(Debug, Clone, PartialEq)]
pub struct PartnerRow {
    /// The other latent (u32).
    pub partner_id: u32,
    /// Number of tokens on which both fired (u64).
    pub count: u64,
    /// That number over the number of tokens on which at least one of them fired (f64).
    pub jaccard: f64,
    /// Correlation of the two firings (f64).
    pub phi: f64,
}

/// Reads the contexts of one latent from `examples.parquet`.
///
/// # Errors
/// As [`read_examples`](super::read_examples), for the row groups that may have the latent.
pub fn read_examples_of(path: &Path, latent: u32) -> Result<Vec<ExampleRow>, FeaturesError> {
    examples(&Table::open_latent(path, latent)?)
}

/// Reads the histogram of one latent's activations from `histograms.parquet`.
///
/// # Errors
/// If the file cannot be read or is not such a table.
pub fn read_histogram_of(path: &Path, latent: u32) -> Result<Vec<HistogramBin>, FeaturesError> {
    let table = Table::open_latent(path, latent)?;
    let lower = table.numbers::<Float32Type>("lower")?;
    let upper = table.numbers::<Float32Type>("upper")?;
    let counts = table.numbers::<UInt64Type>("count")?;
    let edges = lower.into_iter().zip(upper);
    let bin = |((lower, upper), count)| HistogramBin {
        lower,
        upper,
        count,
    };
    Ok(edges.zip(counts).map(bin).collect())
}

/// Reads the partners of one latent from `coactivations.parquet`.
///
/// # Errors
/// If the file cannot be read or is not such a table.
pub fn read_partners_of(path: &Path, latent: u32) -> Result<Vec<PartnerRow>, FeaturesError> {
    Table::open_latent(path, latent)?.partners()
}

/// Reads `coactivations.parquet`, in the order of its rows: latents and partners.
///
/// # Errors
/// If the file cannot be read or is not such a table.
pub fn read_partner_rows(path: &Path) -> Result<Vec<(u32, PartnerRow)>, FeaturesError> {
    let table = Table::open(path)?;
    let ids = table.numbers::<UInt32Type>("feature_id")?;
    Ok(ids.into_iter().zip(table.partners()?).collect())
}

impl Table<'_> {
    fn partners(&self) -> Result<Vec<PartnerRow>, FeaturesError> {
        let partners = self.numbers::<UInt32Type>("partner_id")?;
        let counts = self.numbers::<UInt64Type>("count")?;
        let jaccard = self.numbers::<Float64Type>("jaccard")?;
        let phi = self.numbers::<Float64Type>("phi")?;
        let row = |at: usize| PartnerRow {
            partner_id: partners[at],
            count: counts[at],
            jaccard: jaccard[at],
            phi: phi[at],
        };
        Ok((0..partners.len()).map(row).collect())
    }
}

/// Hands the latent and the tokens of each context of `examples.parquet` to `each`, a row group at
/// a time, until it returns false.
///
/// # Errors
/// If the file cannot be read or is not such a table.
pub fn for_each_context(
    path: &Path,
    each: &mut dyn FnMut(u32, &[&str]) -> bool,
) -> Result<(), FeaturesError> {
    let metadata = footer(path)?;
    let columns = ["feature_id", "tokens"];
    for group in &metadata.row_groups {
        let part = with_groups(&metadata, vec![group.clone()]);
        let table = Table::open_part(path, part, Some(&columns), None)?;
        let ids = table.numbers::<UInt32Type>("feature_id")?;
        let (values, rows) = table.list("tokens", DataType::String)?;
        let texts = values.str().map_err(|_| table.damaged("tokens"))?;
        let texts: Vec<&str> = texts.iter().flatten().collect();
        for (id, row) in ids.into_iter().zip(rows) {
            let tokens = texts.get(row).ok_or_else(|| table.damaged("tokens"))?;
            if !each(id, tokens) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What made a table, as its metadata say; nothing for tables of earlier versions.
///
/// # Errors
/// If the file cannot be read or is no Parquet table.
pub fn read_source(path: &Path) -> Result<TableSource, FeaturesError> {
    let metadata = footer(path)?;
    let entries = metadata.key_value_metadata.iter().flatten();
    let mut ours = entries.filter(|entry| entry.key == "lapidary");
    let ours: Option<Ours> =
        ours.find_map(|entry| serde_json::from_str(entry.value.as_deref()?).ok());
    Ok(TableSource {
        provenance: ours.map_or(vec![], |ours| ours.provenance.0),
    })
}

/// What this crate writes into the metadata of a file.
#[derive(Deserialize)]
struct Ours {
    provenance: InOrder,
}

/// The entries of an object, in their order.
struct InOrder(Vec<(String, String)>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = InOrder;

            fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<InOrder, M::Error> {
                let mut entries = vec![];
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(InOrder(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

fn footer(path: &Path) -> Result<Arc<FileMetadata>, FeaturesError> {
    let file = open(path)?;
    decoded(path, || {
        Ok(Arc::clone(ParquetReader::new(file).get_metadata()?))
    })
}

/// The footer of a file that has only these row groups.
fn with_groups(metadata: &FileMetadata, row_groups: Vec<RowGroupMetadata>) -> FileMetadata {
    FileMetadata {
        num_rows: row_groups.iter().map(RowGroupMetadata::num_rows).sum(),
        row_groups,
        ..metadata.clone()
    }
}

/// Whether a row group may have rows of a latent. Without statistics it may.
fn may_have(group: &RowGroupMetadata, footer: &[u8], latent: u32) -> bool {
    let columns = group.columns_under_root_iter("feature_id");
    let statistics = columns
        .and_then(|mut columns| columns.next())
        .and_then(|column| column.statistics(footer));
    match statistics {
        // Parquet stores unsigned numbers under the signed type of their width.
        Some(Ok(Statistics::Int32(range))) => {
            let [low, high] = [range.min_value, range.max_value].map(|edge| edge.map(|e| e as u32));
            low.is_none_or(|low| low <= latent) && high.is_none_or(|high| latent <= high)
        }
        _ => true,
    }
}

impl<'a> Table<'a> {
    /// The rows of one latent, in the order of the file.
    fn open_latent(path: &'a Path, latent: u32) -> Result<Self, FeaturesError> {
        let metadata = footer(path)?;
        let groups = decoded(path, || {
            let groups = metadata.row_groups.iter();
            let groups = groups.filter(|group| may_have(group, &metadata.footer_buf, latent));
            Ok(groups.cloned().collect())
        })?;
        let metadata = with_groups(&metadata, groups);
        // First where the rows are: their texts are most of the file.
        let ids = Self::open_part(path, metadata.clone(), Some(&["feature_id"]), None)?;
        let ids = ids.numbers::<UInt32Type>("feature_id")?;
        let is_latent = |id: &u32| *id == latent;
        let first = ids.iter().position(is_latent).unwrap_or(0);
        let last = ids.iter().rposition(is_latent);
        let length = last.map_or(0, |last| last + 1 - first);
        let mut table = Self::open_part(path, metadata, None, Some((first, length)))?;
        // In a table that is not sorted, rows of others are between those of the latent.
        let ids = table.numbers::<UInt32Type>("feature_id")?;
        if !ids.iter().all(is_latent) {
            let wanted: BooleanChunked = ids.iter().map(|id| Some(is_latent(id))).collect();
            let rows = table.data.filter(&wanted);
            table.data = rows.map_err(|_| table.damaged("feature_id"))?;
        }
        Ok(table)
    }

    /// The row groups that are left in `metadata`, or `rows` of them: the first, and how many.
    fn open_part(
        path: &'a Path,
        metadata: FileMetadata,
        columns: Option<&[&'static str]>,
        rows: Option<(usize, usize)>,
    ) -> Result<Self, FeaturesError> {
        let file = open(path)?;
        let data = decoded(path, || {
            check_parquet_pages(path, &metadata, columns.unwrap_or(&[]))
                .map_err(|problem| PolarsError::ComputeError(problem.into()))?;
            let names = columns.map(|names| names.iter().map(ToString::to_string).collect());
            let mut reader = ParquetReader::new(file);
            reader.set_metadata(Arc::new(metadata));
            let reader = reader.with_columns(names).with_slice(rows);
            reader.set_rechunk(true).finish()
        })?;
        Ok(Table { path, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{TableSource, read_examples, write_examples};
    use crate::{Band, ExampleRow};
    use std::fs::File;

    fn example(feature_id: u32, rank: u32) -> ExampleRow {
        let tokens = (0..3 + (feature_id + rank) % 4).collect::<Vec<u32>>();
        ExampleRow {
            feature_id,
            rank,
            band: if rank < 3 { Band::Top } else { Band::Q50 },
            max_activation: feature_id as f32 + 0.5,
            tokens: tokens
                .iter()
                .map(|t| format!(" <b>{t}\u{fffd}").into())
                .collect(),
            token_ids: tokens.clone(),
            activations: tokens.iter().map(|t| *t as f32 * 0.25).collect(),
            peak_index: rank % 3,
            document: feature_id * 7,
            position: rank,
        }
    }

    /// Latents with 0 to 6 contexts each.
    fn examples() -> Vec<ExampleRow> {
        let of = |id: u32| (0..id % 7).map(move |rank| example(id, rank));
        (0..900).flat_map(of).collect()
    }

    fn written(rows: &[ExampleRow]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let source = TableSource {
            provenance: vec![("Model".into(), "tiny".into()), ("A".into(), "<b>".into())],
        };
        write_examples(&folder.path().join("examples.parquet"), rows, &source).unwrap();
        folder
    }

    #[test]
    fn all_contexts_of_a_latent_are_read_and_no_others() {
        let rows = examples();
        let folder = written(&rows);
        let path = folder.path().join("examples.parquet");
        assert!(footer(&path).unwrap().row_groups.len() > 5);
        let all = read_examples(&path).unwrap();
        assert_eq!(all, rows);
        for latent in [
            0,
            1,
            2,
            3,
            6,
            127,
            128,
            129,
            255,
            256,
            257,
            511,
            898,
            899,
            900,
            u32::MAX,
        ] {
            let expected: Vec<&ExampleRow> =
                all.iter().filter(|r| r.feature_id == latent).collect();
            let found = read_examples_of(&path, latent).unwrap();
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{latent}");
        }
    }

    #[test]
    fn a_table_that_is_not_sorted_has_the_same_contexts() {
        let mut rows = examples();
        rows.sort_by_key(|row| (row.rank, row.feature_id * 37 % 900));
        let folder = written(&rows);
        let path = folder.path().join("examples.parquet");
        for latent in [5, 300, 899] {
            let expected = rows.iter().filter(|row| row.feature_id == latent);
            let found = read_examples_of(&path, latent).unwrap();
            assert_eq!(
                found.iter().collect::<Vec<_>>(),
                expected.collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn only_row_groups_that_may_have_the_latent_are_read() {
        let rows = examples();
        let folder = written(&rows);
        let path = folder.path().join("examples.parquet");
        let before = read_examples_of(&path, 3).unwrap();
        // Damages the middle of the file, in which other latents are.
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle - 2000..middle + 2000].fill(0xff);
        std::fs::write(&path, &bytes).unwrap();
        assert!(read_examples(&path).is_err());
        assert_eq!(read_examples_of(&path, 3).unwrap(), before);
        let damaged = (0..900).filter(|latent| read_examples_of(&path, *latent).is_err());
        assert!(damaged.count() > 0);
    }

    #[test]
    fn every_context_is_handed_over_until_it_is_enough() {
        let rows = examples();
        let folder = written(&rows);
        let path = folder.path().join("examples.parquet");
        let mut found = vec![];
        for_each_context(&path, &mut |id, tokens| {
            found.push((id, tokens.concat()));
            true
        })
        .unwrap();
        let expected = rows.iter().map(|row| (row.feature_id, row.tokens.concat()));
        assert_eq!(found, expected.collect::<Vec<_>>());
        let mut seen = 0;
        for_each_context(&path, &mut |_, _| {
            seen += 1;
            seen < 300
        })
        .unwrap();
        assert_eq!(seen, 300);
    }

    #[test]
    fn provenance_comes_back_and_is_empty_where_there_is_none() {
        let folder = written(&examples());
        let path = folder.path().join("examples.parquet");
        let expected = [("Model", "tiny"), ("A", "<b>")].map(|(a, b)| (a.into(), b.into()));
        assert_eq!(read_source(&path).unwrap().provenance, expected);
        let other = folder.path().join("other.parquet");
        let mut table = df!("feature_id" => [1_u32]).unwrap();
        ParquetWriter::new(File::create(&other).unwrap())
            .finish(&mut table)
            .unwrap();
        assert_eq!(read_source(&other).unwrap().provenance, []);
        assert!(read_examples_of(&other, 1).is_err());
        std::fs::write(&other, "no table").unwrap();
        assert!(read_examples_of(&other, 1).is_err());
    }
}
