//! One shard: a safetensors file of `token_ids`, `documents` and `positions` `[rows]` (U32), for
//! each hook point a tensor of its name, `[rows, d_in]`, and for int8 its `….scale`, `[rows]`
//! (F32).

use super::layout::{Layout, PLACES};
use super::manifest::{Shard, hexadecimal, wrong};
use super::settings::StoreSettings;
use super::{Encoded, StoreDtype};
use crate::{ActivationsError, Checksum};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes written or read at once.
pub(crate) const CHUNK: usize = 1 << 20;

/// Bytes after which a disk is told to begin.
const SYNC: u64 = 16 << 20;

/// A header longer than this is not ours.
const LONGEST_HEADER: u64 = 1 << 20;

/// The rows of a shard in the making.
#[derive(Default)]
pub(crate) struct ShardRows {
    pub rows: u64,
    /// Little-endian U32 each, in the order of [`PLACES`].
    pub places: [Vec<u8>; 3],
    /// In the order of the settings' hook points.
    pub hooks: Vec<Encoded>,
}

impl ShardRows {
    /// Forgets the rows but keeps their memory.
    pub fn clear(&mut self) {
        self.rows = 0;
        self.places.iter_mut().for_each(Vec::clear);
        self.hooks.iter_mut().for_each(Encoded::clear);
    }

    /// Writes the file; its size and checksum. Only the end of it is left for the caller to sync.
    pub fn write(&self, settings: &StoreSettings, file: &mut File) -> std::io::Result<(u64, u64)> {
        let header = Layout::new(settings, self.rows).and_then(|l| l.header());
        let header = header.ok_or_else(|| std::io::Error::other("the shard is too large"))?;
        let scales = self.hooks.iter().map(|h| h.scales.as_slice());
        let values = self.hooks.iter().map(Encoded::bytes);
        let parts = std::iter::once(header.as_slice())
            .chain(self.places.iter().map(Vec::as_slice))
            .chain(scales)
            .chain(values);
        let mut sum = Checksum::default();
        let mut bytes = 0;
        // The disk works on what is written already while more is checksummed and written.
        let syncing = file.try_clone()?;
        std::thread::scope(|scope| {
            let (more, to_sync) = std::sync::mpsc::channel::<()>();
            let syncer = scope.spawn(move || to_sync.iter().try_for_each(|()| syncing.sync_data()));
            for chunk in parts.flat_map(|part| part.chunks(CHUNK)) {
                sum.update(chunk);
                file.write_all(chunk)?;
                let before = bytes / SYNC;
                bytes += chunk.len() as u64;
                if bytes / SYNC > before && more.send(()).is_err() {
                    break; // it failed, and says below how
                }
            }
            drop(more);
            syncer.join().expect("syncing does not panic")
        })?;
        Ok((bytes, sum.finish()))
    }
}

