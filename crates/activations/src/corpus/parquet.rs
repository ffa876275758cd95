//! Documents out of a column of a Parquet file, some rows at a time. Strings are what the file
//! holds as bytes of UTF-8: also those that a program keeps as categories, or that nothing says to
//! be text.

use super::SourceField;
use super::parquet_pages::check_parquet_pages;
use crate::ActivationsError;
use lapidary_io::without_panic;
use polars::io::mmap::MmapBytesReader;
use polars::io::parquet::metadata::FileMetadataRef;
use polars::prelude::{Column, DataType, ParquetReader, PolarsResult, SerReader};
use std::fs::File;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

/// The corpus that the binary carries: US presidents' State of the Union speeches, in the public
/// domain.
const STATE_OF_THE_UNION: &[u8] = include_bytes!("../../corpus/state_of_the_union.parquet");

/// Rows read at once, at most, and bytes of their texts, about.
const ROWS: usize = 256;
const BYTES: i64 = 32 << 20;

/// The beginnings of the names of types that polars, as it is built here, does not read.
const UNREADABLE: &[&str] = &[
    "Int8", "Int16", "UInt8", "UInt16", "Float16", "Int128", "UInt128", "Decimal",
];

/// A file being read.
pub(super) struct Rows {
    /// None: the embedded one.
    file: Option<PathBuf>,
    field: SourceField,
    /// Only rows whose column `split` says this.
    split: Option<&'static str>,
    /// Of the file, once it was read.
    metadata: Option<FileMetadataRef>,
    next_row: usize,
    rows: usize,
    rows_at_once: usize,
    ready: std::vec::IntoIter<Option<String>>,
}

type Reader = ParquetReader<Box<dyn MmapBytesReader>>;

/// What a Parquet decoder returns, or in words why not: polars answers some damaged files with a
/// panic.
fn decoded<T>(read: impl FnOnce() -> PolarsResult<T>) -> Result<T, String> {
    without_panic(read)?.map_err(|e| format!("not readable: {e}"))
}

impl Rows {
    /// A split of the embedded corpus.
    pub fn embedded(split: &'static str, field: &SourceField) -> Result<Self, ActivationsError> {
        Self::new(None, field, Some(split))
    }

    /// A file, whose texts stand in the column `field`.
    pub fn open(path: PathBuf, field: &SourceField) -> Result<Self, ActivationsError> {
        Self::new(Some(path), field, None)
    }

    fn new(
        file: Option<PathBuf>,
        field: &SourceField,
        split: Option<&'static str>,
    ) -> Result<Self, ActivationsError> {
        let mut rows = Self {
            file,
            field: field.clone(),
            split,
            metadata: None,
            next_row: 0,
            rows: 0,
            rows_at_once: ROWS,
            ready: vec![].into_iter(),
        };
        rows.count()?;
        Ok(rows)
    }

    fn reader(&self) -> Result<Reader, ActivationsError> {
        let bytes: Box<dyn MmapBytesReader> = match &self.file {
            None => Box::new(Cursor::new(STATE_OF_THE_UNION)),
            Some(path) => {
                let file = File::open(path).map_err(|source| ActivationsError::Read {
                    path: path.clone(),
                    source,
                })?;
                Box::new(file)
            }
        };
        let mut reader = ParquetReader::new(bytes);
        if let Some(metadata) = &self.metadata {
            reader.set_metadata(metadata.clone());
        }
        Ok(reader)
    }

    /// The columns that are read.
    fn columns(&self) -> Vec<&str> {
        let split = self.split.map(|_| "split");
        std::iter::once(self.field.name.as_str())
            .chain(split)
            .collect()
    }

    fn wrong(&self, problem: String) -> ActivationsError {
        match self.file.clone() {
            Some(path) => ActivationsError::Parquet { path, problem },
            None => {
                let path = "embedded".into();
                ActivationsError::Corpus { path, problem }
            }
        }
    }

    /// How many rows there are, and how many are read at once; the column must be there too.
    fn count(&mut self) -> Result<(), ActivationsError> {
        let mut reader = self.reader()?;
        let read = decoded(|| {
            // Which types a program had in memory does not matter: its categories are strings in
            // the file.
            let mut metadata = (**reader.get_metadata()?).clone();
            metadata.key_value_metadata = None;
            let metadata = Arc::new(metadata);
            reader.set_metadata(metadata.clone());
            Ok((reader.schema()?, metadata))
        });
        let (schema, metadata) = read.map_err(|problem| self.wrong(problem))?;
        let fields: Vec<&str> = schema.iter_names().map(|name| name.as_str()).collect();
        if !fields.contains(&self.field.name.as_str()) {
            return Err(self.wrong(self.field.is_not_among("columns", &fields)));
        }
        let kind = schema
            .get(&self.field.name)
            .map(|f| format!("{:?}", f.dtype()));
        if let Some(kind) = kind.filter(|kind| UNREADABLE.iter().any(|k| kind.starts_with(k))) {
            let expected = match self.field.takes_numbers {
                true => "strings, true or false, or numbers of 32 or 64 bits",
                false => "strings",
            };
            let name = &self.field.name;
            return Err(self.wrong(format!(
                "column `{name}`: found {kind}, expected {expected}"
            )));
        }
        if let Some(path) = &self.file {
            let wanted = self.columns();
            without_panic(|| check_parquet_pages(path, &metadata, &wanted))
                .and_then(|checked| checked)
                .map_err(|problem| self.wrong(problem))?;
        }
        self.rows = metadata.num_rows;
        let groups = metadata.row_groups.iter();
        let columns = groups.flat_map(|group| group.columns_under_root_iter(&self.field.name));
        let bytes = columns.flatten().map(|chunk| chunk.uncompressed_size());
        let bytes = bytes.fold(0_i64, |sum, bytes| sum.saturating_add(bytes.max(0)));
        let each = bytes / i64::try_from(self.rows).unwrap_or(i64::MAX).max(1);
        self.metadata = Some(metadata.clone());
        self.rows_at_once = (BYTES / each.max(1)).clamp(1, ROWS as i64) as usize;
        Ok(())
    }

