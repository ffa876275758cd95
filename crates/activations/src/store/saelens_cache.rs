//! A cache of activations that SAELens's `CacheActivationsRunner` wrote, read where it lies: a
//! Hugging Face dataset on disk (`state.json` names Arrow streams) with a column of
//! `[context, d_in]` numbers named after the hook point, and mostly one of token ids. Numbers of a
//! record batch stand one after the other in the file, as those of a shard do.
//!
//! Sources: SAELens 6 (`cache_activations_runner.py`), the Arrow columnar format (streams, record
//! batches).

// Not by arrow-ipc: its readers load batches and tell no offsets, and polars brings these types.

use super::StoreDtype;
use super::manifest::{hexadecimal, wrong};
use super::reader::{Contents, Store};
use super::settings::StoredHook;
use super::shard::OpenShard;
use crate::{ActivationsError, Checksum};
use lapidary_model::HookPoint;
use polars_arrow_format::ipc::planus::{self, ReadAsRoot};
use polars_arrow_format::ipc::{
    FieldRef, MessageHeaderRef, MessageRef, Precision, RecordBatchRef, SchemaRef, TypeRef,
};
use serde::Deserialize;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};
use std::sync::Mutex;

const STATE: &str = "state.json";

/// Longer messages about a batch's layout are none of theirs.
const LONGEST_MESSAGE: u32 = 16 << 20;

/// The part of `state.json` that matters.
#[derive(Deserialize)]
struct State {
    _data_files: Vec<DataFile>,
}

#[derive(Deserialize)]
struct DataFile {
    filename: String,
}

/// What the schema says about the activations.
struct Columns {
    hook: String,
    dtype: StoreDtype,
    context: u64,
    d_in: u64,
    /// The number of the first field node and the first buffer of the activations.
    first: (usize, usize),
    /// The same of the token ids.
    tokens: Option<(usize, usize)>,
}

/// Whether a folder holds a dataset on disk.
pub(super) fn exists(folder: &Path) -> bool {
    folder.join(STATE).is_file() && folder.join("dataset_info.json").is_file()
}

/// Opens the cache in a folder: every record batch becomes a shard.
pub(super) fn open(folder: &Path) -> Result<Store, ActivationsError> {
    let path = folder.join(STATE);
    let text = lapidary_io::read_text(&path)?;
    let state: State = serde_json::from_str(&lapidary_io::python_json(&text)).map_err(|e| {
        wrong(
            &path,
            "_data_files",
            e.to_string(),
            "the files of a dataset".into(),
        )
    })?;
    let mut sum = Checksum::default();
    sum.update(text.as_bytes());
    let mut shards: Vec<OpenShard> = vec![];
    let mut columns = None;
    for file in &state._data_files {
        let mut parts = Path::new(&file.filename).components();
        let inside = matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(_)), None)
        );
        if !inside {
            let found = format!("{:?}", file.filename);
            return Err(wrong(
                &path,
                "_data_files",
                found,
                "names of files beside".into(),
            ));
        }
        let mut stream = Stream::open(&folder.join(&file.filename))?;
        sum.update(&stream.size.to_le_bytes());
        stream.read(&mut columns, &mut shards)?;
    }
    let Some(c) = columns else {
        return Err(wrong(
            &path,
            "_data_files",
            "none".into(),
            "at least one".into(),
        ));
    };
    let rows = shards.iter().map(|shard| shard.rows).sum();
    let hook = StoredHook {
        name: c.hook,
        d_in: c.d_in as usize,
    };
    let contents = Contents {
        hooks: vec![hook],
        dtype: c.dtype,
        rows,
        digest: hexadecimal(sum.finish()),
        context: c.context as usize,
    };
    Ok(Store::new(folder, contents, None, shards))
}

/// An Arrow stream: messages, each a length, a flatbuffer of that length, and a body.
struct Stream {
    path: std::path::PathBuf,
    file: File,
    size: u64,
    at: u64,
}

