//! GGUF, llama.cpp's one-file models (layout: ggml, `docs/gguf.md`): metadata and tensors, shown as
//! a Hugging Face folder would show them, so that the families' own readers take over.

use crate::ModelError;
use crate::encoding::Encoding;
use crate::tensor_file::{Entry, Stored, TensorFile};
use lapidary_kernels::MappedFile;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

mod architecture;

/// A value of the metadata.
#[derive(Debug)]
enum Meta {
    Integer(i128),
    Float(f64),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Numbers(Vec<f64>),
}

/// A model in one file.
pub(crate) struct Gguf {
    /// As `config.json` would have it.
    pub config: Value,
    /// As `tokenizer.json` would have it, if the tokenizer is a byte-level BPE.
    pub tokenizer: Option<Value>,
    /// Under Hugging Face's names.
    pub tensors: TensorFile,
    /// What every rotary frequency is divided by, if the file says so.
    pub rope_factors: Option<Vec<f64>>,
}

impl Gguf {
    /// Opens and maps a file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let bytes = MappedFile::open(path).map_err(ModelError::read(path))?;
        let mut reader = Reader {
            path,
            bytes: &bytes,
            at: 0,
        };
        let (meta, tensors) = reader.header()?;
        let meta = Metadata { path, fields: meta };
        let mut rope_factors = None;
        let mut rest = vec![];
        for (name, entry) in tensors {
            if name != "rope_freqs.weight" {
                rest.push((name, entry));
                continue;
            }
            if entry.encoding != Ok(Encoding::F32) {
                return Err(meta.wrong(&name, format!("{:?}", entry.encoding), "F32"));
            }
            let mut factors = vec![0.0; entry.bytes.len() / 4];
            Encoding::F32.decode(&bytes[entry.bytes.clone()], &mut factors);
            rope_factors = Some(factors.into_iter().map(f64::from).collect());
        }
        let (config, entries) = architecture::translate(&meta, rest)?;
        let tokenizer = meta.tokenizer()?;
        let tensors = TensorFile::of_entries(path, bytes, entries);
        Ok(Self {
            config,
            tokenizer,
            tensors,
            rope_factors,
        })
    }
}

/// What a GGUF file says of itself, whatever its architecture.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufDescription {
    /// `general.architecture`.
    pub architecture: String,
    /// The other fields of the metadata with their values, of lists their lengths.
    pub fields: Vec<(String, String)>,
    /// Name, encoding and shape of every tensor.
    pub tensors: Vec<(String, String, Vec<usize>)>,
}

impl GgufDescription {
    /// Reads a file's header; no tensor is looked at.
    ///
    /// # Errors
    /// When the file cannot be read, is not a whole GGUF file, or has a tensor in an encoding that
    /// is not read.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = MappedFile::open(path).map_err(ModelError::read(path))?;
        let mut reader = Reader {
            path,
            bytes: &bytes,
            at: 0,
        };
        let (fields, tensors) = reader.header()?;
        let meta = Metadata { path, fields };
        let architecture = meta.text("general.architecture")?.to_owned();
        let value = |value: &Meta| match value {
            Meta::Integer(n) => n.to_string(),
            Meta::Float(x) => (*x as f32).to_string(),
            Meta::Flag(flag) => flag.to_string(),
            Meta::Text(text) => text.clone(),
            Meta::Texts(list) => format!("{} texts", list.len()),
            Meta::Numbers(list) => format!("{} numbers", list.len()),
        };
        let others = meta
            .fields
            .iter()
            .filter(|(name, _)| *name != "general.architecture");
        Ok(Self {
            architecture,
            fields: others
                .map(|(name, field)| (name.clone(), value(field)))
                .collect(),
            tensors: tensors
                .into_iter()
                .map(|(name, entry)| {
                    let encoding = entry
                        .encoding
                        .map_or("unknown".into(), |e| format!("{e:?}"));
                    (name, encoding, entry.shape)
                })
                .collect(),
        })
    }
}

/// The metadata, with errors that name file and field.
struct Metadata<'a> {
    path: &'a Path,
    fields: BTreeMap<String, Meta>,
}

