//! Documents out of text files: plain text, JSON and Parquet, a file, a folder or a dataset of the
//! Hugging Face hub, read as they are needed.

mod files;
mod lines;
mod parquet;
mod parquet_pages;
#[cfg(test)]
mod tests;

use crate::ActivationsError;
use files::{Files, Format};
use lapidary_model::HubRepository;
use lines::Lines;
use parquet::Rows;
pub use parquet_pages::check_parquet_pages;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The field of a text that names no other.
pub const TEXT_FIELD: &str = "text";

/// Where documents come from.
#[derive(Debug, Clone)]
pub struct Corpus {
    name: String,
    field: SourceField,
    sources: Vec<Source>,
    skipped: SkippedRows,
}

/// A text of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its row in the corpus, counted from 0 over all files. Rows without text count too, so that
    /// it says where to look.
    pub number: u64,
    /// The text.
    pub text: String,
}

/// How many rows of a corpus had no text (null) in one pass so far. Clones share the count, so that
/// it can be asked for while something else reads.
#[derive(Debug, Clone, Default)]
pub struct SkippedRows(Arc<AtomicU64>);

impl SkippedRows {
    /// The number of rows.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What to tell the user, if there is something to tell.
    pub fn note(&self) -> Option<String> {
        match self.count() {
            0 => None,
            1 => Some("1 row without text was skipped".into()),
            n => Some(format!("{n} rows without text were skipped")),
        }
    }
}

#[derive(Debug, Clone)]
enum Source {
    Embedded {
        split: &'static str,
        field: SourceField,
    },
    File(PathBuf, Format),
    /// A file of a dataset on the hub, fetched when it is its turn.
    Hub(Arc<HubRepository>, String, Format),
}

impl Corpus {
    /// Opens a corpus: `embedded`, `embedded:heldout`, a file, a folder, `hf:OWNER/NAME` (a dataset
    /// on the Hugging Face hub, fetched file by file into the hub's cache) or
    /// `hf:OWNER/NAME/FOLDER`. A folder's or a dataset's files are taken in the order of their
    /// paths; `:SPLIT` behind it chooses those of one split, and without it the split `train` is
    /// taken where there is one. JSON and Parquet have their text in the field, or column, `field`;
    /// plain text and the embedded corpus have none.
    ///
    /// # Errors
    /// When nothing is there, or nothing that can be read as a corpus.
    pub fn open(source: &str, field: &str) -> Result<Self, ActivationsError> {
        let embedded = |split| Source::Embedded {
            split,
            field: SourceField::text(TEXT_FIELD),
        };
        let sources = match source {
            "embedded" => vec![embedded("train")],
            "embedded:heldout" => vec![embedded("heldout")],
            _ => match source.strip_prefix("hf:") {
                Some(name) => of_hub(source, name)?,
                None => of_disk(source)?,
            },
        };
        Ok(Self {
            name: source.into(),
            field: SourceField::text(field),
            sources,
            skipped: SkippedRows::default(),
        })
    }

    /// As [`Self::open`], but the rows are the classes of the texts instead of the texts. Classes
    /// may be numbers, or true and false; their text is the name of the class. The embedded corpus
    /// has `title` and `president`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn labels(source: &str, field: &str) -> Result<Self, ActivationsError> {
        let advice = "name the one with the class with --label-field (in a config of dkvb: data.label_field)";
        Self::of_field(source, field, advice)
    }

    /// As [`Self::labels`], but the rows are the documents' own ids.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn ids(source: &str, field: &str) -> Result<Self, ActivationsError> {
        Self::of_field(source, field, "name the one with the id with --id-field")
    }

    fn of_field(source: &str, field: &str, advice: &'static str) -> Result<Self, ActivationsError> {
        let mut corpus = Self::open(source, field)?;
        let plain = corpus.sources.iter().find_map(|source| match source {
            Source::File(path, Format::Text(_)) => Some(path.clone()),
            Source::Hub(_, file, Format::Text(_)) => Some(file.into()),
            _ => None,
        });
        if let Some(path) = plain {
            return Err(ActivationsError::Corpus {
                path,
                problem: format!(
                    "found plain text, which has no field `{field}`, expected JSON or Parquet"
                ),
            });
        }
        corpus.field = SourceField {
            name: field.into(),
            advice,
            takes_numbers: true,
        };
        for source in &mut corpus.sources {
            if let Source::Embedded {
                field: of_embedded, ..
            } = source
            {
                corpus.field.clone_into(of_embedded);
            }
        }
        Ok(corpus)
    }

    /// What [`Self::open`] was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The documents, in order. Rows without text (null) are left out and counted.
    pub fn documents(&self) -> Documents {
        Documents {
            rows: self.rows(),
            number: 0,
            skipped: 0,
            count: self.skipped.clone(),
        }
    }

    /// All rows, in order; a row without text (null) is none.
    pub fn rows(&self) -> TextRows {
        let mut sources = self.sources.clone();
        sources.reverse();
        TextRows {
            sources,
            field: self.field.clone(),
            current: None,
        }
    }

    /// The rows that [`Self::documents`] left out so far, in one pass.
    pub fn skipped_rows(&self) -> SkippedRows {
        self.skipped.clone()
    }
}