    /// The next row: its text, or nothing where the column is null.
    pub fn row(&mut self) -> Result<Option<Option<String>>, ActivationsError> {
        loop {
            if let Some(text) = self.ready.next() {
                return Ok(Some(text));
            }
            if self.next_row >= self.rows {
                return Ok(None);
            }
            self.ready = self.some()?.into_iter();
            self.next_row += self.rows_at_once;
        }
    }

    fn some(&self) -> Result<Vec<Option<String>>, ActivationsError> {
        let names = self.columns().into_iter().map(String::from).collect();
        let reader = self
            .reader()?
            .with_columns(Some(names))
            .with_slice(Some((self.next_row, self.rows_at_once)));
        let frame = decoded(|| reader.finish()).map_err(|problem| self.wrong(problem))?;
        // A file may claim more rows than it has: without this they would be looked for one piece
        // after the other.
        let (found, expected) = (
            frame.height(),
            self.rows_at_once.min(self.rows - self.next_row),
        );
        if found != expected {
            return Err(self.wrong(format!(
                "found {found} rows from row {} on, expected {expected} of {}",
                self.next_row, self.rows
            )));
        }
        let column = |name: &str| {
            let column = frame.column(name).map_err(|e| e.to_string());
            let texts = column.and_then(|column| self.strings(column));
            texts.map_err(|problem| self.wrong(format!("column `{name}`: {problem}")))
        };
        let texts = column(&self.field.name)?;
        let Some(split) = self.split else {
            return Ok(texts);
        };
        let splits = column("split")?;
        let both = texts.into_iter().zip(splits);
        let mine = both.filter(|(_, s)| s.as_deref() == Some(split));
        Ok(mine.map(|(text, _)| text).collect())
    }

    /// The texts of a column, or in words why it has none.
    fn strings(&self, column: &Column) -> Result<Vec<Option<String>>, String> {
        let failed = |e: polars::prelude::PolarsError| e.to_string();
        match column.dtype() {
            DataType::String => {
                let texts = column.str().map_err(failed)?;
                Ok(texts.iter().map(|text| text.map(String::from)).collect())
            }
            DataType::Binary => {
                let texts = column.binary().map_err(failed)?;
                let text = |(i, bytes): (usize, Option<&[u8]>)| {
                    let Some(bytes) = bytes else { return Ok(None) };
                    let row = self.next_row + i;
                    let text = std::str::from_utf8(bytes)
                        .map_err(|e| format!("row {row}: bytes that are no UTF-8 text: {e}"))?;
                    Ok(Some(text.to_owned()))
                };
                texts.iter().enumerate().map(text).collect()
            }
            // A column without a single value may have any type.
            _ if column.null_count() == column.len() => Ok(vec![None; column.len()]),
            kind if self.field.takes_numbers && kind.is_float() => {
                // The shortest text of each number: 0.1 of 32 bits is 0.1, not the number of 64
                // bits that is nearest to it. NaN is how pandas marks a missing value.
                let single = *kind == DataType::Float32;
                let numbers = column.cast(&DataType::Float64).map_err(failed)?;
                let numbers = numbers.f64().map_err(failed)?;
                let text = |number: f64| match single {
                    true => number_text(number as f32),
                    false => number_text(number),
                };
                let numbers = numbers.iter().map(|n| n.filter(|n| !n.is_nan()).map(text));
                Ok(numbers.collect())
            }
            kind if self.field.takes_numbers && (kind.is_integer() || kind.is_bool()) => {
                let texts = column.cast(&DataType::String).map_err(failed)?;
                let texts = texts.str().map_err(failed)?;
                Ok(texts.iter().map(|text| text.map(String::from)).collect())
            }
            other => Err(format!("found {other}, expected strings")),
        }
    }
}

/// A number as text; 0 has no sign.
fn number_text<T: ToString + PartialEq + Default>(number: T) -> String {
    match number == T::default() {
        true => T::default().to_string(),
        false => number.to_string(),
    }
}
