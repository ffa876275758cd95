//! Documents out of a column of a Parquet file, some rows at a time.

use super::no_field;
use crate::ActivationsError;
use polars::io::mmap::MmapBytesReader;
use polars::prelude::{ParquetReader, PolarsResult, SerReader};
use std::fs::File;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// The corpus that the binary carries: US presidents' State of the Union speeches, in the public domain.
const STATE_OF_THE_UNION: &[u8] = include_bytes!("../../corpus/state_of_the_union.parquet");

/// Rows read at once.
const ROWS: usize = 256;

/// A file being read.
pub(super) struct Rows {
    /// None: the embedded one.
    file: Option<PathBuf>,
    field: String,
    /// Only rows whose column `split` says this.
    split: Option<&'static str>,
    next_row: usize,
    rows: usize,
    ready: std::vec::IntoIter<String>,
}

/// What a Parquet decoder returns, or in words why not: polars answers some damaged files with a panic.
fn decoded<T>(read: impl FnOnce() -> PolarsResult<T>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .map_err(|_| "damaged in a way the decoder does not name".to_owned())?
        .map_err(|e| format!("not readable: {e}"))
}

impl Rows {
    /// A split of the embedded corpus.
    pub fn embedded(split: &'static str, field: &str) -> Result<Self, ActivationsError> {
        Self::new(None, field, Some(split))
    }

    /// A file, whose texts stand in the column `field`.
    pub fn open(path: PathBuf, field: &str) -> Result<Self, ActivationsError> {
        Self::new(Some(path), field, None)
    }

    fn new(
        file: Option<PathBuf>,
        field: &str,
        split: Option<&'static str>,
    ) -> Result<Self, ActivationsError> {
        let mut rows = Self {
            file,
            field: field.into(),
            split,
            next_row: 0,
            rows: 0,
            ready: vec![].into_iter(),
        };
        rows.rows = rows.count()?;
        Ok(rows)
    }

    fn bytes(&self) -> Result<Box<dyn MmapBytesReader>, ActivationsError> {
        let Some(path) = &self.file else {
            return Ok(Box::new(Cursor::new(STATE_OF_THE_UNION)));
        };
        let file = File::open(path).map_err(|source| ActivationsError::Read {
            path: path.clone(),
            source,
        })?;
        Ok(Box::new(file))
    }

    fn wrong(&self, problem: String) -> ActivationsError {
        let embedded = || "embedded corpus".into();
        ActivationsError::Parquet {
            path: self.file.clone().unwrap_or_else(embedded),
            problem,
        }
    }

    /// How many rows there are; the column must be there too.
    fn count(&self) -> Result<usize, ActivationsError> {
        let mut reader = ParquetReader::new(self.bytes()?);
        let read = decoded(|| Ok((reader.schema()?, reader.num_rows()?)));
        let (schema, rows) = read.map_err(|problem| self.wrong(problem))?;
        let fields: Vec<&str> = schema.iter_names().map(|name| name.as_str()).collect();
        match fields.contains(&self.field.as_str()) {
            true => Ok(rows),
            false => Err(self.wrong(no_field(&self.field, &fields))),
        }
    }

    /// The next document.
    pub fn document(&mut self) -> Result<Option<String>, ActivationsError> {
        loop {
            if let Some(text) = self.ready.next() {
                return Ok(Some(text));
            }
            if self.next_row >= self.rows {
                return Ok(None);
            }
            self.ready = self.some()?.into_iter();
            self.next_row += ROWS;
        }
    }

    fn some(&self) -> Result<Vec<String>, ActivationsError> {
        let names = std::iter::once(self.field.as_str()).chain(self.split.map(|_| "split"));
        let names = names.map(String::from).collect();
        let reader = ParquetReader::new(self.bytes()?)
            .with_columns(Some(names))
            .with_slice(Some((self.next_row, ROWS)));
        let frame = decoded(|| reader.finish()).map_err(|problem| self.wrong(problem))?;
        // A file may claim more rows than it has: without this they would be looked for one piece after the other.
        let (found, expected) = (frame.height(), ROWS.min(self.rows - self.next_row));
        if found != expected {
            return Err(self.wrong(format!(
                "found {found} rows from row {} on, expected {expected} of {}",
                self.next_row, self.rows
            )));
        }
        let column = |name: &str| {
            let column = frame.column(name).and_then(|c| c.str());
            column.map_err(|e| self.wrong(format!("expected a column `{name}` of strings; {e}")))
        };
        let texts = column(&self.field)?;
        let Some(split) = self.split else {
            return Ok(texts.iter().flatten().map(String::from).collect());
        };
        let both = texts.iter().zip(column("split")?.iter());
        let mine = both.filter(|(_, s)| *s == Some(split));
        Ok(mine
            .filter_map(|(text, _)| text.map(String::from))
            .collect())
    }
}
