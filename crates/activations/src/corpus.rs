//! Documents out of text files: plain text, JSON lines and Parquet, a file or a folder of them, read as they are needed.

use crate::ActivationsError;
use polars::prelude::{ParquetReader, PolarsResult, SerReader};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The corpus that the binary carries: US presidents' State of the Union speeches, in the public domain.
const STATE_OF_THE_UNION: &[u8] = include_bytes!("../corpus/state_of_the_union.parquet");

/// The field of a text that names no other.
pub const TEXT_FIELD: &str = "text";

/// Plain text is handed out in documents of at most this many bytes, cut after a line.
const TEXT_DOCUMENT: usize = 1 << 20;

/// Rows of a Parquet file read at once.
const ROWS: usize = 256;

/// Where documents come from.
#[derive(Debug, Clone)]
pub struct Corpus {
    name: String,
    field: String,
    sources: Vec<Source>,
}

#[derive(Debug, Clone)]
enum Source {
    Embedded { split: &'static str },
    Text(PathBuf),
    JsonLines(PathBuf),
    Parquet(PathBuf),
}

impl Corpus {
    /// Opens a corpus: `embedded`, `embedded:heldout`, a `.txt`, `.jsonl` or `.parquet` file, or a folder of such files
    /// (taken in the order of their paths). JSON lines and Parquet have their text in the field, or column, `field`; plain
    /// text and the embedded corpus have none.
    ///
    /// # Errors
    /// When nothing is there, or nothing that can be read as a corpus.
    pub fn open(source: &str, field: &str) -> Result<Self, ActivationsError> {
        let (name, field) = (source.to_string(), field.to_string());
        let split = match source {
            "embedded" => Some("train"),
            "embedded:heldout" => Some("heldout"),
            _ => None,
        };
        if let Some(split) = split {
            return Ok(Self {
                name,
                field,
                sources: vec![Source::Embedded { split }],
            });
        }
        let path = Path::new(source);
        let mut files = vec![];
        collect_files(path, &mut files)?;
        files.sort();
        let mut sources: Vec<Source> = files.iter().filter_map(|file| by_extension(file)).collect();
        if sources.is_empty() {
            let problem = match path.is_dir() {
                true => "the folder holds no .txt, .jsonl or .parquet file".to_string(),
                false => "found another extension, expected .txt, .jsonl or .parquet".to_string(),
            };
            return Err(ActivationsError::Corpus {
                path: path.into(),
                problem,
            });
        }
        sources.shrink_to_fit();
        Ok(Self {
            name,
            field,
            sources,
        })
    }