impl Metadata<'_> {
    fn wrong(&self, field: &str, found: String, expected: &str) -> ModelError {
        ModelError::Field {
            path: self.path.into(),
            field: field.into(),
            found,
            expected: expected.into(),
        }
    }

    fn mistaken(&self, field: &str, expected: &str) -> ModelError {
        let found = match self.fields.get(field) {
            None => "nothing".into(),
            Some(Meta::Texts(list)) => format!("{} texts", list.len()),
            Some(Meta::Numbers(list)) => format!("{} numbers", list.len()),
            Some(other) => format!("{other:?}"),
        };
        self.wrong(field, found, expected)
    }

    fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    fn text(&self, field: &str) -> Result<&str, ModelError> {
        match self.fields.get(field) {
            Some(Meta::Text(text)) => Ok(text),
            _ => Err(self.mistaken(field, "a text")),
        }
    }

    fn texts(&self, field: &str) -> Result<&[String], ModelError> {
        match self.fields.get(field) {
            Some(Meta::Texts(texts)) => Ok(texts),
            _ => Err(self.mistaken(field, "a list of texts")),
        }
    }

    fn size(&self, field: &str) -> Result<usize, ModelError> {
        match self.fields.get(field) {
            Some(Meta::Integer(n)) => match usize::try_from(*n) {
                Ok(n) if n <= u32::MAX as usize => Ok(n),
                _ => Err(self.mistaken(field, "a size")),
            },
            _ => Err(self.mistaken(field, "a whole number")),
        }
    }

    fn number(&self, field: &str, default: f64) -> Result<f64, ModelError> {
        match self.fields.get(field) {
            None => Ok(default),
            Some(Meta::Float(x)) => Ok(*x),
            Some(Meta::Integer(n)) => Ok(*n as f64),
            _ => Err(self.mistaken(field, "a number")),
        }
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool, ModelError> {
        match self.fields.get(field) {
            None => Ok(default),
            Some(Meta::Flag(flag)) => Ok(*flag),
            _ => Err(self.mistaken(field, "true or false")),
        }
    }

    /// The `tokenizer.json` of a byte-level BPE whose way of splitting text is known; `None` for
    /// other tokenizers, with which a model can be run on token ids.
    fn tokenizer(&self) -> Result<Option<Value>, ModelError> {
        const MODEL: &str = "tokenizer.ggml.model";
        if !self.has(MODEL) || self.text(MODEL)? != "gpt2" {
            return Ok(None);
        }
        let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let split = |digits: &str| {
            let pattern = format!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            );
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
        };
        let pre = match self.has("tokenizer.ggml.pre") {
            true => self.text("tokenizer.ggml.pre")?,
            false => "default",
        };
        let steps = match pre {
            "gpt-2" => vec![bytes(true)],
            "smollm" => vec![
                json!({"type": "Digits", "individual_digits": true}),
                bytes(true),
            ],
            "llama-bpe" => vec![split(r"\p{N}{1,3}"), bytes(false)],
            "qwen2" => vec![split(r"\p{N}"), bytes(false)],
            _ => return Ok(None),
        };
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let kinds = match self.fields.get("tokenizer.ggml.token_type") {
            Some(Meta::Numbers(kinds)) if kinds.len() == tokens.len() => kinds.as_slice(),
            None => &[],
            _ => return Err(self.mistaken("tokenizer.ggml.token_type", "one number per token")),
        };
        // Control and user-defined tokens are never split.
        let special: Vec<Value> = tokens
            .iter()
            .zip(kinds)
            .enumerate()
            .filter(|(_, (_, kind))| **kind == 3.0 || **kind == 4.0)
            .map(|(id, (content, _))| {
                json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": true})
            })
            .collect();
        let vocabulary: serde_json::Map<String, Value> = tokens
            .iter()
            .enumerate()
            .map(|(id, token)| (token.clone(), id.into()))
            .collect();
        Ok(Some(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": special, "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": null,
            "decoder": bytes(true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "vocab": vocabulary, "merges": self.texts("tokenizer.ggml.merges")?,
            },
        })))
    }
}

/// Reads little-endian values one after another, never past the end.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

type Header = (BTreeMap<String, Meta>, Vec<(String, Entry)>);

