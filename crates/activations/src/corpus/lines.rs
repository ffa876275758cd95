//! Documents out of plain text and of JSON, either packed by gzip or Zstandard: one object a line, or one array of objects.

use super::files::Packing;
use super::no_field;
use crate::ActivationsError;
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

/// Plain text is handed out in documents of at least this many bytes, cut after a line.
const TEXT_DOCUMENT: usize = 1 << 20;

/// A line or a JSON object that is longer is no document.
const LONGEST: u64 = 1 << 30;

/// A file being read.
pub(super) struct Lines {
    path: PathBuf,
    bytes: Box<dyn BufRead + Send>,
    kind: Kind,
}

enum Kind {
    /// Bytes read so far.
    Text { read: u64 },
    /// Lines, or objects of an array, read so far.
    Json {
        field: String,
        read: u64,
        form: Form,
    },
}

enum Form {
    Unknown,
    Lines,
    Array,
}

impl Lines {
    fn open(path: PathBuf, packing: Packing, kind: Kind) -> Result<Self, ActivationsError> {
        let open = || -> io::Result<Box<dyn BufRead + Send>> {
            let file = BufReader::with_capacity(1 << 16, File::open(&path)?);
            Ok(match packing {
                Packing::Plain => Box::new(file),
                Packing::Gzip => Box::new(BufReader::new(MultiGzDecoder::new(file))),
                Packing::Zstandard => Box::new(BufReader::new(
                    zstd::stream::read::Decoder::with_buffer(file)?,
                )),
            })
        };
        match open() {
            Ok(bytes) => Ok(Self { path, bytes, kind }),
            Err(source) => Err(ActivationsError::Read { path, source }),
        }
    }

    /// A text.
    pub fn text(path: PathBuf, packing: Packing) -> Result<Self, ActivationsError> {
        Self::open(path, packing, Kind::Text { read: 0 })
    }

    /// Objects with the text in `field`.
    pub fn json(path: PathBuf, packing: Packing, field: &str) -> Result<Self, ActivationsError> {
        let kind = Kind::Json {
            field: field.into(),
            read: 0,
            form: Form::Unknown,
        };
        Self::open(path, packing, kind)
    }

    /// The next document.
    pub fn document(&mut self) -> Result<Option<String>, ActivationsError> {
        let Self { path, bytes, kind } = self;
        let failed = |source| ActivationsError::Read {
            path: path.clone(),
            source,
        };
        let wrong = |line, problem| ActivationsError::Line {
            path: path.clone(),
            line,
            problem,
        };
        match kind {
            Kind::Text { read } => {
                let mut text = vec![];
                while text.len() < TEXT_DOCUMENT && line(bytes, &mut text).map_err(failed)? {}
                if text.is_empty() {
                    return Ok(None);
                }
                let start = *read;
                *read += text.len() as u64;
                let text = String::from_utf8(text).map_err(|e| ActivationsError::Corpus {
                    path: path.clone(),
                    problem: format!(
                        "not UTF-8 text: byte {} is no part of a character",
                        start + e.utf8_error().valid_up_to() as u64
                    ),
                })?;
                Ok(Some(text))
            }
            Kind::Json { field, read, form } => {
                if matches!(form, Form::Unknown) {
                    *form = match space(bytes).map_err(failed)? {
                        Some(b'[') => {
                            bytes.consume(1);
                            Form::Array
                        }
                        _ => Form::Lines,
                    };
                }
                let value = match form {
                    Form::Array => {
                        let value = element(bytes, *read == 0).map_err(|e| wrong(*read + 1, e))?;
                        *read += 1;
                        value
                    }
                    _ => {
                        let mut text = vec![];
                        loop {
                            text.clear();
                            *read += 1;
                            if !line(bytes, &mut text).map_err(failed)? {
                                break None;
                            }
                            if !text.trim_ascii().is_empty() {
                                let value = serde_json::from_slice::<Value>(&text);
                                break Some(
                                    value.map_err(|e| wrong(*read, format!("not JSON: {e}")))?,
                                );
                            }
                        }
                    }
                };
                match value {
                    None => Ok(None),
                    Some(value) => Ok(Some(text_of(value, field).map_err(|e| wrong(*read, e))?)),
                }
            }
        }
    }
}

/// Appends a line; false at the end.
fn line(bytes: &mut dyn BufRead, out: &mut Vec<u8>) -> io::Result<bool> {
    let n = bytes.take(LONGEST).read_until(b'\n', out)?;
    if n as u64 == LONGEST && out.last() != Some(&b'\n') {
        return Err(io::Error::other(format!(
            "a line is longer than {LONGEST} bytes"
        )));
    }
    Ok(n > 0)
}

/// The first byte that is no white space, not yet consumed.
fn space(bytes: &mut dyn BufRead) -> io::Result<Option<u8>> {
    loop {
        let buffer = bytes.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let blank = buffer
            .iter()
            .take_while(|b| b.is_ascii_whitespace())
            .count();
        let first = buffer.get(blank).copied();
        bytes.consume(blank);
        if first.is_some() {
            return Ok(first);
        }
    }
}

/// The next element of an array whose bracket was read; none at its end.
fn element(bytes: &mut dyn BufRead, first: bool) -> Result<Option<Value>, String> {
    let mut next = |consume: bool| {
        if consume {
            bytes.consume(1);
        }
        space(bytes).map_err(|e| e.to_string())
    };
    let mark = match (next(false)?, first) {
        (Some(b']'), _) => {
            bytes.consume(1);
            return Ok(None);
        }
        (mark, true) => mark,
        (Some(b','), false) => next(true)?,
        _ => return Err("not JSON: found no `,` or `]` behind an object".into()),
    };
    match mark {
        // Objects and strings end with a byte of their own, so that reading them takes nothing of what follows.
        Some(b'{' | b'"') => {
            let mut json = serde_json::Deserializer::from_reader(bytes.take(LONGEST));
            let value = Value::deserialize(&mut json).map_err(|e| format!("not JSON: {e}"))?;
            Ok(Some(value))
        }
        _ => Err("not an array of objects".into()),
    }
}

fn text_of(value: Value, field: &str) -> Result<String, String> {
    let mut object = match value {
        Value::Object(object) => object,
        _ => {
            return Err(format!(
                "found no object, expected one with a field `{field}`"
            ));
        }
    };
    match object.remove(field) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!(
            "field `{field}`: found {}, expected a string",
            kind_of(&other)
        )),
        None => {
            let fields: Vec<&str> = object.keys().map(String::as_str).collect();
            Err(no_field(field, &fields))
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
