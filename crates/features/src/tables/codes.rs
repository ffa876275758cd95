//! `codes.parquet`: the codes of each token of a text, written while they are computed.

use std::fs::File;
use std::path::Path;

use lapidary_io::write_file;
use polars::io::parquet::write::BatchedWriter;
use polars::prelude::*;

use super::write::{TableSource, end_with_metadata, lists};
use crate::FeaturesError;
use crate::statistics::BlockView;

/// Tokens of a row group.
const ROWS: usize = 1 << 15;

/// The tokens that wait for a row group to be full.
pub struct CodesWriter<'a> {
    path: &'a Path,
    writer: BatchedWriter<&'a mut File>,
    token_text: &'a dyn Fn(u32) -> String,
    rows: Vec<Row>,
}

struct Row {
    document: u32,
    position: u32,
    token: u32,
    codes: Vec<(u32, f32)>,
}

/// Writes `codes.parquet`, one row per counted token, in the order of the text; `fill` adds the
/// blocks. The file appears whole or not at all.
///
/// # Errors
/// If it cannot be written, or `fill` fails.
pub fn write_codes<T>(
    path: &Path,
    token_text: &dyn Fn(u32) -> String,
    source: &TableSource,
    fill: impl FnOnce(&mut CodesWriter<'_>) -> Result<T, FeaturesError>,
) -> Result<T, FeaturesError> {
    let mut filled = None;
    write_file(path, |file| {
        let writer = ParquetWriter::new(file).with_compression(ParquetCompression::Zstd(None));
        let schema = columns(&[], token_text).and_then(|empty| DataFrame::new(0, empty));
        let writer = schema.and_then(|empty| writer.batched(empty.schema()));
        let mut codes = CodesWriter {
            path,
            writer: writer.map_err(failed(path))?,
            token_text,
            rows: vec![],
        };
        filled = Some(fill(&mut codes)?);
        codes.flush()?;
        end_with_metadata(&codes.writer, source.metadata("codes")).map_err(failed(path))
    })?;
    filled.ok_or_else(|| FeaturesError::Write {
        path: path.into(),
        source: std::io::ErrorKind::Other.into(),
    })
}

fn failed(path: &Path) -> impl Fn(PolarsError) -> FeaturesError {
    move |source| FeaturesError::WriteTable {
        path: path.into(),
        source,
    }
}

impl CodesWriter<'_> {
    /// Adds the counted tokens of a block with their codes `[tokens, k]`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add(
        &mut self,
        block: &BlockView<'_>,
        values: &[f32],
        indices: &[i32],
        k: usize,
    ) -> Result<(), FeaturesError> {
        for (row, token) in block
            .tokens
            .iter()
            .enumerate()
            .filter(|(row, _)| block.active[*row])
        {
            let entries = row * k..(row + 1) * k;
            let active = values[entries.clone()].iter().zip(&indices[entries]);
            let active = active.filter(|(value, index)| **value > 0.0 && **index >= 0);
            self.rows.push(Row {
                document: block.document[row],
                position: block.position[row],
                token: *token,
                codes: active
                    .map(|(value, index)| (*index as u32, *value))
                    .collect(),
            });
        }
        match self.rows.len() >= ROWS {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), FeaturesError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let height = self.rows.len();
        let table = columns(&self.rows, self.token_text);
        let table = table.and_then(|columns| DataFrame::new(height, columns));
        let written = table.and_then(|table| self.writer.write_batch(&table));
        self.rows.clear();
        written.map_err(failed(self.path))
    }
}

fn columns(rows: &[Row], token_text: &dyn Fn(u32) -> String) -> PolarsResult<Vec<Column>> {
    let numbers = |of: fn(&Row) -> u32| rows.iter().map(of).collect::<Vec<u32>>();
    let texts: Vec<String> = rows.iter().map(|row| token_text(row.token)).collect();
    Ok(vec![
        Column::new("document".into(), numbers(|row| row.document)),
        Column::new("position".into(), numbers(|row| row.position)),
        Column::new("token_id".into(), numbers(|row| row.token)),
        Column::new("token".into(), texts),
        lists::<UInt32Type, _, _>("feature_ids", rows, |row| row.codes.iter().map(|c| c.0)),
        lists::<Float32Type, _, _>("activations", rows, |row| row.codes.iter().map(|c| c.1)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_counted_tokens_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("codes.parquet");
        let source = TableSource::default();
        let text = |token: u32| format!("<{token}>");
        let block = BlockView {
            tokens: &[0, 5, 6],
            document: &[2, 2, 2],
            position: &[0, 0, 1],
            block_index: 0,
            active: &[false, true, true],
        };
        let values = [9.0, 0.0, 1.5, 2.5, 0.0, 0.0];
        let indices = [1, -1, 7, 3, -1, -1];
        write_codes(&path, &text, &source, |codes| {
            for _ in 0..20_000 {
                codes.add(&block, &values, &indices, 2)?;
            }
            Ok(())
        })
        .unwrap();
        let table = ParquetReader::new(File::open(&path).unwrap())
            .finish()
            .unwrap();
        assert_eq!(table.height(), 40_000, "more than one row group");
        let cell = |name: &str, row| table.column(name).unwrap().get(row).unwrap().to_string();
        assert_eq!(cell("token", 0), "\"<5>\"");
        assert_eq!(
            (cell("document", 39_999), cell("position", 39_999)),
            ("2".into(), "1".into())
        );
        let list = |name: &str, row: usize| {
            let list = table
                .column(name)
                .unwrap()
                .list()
                .unwrap()
                .get_as_series(row)
                .unwrap();
            list.iter()
                .map(|value| value.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(list("feature_ids", 0), ["7", "3"]);
        assert_eq!(list("activations", 0), ["1.5", "2.5"]);
        assert!(list("feature_ids", 1).is_empty());

        let none = write_codes(&folder.path().join("none.parquet"), &text, &source, |_| {
            Err::<(), _>(FeaturesError::Input {
                field: "codes",
                found: "nothing".into(),
                expected: "codes".into(),
            })
        });
        assert!(none.is_err() && !folder.path().join("none.parquet").exists());
    }
}