impl Stream {
    fn open(path: &Path) -> Result<Self, ActivationsError> {
        let open = || {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        let (file, size) = open().map_err(|source| ActivationsError::Read {
            path: path.into(),
            source,
        })?;
        Ok(Self {
            path: path.into(),
            file,
            size,
            at: 0,
        })
    }

    fn wrong(&self, field: &str, found: impl ToString, expected: &str) -> ActivationsError {
        wrong(&self.path, field, found.to_string(), expected.into())
    }

    fn bytes(&mut self, n: u64) -> Result<Vec<u8>, ActivationsError> {
        if n > self.size - self.at {
            let found = format!("{n} bytes at {} of {}", self.at, self.size);
            return Err(self.wrong("message", found, "a message within the file"));
        }
        let mut bytes = vec![0; n as usize];
        let read = self.file.seek(SeekFrom::Start(self.at));
        read.and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|source| ActivationsError::Read {
                path: self.path.clone(),
                source,
            })?;
        self.at += n;
        Ok(bytes)
    }

    fn length(&mut self) -> Result<u32, ActivationsError> {
        let bytes = self.bytes(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Adds a shard for each record batch; the schema must be that of the streams before.
    fn read(
        &mut self,
        columns: &mut Option<Columns>,
        shards: &mut Vec<OpenShard>,
    ) -> Result<(), ActivationsError> {
        let mut known = false;
        while self.at < self.size {
            let mut length = self.length()?;
            if length == u32::MAX {
                length = self.length()?; // since Arrow 0.15 a marker comes first
            }
            if length == 0 {
                break; // the stream's end
            }
            if length > LONGEST_MESSAGE {
                return Err(self.wrong(
                    "message",
                    format!("a length of {length}"),
                    "an Arrow stream",
                ));
            }
            let bytes = self.bytes(length.into())?;
            let flat = |e: planus::Error| {
                wrong(
                    &self.path,
                    "message",
                    e.to_string(),
                    "an Arrow stream's".into(),
                )
            };
            let message = MessageRef::read_as_root(&bytes).map_err(flat)?;
            let body = message.body_length().map_err(flat)?;
            let body = u64::try_from(body)
                .ok()
                .filter(|n| *n <= self.size - self.at);
            let Some(body) = body else {
                return Err(self.wrong("message", "a body beyond the file", "a body within it"));
            };
            match message.header().map_err(flat)? {
                Some(MessageHeaderRef::Schema(schema)) => {
                    let here = self.columns(schema)?;
                    let same = columns.as_ref().is_none_or(|before| {
                        before.hook == here.hook
                            && (before.dtype, before.context, before.d_in)
                                == (here.dtype, here.context, here.d_in)
                    });
                    if !same {
                        let found = format!("{} {:?}", here.hook, [here.context, here.d_in]);
                        return Err(self.wrong("schema", found, "that of the files before"));
                    }
                    *columns = Some(here);
                    known = true;
                }
                Some(MessageHeaderRef::RecordBatch(batch)) => {
                    let (Some(columns), true) = (columns.as_ref(), known) else {
                        return Err(self.wrong("message", "a record batch", "a schema before it"));
                    };
                    let first = shards.last().map_or(0, |shard| shard.first + shard.rows);
                    let shard = self.shard(columns, batch, body, first)?;
                    shards.extend(Some(shard).filter(|shard| shard.rows > 0));
                }
                _ => return Err(self.wrong("message", "another kind", "schema or record batch")),
            }
            self.at += body;
        }
        match known {
            true => Ok(()),
            false => Err(self.wrong("schema", "none", "an Arrow stream with a schema")),
        }
    }

    /// Finds the columns in the schema.
    fn columns(&self, schema: SchemaRef<'_>) -> Result<Columns, ActivationsError> {
        let flat = |e: planus::Error| self.wrong("schema", e.to_string(), "an Arrow stream's");
        let (mut node, mut buffer) = (0, 0);
        let (mut found, mut tokens, mut names) = (None, None, vec![]);
        for field in schema.fields().map_err(flat)?.into_iter().flatten() {
            let field = field.map_err(flat)?;
            let name = field.name().map_err(flat)?.unwrap_or_default();
            names.push(name.to_owned());
            let (nodes, buffers) = extent(&field, 0).map_err(flat)?.ok_or_else(|| {
                self.wrong("schema", format!("column {name:?}"), "lists of numbers")
            })?;
            let hook = name.parse::<HookPoint>();
            if hook.is_ok_and(|hook| hook.to_string() == name) && found.is_none() {
                let (dtype, shape) = self.activations(&field)?;
                found = Some((name.to_owned(), dtype, shape, (node, buffer)));
            } else if name == "token_ids" {
                tokens = Some((node, buffer));
            }
            node += nodes;
            buffer += buffers;
        }
        let Some((hook, dtype, [context, d_in], first)) = found else {
            let found = format!("the columns {}", names.join(", "));
            return Err(self.wrong("schema", found, "one that is named after a hook point"));
        };
        Ok(Columns {
            hook,
            dtype,
            context,
            d_in,
            first,
            tokens,
        })
    }

    /// Type and shape, `[context, d_in]`, of a column of activations.
    fn activations(
        &self,
        field: &FieldRef<'_>,
    ) -> Result<(StoreDtype, [u64; 2]), ActivationsError> {
        let flat = |e: planus::Error| self.wrong("schema", e.to_string(), "an Arrow stream's");
        let other = |found: String| {
            self.wrong(
                "schema",
                found,
                "a list of lists of 16- or 32-bit floats with its shape",
            )
        };
        let mut inner = None;
        let mut depth = 0;
        let mut at = field.children().map_err(flat)?;
        while let Some(next) = at.and_then(|children| children.iter().next()) {
            let next = next.map_err(flat)?;
            depth += 1;
            inner = next.type_().map_err(flat)?;
            at = next.children().map_err(flat)?.filter(|c| !c.is_empty());
        }
        let dtype = match (depth, inner) {
            (2, Some(TypeRef::FloatingPoint(float))) => match float.precision().map_err(flat)? {
                Precision::Single => StoreDtype::F32,
                Precision::Half => StoreDtype::F16,
                Precision::Double => return Err(other("64-bit floats".into())),
            },
            _ => return Err(other(format!("lists {depth} deep of another type"))),
        };
        let mut shape = None;
        for entry in field.custom_metadata().map_err(flat)?.into_iter().flatten() {
            let entry = entry.map_err(flat)?;
            if entry.key().map_err(flat)? == Some("ARROW:extension:metadata") {
                let text = entry.value().map_err(flat)?.unwrap_or_default();
                shape = serde_json::from_str::<([u64; 2], String)>(text).ok();
            }
        }
        match shape {
            Some((shape, _)) if !shape.contains(&0) => Ok((dtype, shape)),
            _ => Err(other("no shape".into())),
        }
    }

    /// A record batch as a shard; its body begins here and has `body` bytes.
    fn shard(
        &self,
        columns: &Columns,
        batch: RecordBatchRef<'_>,
        body: u64,
        first: u64,
    ) -> Result<OpenShard, ActivationsError> {
        let flat =
            |e: planus::Error| self.wrong("record batch", e.to_string(), "an Arrow stream's");
        if batch.compression().map_err(flat)?.is_some() {
            return Err(self.wrong("record batch", "compressed buffers", "plain ones"));
        }
        let nodes = batch.nodes().map_err(flat)?;
        let buffers = batch.buffers().map_err(flat)?;
        let (Some(nodes), Some(buffers)) = (nodes, buffers) else {
            return Err(self.wrong("record batch", "no buffers", "those of its columns"));
        };
        let count = u64::try_from(batch.length().map_err(flat)?).unwrap_or(u64::MAX);
        // The numbers of a column: the last of its nodes and buffers. All of them must be there, in
        // one piece.
        let values = |name: &str, (node, buffer): (usize, usize), each: u64, bytes: u64| {
            let numbers = count.checked_mul(each);
            let size = numbers.and_then(|n| n.checked_mul(bytes));
            let (node, buffer) = (nodes.get(node), buffers.get(buffer));
            let (Some(numbers), Some(size), Some(node), Some(buffer)) =
                (numbers, size, node, buffer)
            else {
                return Err(self.wrong("record batch", format!("{count} rows"), "fewer"));
            };
            let full = u64::try_from(node.length()) == Ok(numbers) && node.null_count() == 0;
            let (at, n) = (
                u64::try_from(buffer.offset()),
                u64::try_from(buffer.length()),
            );
            let inside = at
                .ok()
                .zip(n.ok())
                .filter(|(at, n)| *n >= size && at.checked_add(*n).is_some_and(|end| end <= body));
            match (full, inside) {
                (true, Some((at, _))) => Ok(self.at + at),
                _ => {
                    let found = format!("{} numbers of `{name}`", node.length());
                    let expected = format!("{numbers} and none missing, within the file");
                    Err(self.wrong("record batch", found, &expected))
                }
            }
        };
        let (node, buffer) = columns.first;
        let each = columns.context.saturating_mul(columns.d_in);
        let bytes = columns.dtype.bytes() as u64;
        let at = values(&columns.hook, (node + 2, buffer + 5), each, bytes)?;
        let tokens = match columns.tokens {
            Some((node, buffer)) => Some(values(
                "token_ids",
                (node + 1, buffer + 2),
                columns.context,
                4,
            )?),
            None => None,
        };
        Ok(OpenShard {
            path: self.path.clone(),
            first,
            rows: count * columns.context,
            token_ids: tokens,
            places: None,
            hooks: vec![(at, 0)],
            checksum: None,
            verified: Mutex::new(false),
        })
    }
}

/// Field nodes and buffers of a column of numbers or of lists of such.
fn extent(field: &FieldRef<'_>, depth: u32) -> Result<Option<(usize, usize)>, planus::Error> {
    let own = match field.type_()? {
        Some(TypeRef::Int(_) | TypeRef::FloatingPoint(_) | TypeRef::Bool(_)) => {
            return Ok(Some((1, 2)));
        }
        Some(TypeRef::List(_) | TypeRef::LargeList(_)) => 2,
        Some(TypeRef::FixedSizeList(_)) => 1,
        _ => return Ok(None),
    };
    let child = field
        .children()?
        .and_then(|children| children.iter().next());
    match child {
        Some(child) if depth < 8 => {
            let inside = extent(&child?, depth + 1)?;
            Ok(inside.map(|(nodes, buffers)| (nodes + 1, buffers + own)))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchSource, NormalizationKind, StoreBatches};
    use burn::tensor::Device;
    use lapidary_model::TensorFile;
    use std::path::PathBuf;
    use std::sync::Arc;

    const HOOK: &str = "blocks.0.hook_resid_post";

    fn fixture(name: &str) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        root.join("../../tests/fixtures/saelens_cache").join(name)
    }

    /// The rows as the `datasets` library reads them.
    fn expected() -> Vec<f32> {
        let file = TensorFile::open(&fixture("expected.safetensors")).unwrap();
        let (shape, rows) = file.read("rows").unwrap();
        assert_eq!(shape, [128, 8]);
        rows
    }

    fn copied(name: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(fixture(name)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        folder
    }

    #[test]
    fn a_cache_written_by_saelens_gives_the_rows_that_datasets_gives() {
        let rows = expected();
        for (name, dtype, tolerance) in [
            ("float32", StoreDtype::F32, 0.0),
            ("float16", StoreDtype::F16, 1e-3),
        ] {
            let store = Store::open(&fixture(name)).unwrap();
            assert_eq!(
                (store.rows(), store.context(), store.dtype()),
                (128, 8, dtype)
            );
            assert_eq!(store.hooks()[0].name, HOOK);
            // Across record batches and files.
            let read = store.read(HOOK, 50..80).unwrap();
            for (a, b) in read.iter().zip(&rows[50 * 8..]) {
                assert!(
                    (a - b).abs() <= tolerance * b.abs().max(1e-2),
                    "{name}: {a} {b}"
                );
            }
            let device = Device::flex();
            let none = NormalizationKind::None;
            let store = Arc::new(store);
            let mut source = StoreBatches::new(store, &[HOOK], 32, 64, none, 0, &device).unwrap();
            let mut pass: Vec<f32> = vec![];
            for _ in 0..4 {
                pass.extend(
                    source
                        .next_batch()
                        .unwrap()
                        .remove(0)
                        .into_data()
                        .iter::<f32>(),
                );
            }
            let sums = |rows: &[f32]| {
                let mut sums: Vec<f32> = rows.chunks_exact(8).map(|r| r.iter().sum()).collect();
                sums.sort_by(f32::total_cmp);
                sums
            };
            for (a, b) in sums(&pass).iter().zip(sums(&rows)) {
                assert!((a - b).abs() <= 1e-2, "{name}: {a} {b}");
            }
        }
    }

    #[test]
    fn what_is_no_cache_of_activations_is_refused_by_name() {
        let folder = copied("float32");
        let refused = |file: &str, from: &[u8], to: &[u8], named: &str| {
            let path = folder.path().join(file);
            let sound = std::fs::read(&path).unwrap();
            let mut hostile = vec![];
            let mut at = 0;
            while at < sound.len() {
                match sound[at..].starts_with(from) {
                    true => hostile.extend_from_slice(to),
                    false => hostile.push(sound[at]),
                }
                at += if sound[at..].starts_with(from) {
                    from.len()
                } else {
                    1
                };
            }
            assert!(hostile != sound);
            std::fs::write(&path, hostile).unwrap();
            let error = Store::open(folder.path()).err().unwrap().to_string();
            std::fs::write(&path, sound).unwrap();
            assert!(error.contains(file) && error.contains(named), "{error}");
        };
        let first = "data-00000-of-00002.arrow";
        refused(STATE, b"data-00000", b"../data-00000", "_data_files");
        refused(STATE, b"_data_files", b"_data_filez", "_data_files");
        refused(first, b"hook_resid_post", b"hook_resid_pots", "token_ids");
        refused(
            first,
            b"[[8, 8]",
            b"[[8, 9]",
            "of `blocks.0.hook_resid_post`",
        );
        refused(first, b"[[8, 8]", b"[[0, 8]", "shape");
        let path = folder.path().join(first);
        let sound = std::fs::read(&path).unwrap();
        std::fs::write(&path, &sound[..sound.len() - 1000]).unwrap();
        let error = Store::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains(first) && error.contains("within"), "{error}");
    }

    #[test]
    fn no_arrow_file_makes_the_reader_panic() {
        let folder = copied("float32");
        let path = folder.path().join("data-00000-of-00002.arrow");
        let sound = std::fs::read(&path).unwrap();
        let data = sound.len() - 2400; // what lies before the numbers
        let (mut refused, mut read) = (0, 0);
        for i in (0..3 * data).step_by(2) {
            let mut bytes = sound.clone();
            match i / data {
                0 => bytes[i] ^= 0xff,
                1 => bytes[i - data] = 0x7f,
                _ => bytes.truncate(i - 2 * data),
            }
            std::fs::write(&path, &bytes).unwrap();
            match Store::open(folder.path()) {
                Ok(store) => {
                    read += 1;
                    let rows = store.rows().min(200);
                    drop(store.read(&store.hooks()[0].name, 0..rows));
                }
                Err(_) => refused += 1,
            }
        }
        assert!(
            refused > 250 && read > 250,
            "{refused} refused, {read} read"
        );
    }
}