fn of_disk(source: &str) -> Result<Vec<Source>, ActivationsError> {
    let path = Path::new(source);
    // A colon may be part of a path that exists.
    let (path, split) = match source.rsplit_once(':') {
        Some((folder, split)) if !path.exists() && Path::new(folder).is_dir() => {
            (Path::new(folder), Some(split))
        }
        _ => (path, None),
    };
    let read = |source| ActivationsError::Read {
        path: path.into(),
        source,
    };
    if !std::fs::metadata(path).map_err(read)?.is_dir() {
        return match Format::of(source) {
            Some(format) => Ok(vec![Source::File(path.into(), format)]),
            None => Err(ActivationsError::Corpus {
                path: path.into(),
                problem: format!("found another extension, expected {}", files::EXTENSIONS),
            }),
        };
    }
    let folder = files::snapshot(path)?;
    let files = Files::below(&folder)?.of_split(source, split)?;
    let file = |(name, format)| Source::File(folder.join(name), format);
    Ok(files.into_iter().map(file).collect())
}

fn of_hub(source: &str, name: &str) -> Result<Vec<Source>, ActivationsError> {
    let (name, split) = match name.split_once(':') {
        Some((name, split)) => (name, Some(split)),
        None => (name, None),
    };
    let (name, folder) = match name.match_indices('/').nth(1) {
        Some((end, _)) => (&name[..end], name[end + 1..].trim_end_matches('/')),
        None => (name, ""),
    };
    let dataset = Arc::new(HubRepository::dataset(name)?);
    let inside = |file: &&String| {
        let rest = file.strip_prefix(folder);
        folder.is_empty() || rest.is_some_and(|rest| rest.starts_with('/'))
    };
    let names = dataset.files().iter().filter(inside).cloned();
    let files = Files::new(names.collect()).of_split(source, split)?;
    let file = |(name, format)| Source::Hub(dataset.clone(), name, format);
    Ok(files.into_iter().map(file).collect())
}

/// An iterator over a corpus's documents.
pub struct Documents {
    rows: TextRows,
    /// Rows and skipped rows so far.
    number: u64,
    skipped: u64,
    count: SkippedRows,
}

impl Iterator for Documents {
    type Item = Result<Document, ActivationsError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let row = self.rows.next()?;
            let number = self.number;
            self.number += 1;
            match row {
                Ok(Some(text)) => return Some(Ok(Document { number, text })),
                Ok(None) => {
                    self.skipped += 1;
                    self.count.0.fetch_max(self.skipped, Ordering::Relaxed);
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// An iterator over a corpus's rows.
pub struct TextRows {
    sources: Vec<Source>, // reversed
    field: SourceField,
    current: Option<Reader>,
}

enum Reader {
    Lines(Lines),
    Rows(Rows),
}

impl Reader {
    fn open(source: Source, field: &SourceField) -> Result<Self, ActivationsError> {
        let (path, format) = match source {
            Source::Embedded { split, field } => {
                return Ok(Self::Rows(Rows::embedded(split, &field)?));
            }
            Source::File(path, format) => (path, format),
            Source::Hub(dataset, file, format) => (dataset.fetch(&file)?, format),
        };
        Ok(match format {
            Format::Parquet => Self::Rows(Rows::open(path, field)?),
            Format::Text(packing) => Self::Lines(Lines::text(path, packing)?),
            Format::Json(packing) => Self::Lines(Lines::json(path, packing, field)?),
        })
    }

    fn next(&mut self) -> Result<Option<Option<String>>, ActivationsError> {
        match self {
            Self::Lines(lines) => lines.row(),
            Self::Rows(rows) => rows.row(),
        }
    }
}

impl Iterator for TextRows {
    type Item = Result<Option<String>, ActivationsError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.current.is_none() {
                match Reader::open(self.sources.pop()?, &self.field) {
                    Ok(reader) => self.current = Some(reader),
                    Err(error) => {
                        self.sources.clear();
                        return Some(Err(error));
                    }
                }
            }
            match self.current.as_mut().expect("just opened").next() {
                Ok(Some(row)) => return Some(Ok(row)),
                Ok(None) => self.current = None,
                Err(error) => {
                    // After an error the rest cannot be trusted.
                    self.current = None;
                    self.sources.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The field of JSON, or the column of Parquet, whose values are read.
#[derive(Clone, Debug)]
struct SourceField {
    name: String,
    /// What to do if there is no such field.
    advice: &'static str,
    /// Whether numbers, and true and false, are read as their text.
    takes_numbers: bool,
}

impl SourceField {
    fn text(name: &str) -> Self {
        Self {
            name: name.into(),
            advice: "name the one with the text with --text-field, or corpus.text_field in a recipe",
            takes_numbers: false,
        }
    }

    /// Says that the field is not among those that there are; `kind` is what the format calls
    /// them.
    fn is_not_among(&self, kind: &str, names: &[&str]) -> String {
        let Self { name, advice, .. } = self;
        match names {
            [] => format!("found no {kind}, expected `{name}`"),
            _ => format!(
                "found the {kind} {}, expected `{name}`: {advice}",
                names.join(", ")
            ),
        }
    }
}