    /// What [`Self::open`] was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The documents, in order.
    pub fn documents(&self) -> Documents {
        let mut sources = self.sources.clone();
        sources.reverse();
        Documents {
            sources,
            field: self.field.clone(),
            current: None,
        }
    }
}

fn collect_files(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), ActivationsError> {
    let read = |source| ActivationsError::Read {
        path: path.into(),
        source,
    };
    if !std::fs::metadata(path).map_err(read)?.is_dir() {
        files.push(path.into());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(read)? {
        collect_files(&entry.map_err(read)?.path(), files)?;
    }
    Ok(())
}

fn by_extension(file: &Path) -> Option<Source> {
    match file.extension()?.to_str()? {
        "txt" | "md" => Some(Source::Text(file.into())),
        "jsonl" | "ndjson" => Some(Source::JsonLines(file.into())),
        "parquet" => Some(Source::Parquet(file.into())),
        _ => None,
    }
}

/// An iterator over a corpus's documents.
pub struct Documents {
    sources: Vec<Source>, // reversed
    field: String,
    current: Option<Reader>,
}

enum Reader {
    Text {
        path: PathBuf,
        lines: BufReader<File>,
        read: u64,
    },
    JsonLines {
        path: PathBuf,
        lines: BufReader<File>,
        line: u64,
    },
    Parquet {
        path: PathBuf,
        split: Option<&'static str>,
        next_row: usize,
        rows: usize,
        ready: std::vec::IntoIter<String>,
    },
}

impl Iterator for Documents {
    type Item = Result<String, ActivationsError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.current.is_none() {
                match Reader::open(self.sources.pop()?, &self.field) {
                    Ok(reader) => self.current = Some(reader),
                    Err(error) => return Some(Err(error)),
                }
            }
            let reader = self.current.as_mut().expect("just opened");
            match reader.next(&self.field) {
                Ok(Some(text)) => return Some(Ok(text)),
                Ok(None) => self.current = None,
                Err(error) => {
                    // After an error the rest of the file cannot be trusted.
                    self.current = None;
                    self.sources.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Reader {
    fn open(source: Source, field: &str) -> Result<Self, ActivationsError> {
        let file = |path: &Path| {
            let opened = File::open(path).map_err(|source| ActivationsError::Read {
                path: path.into(),
                source,
            })?;
            Ok::<_, ActivationsError>(BufReader::new(opened))
        };
        let (path, split) = match source {
            Source::Text(path) => {
                return Ok(Self::Text {
                    lines: file(&path)?,
                    path,
                    read: 0,
                });
            }
            Source::JsonLines(path) => {
                return Ok(Self::JsonLines {
                    lines: file(&path)?,
                    path,
                    line: 0,
                });
            }
            Source::Parquet(path) => (path, None),
            Source::Embedded { split } => (PathBuf::from("embedded corpus"), Some(split)),
        };
        let rows = match split {
            Some(_) => decoded(|| ParquetReader::new(Cursor::new(STATE_OF_THE_UNION)).num_rows()),
            None => {
                let mut reader = ParquetReader::new(file(&path)?.into_inner());
                decoded(|| Ok((reader.schema()?, reader.num_rows()?))).and_then(|(schema, rows)| {
                    let fields: Vec<&str> = schema.iter_names().map(|n| n.as_str()).collect();
                    match fields.contains(&field) {
                        true => Ok(rows),
                        false => Err(no_field(field, &fields)),
                    }
                })
            }
        };
        let rows = rows.map_err(|problem| ActivationsError::Parquet {
            path: path.clone(),
            problem,
        })?;
        Ok(Self::Parquet {
            path,
            split,
            next_row: 0,
            rows,
            ready: vec![].into_iter(),
        })
    }

    fn next(&mut self, field: &str) -> Result<Option<String>, ActivationsError> {
        match self {
            Self::Text { path, lines, read } => text_document(path, lines, read),
            Self::JsonLines { path, lines, line } => json_document(path, lines, line, field),
            Self::Parquet {
                path,
                split,
                next_row,
                rows,
                ready,
            } => loop {
                if let Some(text) = ready.next() {
                    return Ok(Some(text));
                }
                if next_row >= rows {
                    return Ok(None);
                }
                *ready = parquet_documents(path, *split, *next_row, field)?.into_iter();
                *next_row += ROWS;
            },
        }
    }
}

/// Says that a field is not among those that there are.
fn no_field(field: &str, fields: &[&str]) -> String {
    match fields {
        [] => format!("found no field, expected `{field}`"),
        _ => format!(
            "found the fields {}, expected `{field}`; name the one with the text (text_field)",
            fields.join(", ")
        ),
    }
}

fn text_document(
    path: &Path,
    lines: &mut BufReader<File>,
    read: &mut u64,
) -> Result<Option<String>, ActivationsError> {
    let mut bytes = vec![];
    while bytes.len() < TEXT_DOCUMENT {
        let n = lines
            .read_until(b'\n', &mut bytes)
            .map_err(|source| ActivationsError::Read {
                path: path.into(),
                source,
            })?;
        if n == 0 {
            break;
        }
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    let start = *read;
    *read += bytes.len() as u64;
    let text = String::from_utf8(bytes).map_err(|e| ActivationsError::Corpus {
        path: path.into(),
        problem: format!(
            "not UTF-8 text: byte {} is no part of a character",
            start + e.utf8_error().valid_up_to() as u64
        ),
    })?;
    Ok(Some(text))
}

fn json_document(
    path: &Path,
    lines: &mut BufReader<File>,
    line: &mut u64,
    field: &str,
) -> Result<Option<String>, ActivationsError> {
    let mut text = vec![];
    loop {
        text.clear();
        *line += 1;
        let n = lines
            .read_until(b'\n', &mut text)
            .map_err(|source| ActivationsError::Read {
                path: path.into(),
                source,
            })?;
        if n == 0 {
            return Ok(None);
        }
        if !text.trim_ascii().is_empty() {
            break;
        }
    }
    let wrong = |problem: String| ActivationsError::Line {
        path: path.into(),
        line: *line,
        problem,
    };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| wrong(format!("not JSON: {e}")))?;
    match (value.get(field), value.as_object()) {
        (Some(serde_json::Value::String(text)), _) => Ok(Some(text.clone())),
        (Some(other), _) => Err(wrong(format!(
            "field `{field}`: found {other:.40}, expected a string"
        ))),
        (None, Some(object)) => {
            let fields: Vec<&str> = object.keys().map(String::as_str).collect();
            Err(wrong(no_field(field, &fields)))
        }
        (None, None) => Err(wrong(format!(
            "found no object, expected one with a field `{field}`"
        ))),
    }
}

/// What a Parquet decoder returns, or in words why not: polars answers some damaged files with a panic.
fn decoded<T>(read: impl FnOnce() -> PolarsResult<T>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .map_err(|_| "damaged in a way the decoder does not name".to_owned())?
        .map_err(|e| e.to_string())
}

fn parquet_documents(
    path: &Path,
    split: Option<&str>,
    row: usize,
    field: &str,
) -> Result<Vec<String>, ActivationsError> {
    let slice = Some((row, ROWS));
    let frame = match split {
        Some(_) => decoded(|| {
            ParquetReader::new(Cursor::new(STATE_OF_THE_UNION))
                .with_columns(Some(vec!["text".into(), "split".into()]))
                .with_slice(slice)
                .finish()
        }),
        None => {
            let file = File::open(path).map_err(|source| ActivationsError::Read {
                path: path.into(),
                source,
            })?;
            decoded(|| {
                ParquetReader::new(file)
                    .with_columns(Some(vec![field.into()]))
                    .with_slice(slice)
                    .finish()
            })
        }
    };
    let parquet = |problem: String| ActivationsError::Parquet {
        path: path.into(),
        problem: format!("expected a column `{field}` of strings; {problem}"),
    };
    let frame = frame.map_err(parquet)?;
    let column = |name: &str| {
        frame
            .column(name)
            .and_then(|c| c.str())
            .map_err(|e| parquet(e.to_string()))
    };
    let texts = column(if split.is_some() { TEXT_FIELD } else { field })?;
    let Some(split) = split else {
        return Ok(texts.iter().flatten().map(String::from).collect());
    };
    let splits = column("split")?;
    let both = texts.iter().zip(splits.iter());
    Ok(both
        .filter(|(_, s)| *s == Some(split))
        .filter_map(|(t, _)| t.map(String::from))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::ParquetWriter;

    #[test]
    fn the_embedded_corpus_keeps_its_heldout_speeches_apart() {
        let all = |name: &str| {
            Corpus::open(name, TEXT_FIELD)
                .unwrap()
                .documents()
                .map(Result::unwrap)
                .collect::<Vec<_>>()
        };
        let (train, heldout) = (all("embedded"), all("embedded:heldout"));
        assert!(train.len() > 200 && heldout.len() > 5);
        assert!(heldout.iter().all(|speech| !train.contains(speech)));
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_its_paths() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("b.txt"), "second\n").unwrap();
        std::fs::write(
            folder.path().join("a.jsonl"),
            "{\"text\": \"first\"}\n\n{\"text\": \"one and a half\"}",
        )
        .unwrap();
        std::fs::write(folder.path().join("ignored.bin"), [0xff]).unwrap();
        let corpus = Corpus::open(folder.path().to_str().unwrap(), TEXT_FIELD).unwrap();
        let texts: Vec<_> = corpus.documents().map(Result::unwrap).collect();
        assert_eq!(texts, ["first", "one and a half", "second\n"]);
    }

    #[test]
    fn a_parquet_file_with_any_byte_damaged_is_read_or_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let mut frame = polars::df!("text" => ["one", "two", "three"]).unwrap();
        let mut sound = vec![];
        ParquetWriter::new(&mut sound).finish(&mut frame).unwrap();
        for i in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[i] ^= 0xff;
            std::fs::write(&path, &bytes).unwrap();
            let corpus = Corpus::open(path.to_str().unwrap(), TEXT_FIELD).unwrap();
            if let Err(error) = corpus.documents().collect::<Result<Vec<_>, _>>() {
                assert!(error.to_string().contains("a.parquet"), "{error}");
            }
        }
    }

    #[test]
    fn unreadable_corpora_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let corpus = Corpus::open(path.to_str().unwrap(), TEXT_FIELD);
            let error = corpus
                .and_then(|c| c.documents().collect::<Result<Vec<_>, _>>())
                .unwrap_err()
                .to_string();
            assert!(error.contains(name), "{error}");
            error
        };
        assert!(error("latin.txt", b"caf\xe9").contains("byte 3"));
        assert!(error("a.jsonl", b"{\"text\": \"x\"}\n{\"txt\": 1}\n").contains("line 2"));
        assert!(error("broken.jsonl", b"{").contains("line 1"));
        assert!(error("a.parquet", b"PAR1not really").contains("Parquet"));
        assert!(error("a.pdf", b"%PDF").contains(".parquet"));
        assert!(
            Corpus::open("no/such/place", TEXT_FIELD)
                .unwrap_err()
                .to_string()
                .contains("no/such/place")
        );
    }
}