/// A shard on disk whose header agrees with the manifest: where its tensors begin.
#[derive(Debug)]
pub(crate) struct OpenShard {
    pub path: PathBuf,
    /// The first row's number in the store.
    pub first: u64,
    pub rows: u64,
    /// Where token ids begin, if they are kept; where documents and positions do.
    pub token_ids: Option<u64>,
    pub places: Option<[u64; 2]>,
    /// Offsets of values and, for int8, of scales, by hook point.
    pub hooks: Vec<(u64, u64)>,
    /// What its bytes must come to; none where nothing says.
    pub checksum: Option<String>,
    /// Whether they were seen to.
    pub verified: Mutex<bool>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl OpenShard {
    /// Reads the header and checks it.
    pub fn open(
        folder: &Path,
        settings: &StoreSettings,
        shard: &Shard,
        first: u64,
    ) -> Result<Self, ActivationsError> {
        let path = folder.join(&shard.file);
        let read = |source| ActivationsError::Read {
            path: path.clone(),
            source,
        };
        let mut file = File::open(&path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        if size != shard.bytes {
            return Err(wrong(
                &path,
                "size",
                format!("{size} bytes"),
                format!("{}, by the manifest", shard.bytes),
            ));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(read)?;
        let length = u64::from_le_bytes(length);
        if length > LONGEST_HEADER || length + 8 > size {
            return Err(wrong(
                &path,
                "header",
                format!("a length of {length}"),
                "a safetensors header within the file".into(),
            ));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(read)?;
        let entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&header)
            .map_err(|e| {
                wrong(
                    &path,
                    "header",
                    e.to_string(),
                    "a safetensors header".into(),
                )
            })?;
        let layout = Layout::new(settings, shard.rows).expect("the manifest was checked");
        let data = size - length - 8;
        let mut begins = vec![];
        let mut spans = vec![];
        for t in &layout.tensors {
            let field = format!("tensor `{}`", t.name);
            let entry = entries.get(&t.name).cloned().unwrap_or_default();
            let entry: Entry = serde_json::from_value(entry).map_err(|e| {
                wrong(
                    &path,
                    &field,
                    e.to_string(),
                    "dtype, shape and data_offsets".into(),
                )
            })?;
            let (found, expected) = ((entry.dtype.as_str(), &entry.shape), (t.dtype, &t.shape));
            if found != expected {
                return Err(wrong(
                    &path,
                    &field,
                    format!("{found:?}"),
                    format!("{expected:?}, by the manifest"),
                ));
            }
            let [begin, end] = entry.data_offsets;
            if end.checked_sub(begin) != Some(t.bytes) || end > data {
                return Err(wrong(
                    &path,
                    &field,
                    format!("offsets {begin} to {end}"),
                    format!("{} bytes within {data}", t.bytes),
                ));
            }
            begins.push(begin + length + 8);
            spans.push((begin, end, &t.name));
        }
        spans.sort_unstable();
        if let Some(pair) = spans.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            let field = format!("tensor `{}`", pair[1].2);
            return Err(wrong(
                &path,
                &field,
                format!("bytes of `{}`", pair[0].2),
                "bytes of its own".into(),
            ));
        }
        let n = settings.hook_points.len();
        let values = &begins[begins.len() - n..];
        let hooks = (0..n).map(|i| match settings.dtype {
            StoreDtype::Int8 => (values[i], begins[PLACES.len() + i]),
            _ => (values[i], 0),
        });
        Ok(Self {
            path,
            first,
            rows: shard.rows,
            token_ids: Some(begins[0]),
            places: Some([begins[1], begins[2]]),
            hooks: hooks.collect(),
            checksum: Some(shard.xxh64.clone()),
            verified: Mutex::new(false),
        })
    }

    /// Reads every byte against the checksum, the first time that this is asked of the open shard;
    /// `on_read` hears the bytes of each part. Other threads wait for it.
    pub fn verify(&self, on_read: &mut dyn FnMut(u64)) -> Result<(), ActivationsError> {
        let Some(expected) = &self.checksum else {
            return Ok(());
        };
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if !*verified {
            check(&self.path, expected, &mut vec![0; CHUNK], on_read)?;
            *verified = true;
        }
        Ok(())
    }
}

/// Reads a file against its checksum; `on_read` hears the bytes of each part.
pub(crate) fn check(
    path: &Path,
    expected: &str,
    buffer: &mut [u8],
    on_read: &mut dyn FnMut(u64),
) -> Result<(), ActivationsError> {
    let read = |source| ActivationsError::Read {
        path: path.into(),
        source,
    };
    let mut file = File::open(path).map_err(read)?;
    let mut sum = Checksum::default();
    loop {
        let n = file.read(buffer).map_err(read)?;
        if n == 0 {
            break;
        }
        sum.update(&buffer[..n]);
        on_read(n as u64);
    }
    let found = hexadecimal(sum.finish());
    match found == expected {
        true => Ok(()),
        false => Err(wrong(
            path,
            "xxh64",
            found,
            format!("{expected}: the file has changed since it was written"),
        )),
    }
}

/// Reads `buffer.len()` bytes at `offset`.
pub(crate) fn read_at(
    path: &Path,
    file: &mut File,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), ActivationsError> {
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(buffer))
        .map_err(|source| ActivationsError::Read {
            path: path.into(),
            source,
        })
}
