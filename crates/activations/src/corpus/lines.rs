//! Documents out of plain text and of JSON, either packed by gzip or Zstandard: one object a line,
//! or one array of objects.

use super::SourceField;
use super::files::Packing;
use crate::ActivationsError;
use flate2::bufread::MultiGzDecoder;
use lapidary_io::python_json;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::PathBuf;

/// Plain text is handed out in documents of at least this many bytes, cut after a line.
const TEXT_DOCUMENT: usize = 1 << 20;

/// A line or a JSON object that is longer is no document.
const LONGEST: u64 = 1 << 30;

/// The byte order mark in UTF-8: how some programs begin a file, and no text.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// Fields that an error lists, at most.
const FIELDS: usize = 30;

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
        field: SourceField,
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
        let open = || -> io::Result<(Vec<u8>, Box<dyn BufRead + Send>)> {
            let file = BufReader::with_capacity(1 << 16, File::open(&path)?);
            let mut bytes: Box<dyn BufRead + Send> = match packing {
                Packing::Plain => Box::new(file),
                Packing::Gzip => Box::new(BufReader::new(MultiGzDecoder::new(file))),
                Packing::Zstandard => Box::new(BufReader::new(
                    zstd::stream::read::Decoder::with_buffer(file)?,
                )),
            };
            let mut start = vec![];
            bytes.by_ref().take(3).read_to_end(&mut start)?;
            Ok((start, bytes))
        };
        let (mut start, bytes) = match open() {
            Ok(opened) => opened,
            Err(source) => return Err(ActivationsError::Read { path, source }),
        };
        if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
            let problem = "begins with the byte order mark of UTF-16, expected UTF-8".into();
            return Err(ActivationsError::Corpus { path, problem });
        }
        if start == BYTE_ORDER_MARK {
            start.clear();
        }
        let bytes = Box::new(Cursor::new(start).chain(bytes));
        Ok(Self { path, bytes, kind })
    }

    /// A text.
    pub fn text(path: PathBuf, packing: Packing) -> Result<Self, ActivationsError> {
        Self::open(path, packing, Kind::Text { read: 0 })
    }

    /// Objects with the text in `field`.
    pub fn json(
        path: PathBuf,
        packing: Packing,
        field: &SourceField,
    ) -> Result<Self, ActivationsError> {
        let kind = Kind::Json {
            field: field.clone(),
            read: 0,
            form: Form::Unknown,
        };
        Self::open(path, packing, kind)
    }

    /// The next row: its text, or nothing where the field is null.
    pub fn row(&mut self) -> Result<Option<Option<String>>, ActivationsError> {
        let Self { path, bytes, kind } = self;
        let failed = |source| ActivationsError::Read {
            path: path.clone(),
            source,
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
                Ok(Some(Some(text)))
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
                let mut json = vec![];
                let is_array = matches!(form, Form::Array);
                let wrong = |number, problem| ActivationsError::Row {
                    path: path.clone(),
                    unit: if is_array { "object" } else { "line" },
                    number,
                    problem,
                };
                if is_array {
                    let first = *read == 0;
                    *read += 1;
                    if !element(bytes, first, &mut json).map_err(|e| wrong(*read, e))? {
                        *read -= 1;
                        return Ok(None);
                    }
                } else {
                    while json.trim_ascii().is_empty() {
                        json.clear();
                        *read += 1;
                        if !line(bytes, &mut json).map_err(failed)? {
                            return Ok(None);
                        }
                    }
                }
                let text = text_of(&json, field).map_err(|e| wrong(*read, e))?;
                Ok(Some(text))
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

/// The next object of an array whose bracket was read, as it is written; false at the array's end.
fn element(bytes: &mut dyn BufRead, first: bool, out: &mut Vec<u8>) -> Result<bool, String> {
    let mut next = |consume: bool| {
        if consume {
            bytes.consume(1);
        }
        space(bytes).map_err(|e| e.to_string())
    };
    let mark = match (next(false)?, first) {
        (Some(b']'), _) => {
            bytes.consume(1);
            return Ok(false);
        }
        (mark, true) => mark,
        (Some(b','), false) => next(true)?,
        _ => return Err("not JSON: found no `,` or `]` behind an object".into()),
    };
    if mark != Some(b'{') {
        return Err("not an array of objects".into());
    }
    let (mut depth, mut in_string, mut escaped) = (0_u64, false, false);
    loop {
        let buffer = bytes.fill_buf().map_err(|e| e.to_string())?;
        if buffer.is_empty() {
            return Err("not JSON: the file ends within an object".into());
        }
        let ends = buffer.iter().position(|byte| {
            match (byte, in_string) {
                _ if escaped => escaped = false,
                (b'\\', true) => escaped = true,
                (b'"', _) => in_string = !in_string,
                (b'{' | b'[', false) => depth += 1,
                (b'}' | b']', false) => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let n = ends.map_or(buffer.len(), |end| end + 1);
        out.extend_from_slice(&buffer[..n]);
        bytes.consume(n);
        if ends.is_some() {
            return Ok(true);
        }
        if out.len() as u64 > LONGEST {
            return Err(format!("an object is longer than {LONGEST} bytes"));
        }
    }
}

/// The text in a field of a JSON object; none where it is null. Python's `NaN` in its place is null
/// too, since that is how pandas marks a missing text.
fn text_of(json: &[u8], field: &SourceField) -> Result<Option<String>, String> {
    let value = read_field(json, &field.name).or_else(|error| {
        // Python writes numbers that JSON does not have.
        let text = std::str::from_utf8(json).map_err(|_| error.to_string())?;
        let std::borrow::Cow::Owned(readable) = python_json(text) else {
            return Err(error.to_string());
        };
        let value = read_field(readable.as_bytes(), &field.name).map_err(|e| e.to_string())?;
        // They come as strings of their names. A string that was one before is told by giving it
        // another.
        match value {
            Found::Text(name) if name == "NaN" || name.ends_with("Infinity") => {
                let renamed = text.replace(&format!("\"{name}\""), "\"text\"");
                let again = read_field(python_json(&renamed).as_bytes(), &field.name);
                match again.map_err(|e| e.to_string())? {
                    Found::Text(now) if now != name => Ok(Found::Text(name)),
                    _ if name == "NaN" => Ok(Found::Null),
                    _ => Ok(Found::Other("a number")),
                }
            }
            value => Ok(value),
        }
    });
    match value.map_err(|e: String| format!("not JSON: {e}"))? {
        Found::Text(text) => Ok(Some(text)),
        Found::Null => Ok(None),
        Found::Plain(_, text) if field.takes_numbers => Ok(Some(text)),
        Found::Other(kind) | Found::Plain(kind, _) => Err(format!(
            "field `{}`: found {kind}, expected a string",
            field.name
        )),
        Found::Absent(fields) => {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            Err(field.is_not_among("fields", &fields))
        }
        Found::NoObject => Err(format!(
            "found no object, expected one with a field `{}`",
            field.name
        )),
    }
}

/// The value of a field.
enum Found {
    Text(String),
    Null,
    /// A number, or true or false: which in words, and its text.
    Plain(&'static str, String),
    /// None of these, in words.
    Other(&'static str),
    /// There is no such field, but these.
    Absent(Vec<String>),
    NoObject,
}

fn read_field(json: &[u8], field: &str) -> serde_json::Result<Found> {
    let mut json = serde_json::Deserializer::from_slice(json);
    let found = Object(field).deserialize(&mut json)?;
    json.end()?;
    Ok(found)
}

/// Reads one field of an object, and nothing else into memory.
struct Object<'a>(&'a str);

/// Reads a field's value.
struct Field;

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> DeserializeSeed<'de> for Field {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_any(self)
    }
}

fn no_object<T>(_: T) -> Found {
    Found::NoObject
}

fn plain(kind: &'static str, value: impl ToString) -> Found {
    Found::Plain(kind, value.to_string())
}

/// The visits of values that are answered by a function of the value.
macro_rules! answer {
    ($($visit:ident: $kind:ty => $answer:expr),*) => {
        $(fn $visit<E>(self, value: $kind) -> Result<Found, E> {
            Ok($answer(value))
        })*
    };
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let (mut found, mut fields) = (None, vec![]);
        while let Some(name) = map.next_key::<String>()? {
            if name == self.0 {
                // Of several the last counts, as in Python.
                found = Some(map.next_value_seed(Field)?);
            } else {
                map.next_value::<IgnoredAny>()?;
                if fields.len() < FIELDS && !fields.contains(&name) {
                    fields.push(name);
                }
            }
        }
        Ok(found.unwrap_or_else(|| {
            fields.sort_unstable();
            Found::Absent(fields)
        }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::NoObject)
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::NoObject)
    }

    answer!(visit_bool: bool => no_object, visit_i64: i64 => no_object, visit_u64: u64 => no_object,
        visit_f64: f64 => no_object, visit_str: &str => no_object);
}

impl<'de> Visitor<'de> for Field {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(Found::Text(text.into()))
    }

    fn visit_string<E>(self, text: String) -> Result<Found, E> {
        Ok(Found::Text(text))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Found::Other("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Other("an array"))
    }

    answer!(visit_bool: bool => |v| plain("true or false", v), visit_i64: i64 => |v| plain("a number", v),
        visit_u64: u64 => |v| plain("a number", v), visit_f64: f64 => |v: f64| plain("a number", if v == 0.0 { 0.0 } else { v }));
}