impl Reader<'_> {
    fn broken(&self, problem: String) -> ModelError {
        ModelError::Gguf {
            path: self.path.into(),
            problem,
        }
    }

    fn take(&mut self, n: u64, what: &str) -> Result<&[u8], ModelError> {
        let left = self.bytes.len() - self.at;
        if n > left as u64 {
            return Err(self.broken(format!(
                "{what} takes {n} bytes at {}, the file has {left} left",
                self.at
            )));
        }
        let bytes = &self.bytes[self.at..self.at + n as usize];
        self.at += n as usize;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ModelError> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().expect("as many bytes as asked for"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &str) -> Result<String, ModelError> {
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.broken(format!("{what} is not UTF-8")))
    }

    fn value(&mut self, kind: u32, what: &str) -> Result<Meta, ModelError> {
        Ok(match kind {
            0 => Meta::Integer(self.array::<1>(what)?[0].into()),
            1 => Meta::Integer((self.array::<1>(what)?[0] as i8).into()),
            2 => Meta::Integer(u16::from_le_bytes(self.array(what)?).into()),
            3 => Meta::Integer(i16::from_le_bytes(self.array(what)?).into()),
            4 => Meta::Integer(self.u32(what)?.into()),
            5 => Meta::Integer(i32::from_le_bytes(self.array(what)?).into()),
            6 => Meta::Float(f32::from_le_bytes(self.array(what)?).into()),
            7 => Meta::Flag(self.array::<1>(what)?[0] != 0),
            8 => Meta::Text(self.text(what)?),
            9 => self.list(what)?,
            10 => Meta::Integer(self.u64(what)?.into()),
            11 => Meta::Integer(i64::from_le_bytes(self.array(what)?).into()),
            12 => Meta::Float(f64::from_le_bytes(self.array(what)?)),
            other => return Err(self.broken(format!("{what} is of unknown type {other}"))),
        })
    }

    fn list(&mut self, what: &str) -> Result<Meta, ModelError> {
        let (kind, length) = (self.u32(what)?, self.u64(what)?);
        let least = match kind {
            8 | 10 | 11 | 12 => 8,
            4..=6 => 4,
            2 | 3 => 2,
            0 | 1 | 7 => 1,
            other => {
                return Err(self.broken(format!("{what} is a list of the unknown type {other}")));
            }
        };
        let left = (self.bytes.len() - self.at) as u64;
        if length > left / least {
            return Err(self.broken(format!(
                "{what} lists {length} values, the file has {left} bytes left"
            )));
        }
        if kind == 8 {
            let texts = (0..length).map(|_| self.text(what));
            return Ok(Meta::Texts(texts.collect::<Result<_, _>>()?));
        }
        let numbers = (0..length).map(|_| match self.value(kind, what)? {
            Meta::Integer(n) => Ok(n as f64),
            Meta::Float(x) => Ok(x),
            Meta::Flag(flag) => Ok(f64::from(u8::from(flag))),
            _ => unreachable!("texts and lists were taken out above"),
        });
        Ok(Meta::Numbers(numbers.collect::<Result<_, ModelError>>()?))
    }

    fn header(&mut self) -> Result<Header, ModelError> {
        if self.take(4, "the magic number")? != b"GGUF" {
            return Err(self.broken("it does not begin with GGUF".into()));
        }
        let version = self.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(self.broken(format!("found version {version}, expected 2 or 3")));
        }
        let (tensors, fields) = (
            self.u64("the number of tensors")?,
            self.u64("the number of fields")?,
        );
        let mut meta = BTreeMap::new();
        for _ in 0..fields {
            let key = self.text("a field's name")?;
            let kind = self.u32(&key)?;
            let value = self.value(kind, &key)?;
            meta.insert(key, value);
        }
        let mut entries = vec![];
        for _ in 0..tensors {
            entries.push(self.tensor()?);
        }
        let alignment = match meta.get("general.alignment") {
            None => 32,
            Some(Meta::Integer(n)) if (1..=1 << 20).contains(n) => *n as usize,
            Some(other) => {
                return Err(self.broken(format!("general.alignment is {other:?}, expected a size")));
            }
        };
        let data = self.at.next_multiple_of(alignment);
        let whole = self.bytes.len();
        for (name, entry) in &mut entries {
            let start = entry.bytes.start.checked_add(data);
            let end = entry.bytes.end.checked_add(data);
            match (start, end) {
                (Some(start), Some(end)) if end <= whole => entry.bytes = start..end,
                _ => {
                    return Err(self.broken(format!(
                        "tensor `{name}` ends behind the file's {whole} bytes; was it truncated?"
                    )));
                }
            }
        }
        Ok((meta, entries))
    }

    /// A tensor's name and place; its bytes count from the beginning of the data.
    fn tensor(&mut self) -> Result<(String, Entry), ModelError> {
        let name = self.text("a tensor's name")?;
        let n = self.u32(&name)?;
        if !(1..=4).contains(&n) {
            return Err(self.broken(format!(
                "tensor `{name}` has {n} dimensions, expected 1 to 4"
            )));
        }
        let mut shape = vec![];
        for _ in 0..n {
            shape.push(self.u64(&name)?);
        }
        let kind = self.u32(&name)?;
        let offset = self.u64(&name)?;
        let Some(encoding) = Encoding::of_ggml(kind) else {
            return Err(ModelError::Dtype {
                path: self.path.into(),
                tensor: name,
                found: format!("ggml type {kind}"),
            });
        };
        let (weights, bytes) = encoding.block();
        let count = shape.iter().try_fold(1_u64, |n, size| n.checked_mul(*size));
        let size = count.and_then(|n| n.checked_mul(bytes as u64));
        let place = size.and_then(|size| {
            let size = size / weights as u64;
            Some((
                usize::try_from(offset).ok()?,
                usize::try_from(offset.checked_add(size)?).ok()?,
            ))
        });
        match place {
            Some((start, end)) if shape[0] % weights as u64 == 0 => {
                shape.reverse(); // llama.cpp counts the fastest first
                let entry = Entry {
                    file: 0,
                    encoding: Ok(encoding),
                    shape: shape.into_iter().map(|size| size as usize).collect(),
                    bytes: start..end,
                    stored: Stored::AsIs,
                };
                Ok((name, entry))
            }
            _ => Err(self.broken(format!(
                "tensor `{name}` has shape {shape:?} at {offset}, expected whole blocks of {weights} that fit a file"
            ))),
        }
    }
}
