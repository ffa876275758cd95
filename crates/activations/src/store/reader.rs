//! Reading a store: rows by number, and every byte against its checksum.

use super::harvest::{first_model_digest, model_digest};
use super::manifest::{MANIFEST, StoreManifest, hexadecimal, is_shard_name, wrong};
use super::settings::StoredHook;
use super::shard::{CHUNK, OpenShard, check, read_at};
use super::{RowPlace, StoreDtype, decode};
use crate::{ActivationsError, Checksum};
use lapidary_model::LanguageModel;
use std::fs::File;
use std::num::NonZero;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;

/// Reads that a disk is asked for at once.
const READERS: usize = 8;

/// A store whose manifest and headers were checked, or a cache that SAELens wrote.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    contents: Contents,
    manifest: Option<StoreManifest>,
    shards: Vec<OpenShard>,
}

/// What there is to read.
#[derive(Debug)]
pub(crate) struct Contents {
    pub hooks: Vec<StoredHook>,
    pub dtype: StoreDtype,
    pub rows: u64,
    /// Changes whenever the rows do.
    pub digest: String,
    /// Tokens per block.
    pub context: usize,
}

/// Rows as the store keeps them.
#[derive(Default)]
pub(crate) struct RawRows {
    pub bytes: Vec<u8>,
    pub scales: Vec<u8>,
}

impl Store {
    pub(super) fn new(
        folder: &Path,
        contents: Contents,
        manifest: Option<StoreManifest>,
        shards: Vec<OpenShard>,
    ) -> Self {
        Self {
            folder: folder.into(),
            contents,
            manifest,
            shards,
        }
    }

    /// Opens a store of ours.
    pub(super) fn open_ours(folder: &Path) -> Result<Self, ActivationsError> {
        let manifest = StoreManifest::read(folder)?;
        let mut shards = Vec::with_capacity(manifest.shards.len());
        let mut first = 0;
        for shard in &manifest.shards {
            shards.push(OpenShard::open(folder, &manifest.settings, shard, first)?);
            first += shard.rows;
        }
        let settings = &manifest.settings;
        let contents = Contents {
            hooks: settings.hook_points.clone(),
            dtype: settings.dtype,
            rows: manifest.rows,
            digest: hexadecimal(Checksum::of(manifest.to_json().as_bytes())),
            context: settings.context,
        };
        Ok(Self::new(folder, contents, Some(manifest), shards))
    }

    /// Whether a folder holds a store of ours.
    pub fn exists(folder: &Path) -> bool {
        // A checkpoint has a manifest too.
        folder.join(MANIFEST).exists() && !folder.join("state.safetensors").exists()
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Of what it was made; a cache of SAELens does not say.
    pub fn manifest(&self) -> Option<&StoreManifest> {
        self.manifest.as_ref()
    }

    /// Where its activations were taken.
    pub fn hooks(&self) -> &[StoredHook] {
        &self.contents.hooks
    }

    /// How it keeps numbers.
    pub fn dtype(&self) -> StoreDtype {
        self.contents.dtype
    }

    /// Its rows.
    pub fn rows(&self) -> u64 {
        self.contents.rows
    }

    /// Tokens of the blocks whose activations it holds.
    pub fn context(&self) -> usize {
        self.contents.context
    }

    /// Changes whenever the rows do.
    pub(crate) fn digest(&self) -> &str {
        &self.contents.digest
    }

    /// Refuses a model other than the one that made the store, if the store says.
    ///
    /// # Errors
    /// When their weights differ.
    pub fn check_model(&self, model: &LanguageModel) -> Result<(), ActivationsError> {
        let Some(manifest) = &self.manifest else {
            return Ok(());
        };
        let settings = &manifest.settings;
        let hooks = settings.hook_points.iter().map(|hook| hook.name.parse());
        let hooks = hooks.collect::<Result<Vec<_>, _>>()?;
        let found = match manifest.is_old() {
            true => first_model_digest(model),
            false => model_digest(model, &hooks),
        };
        if found == settings.model_digest {
            return Ok(());
        }
        let expected = format!(
            "{}, that of `{}` whose activations these are",
            settings.model_digest, settings.model
        );
        let path = self.folder.join(MANIFEST);
        Err(wrong(
            &path,
            "settings.model_digest",
            format!("{found}, that of the weights of `{}`", model.name()),
            expected,
        ))
    }

    /// The number of a hook point in the store, and its width.
    ///
    /// # Errors
    /// When the store does not hold it; the error names those that it holds.
    pub fn hook(&self, name: &str) -> Result<(usize, usize), ActivationsError> {
        let hooks = self.hooks();
        match hooks.iter().position(|h| h.name == name) {
            Some(i) => Ok((i, hooks[i].d_in)),
            None => {
                let held: Vec<&str> = hooks.iter().map(|h| h.name.as_str()).collect();
                Err(wrong(
                    &self.folder,
                    "hook_point",
                    name.into(),
                    held.join(" or "),
                ))
            }
        }
    }

    /// Reads every shard against its checksum, several at once, unless that was done since the
    /// store was opened; `on_progress` hears the bytes read so far. A cache of SAELens has none.
    ///
    /// # Errors
    /// When a shard cannot be read, or is not as it was written.
    pub fn check_shards(&self, on_progress: &mut dyn FnMut(u64)) -> Result<(), ActivationsError> {
        let next = AtomicUsize::new(0);
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (heard, parts) = mpsc::channel();
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..cores.min(READERS))
                .map(|_| {
                    let (heard, next) = (heard.clone(), &next);
                    scope.spawn(move || {
                        while let Some(shard) = self.shards.get(next.fetch_add(1, Relaxed)) {
                            let mut tell = |bytes| {
                                heard
                                    .send(bytes)
                                    .expect("the receiver outlives its threads");
                            };
                            if let Err(error) = shard.verify(&mut tell) {
                                next.store(self.shards.len(), Relaxed);
                                return Err(error);
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            drop(heard);
            let mut read: u64 = 0;
            for bytes in parts {
                read += bytes;
                on_progress(read);
            }
            let mut ends = readers.into_iter().map(|reader| reader.join());
            ends.try_for_each(|end| end.expect("reading does not panic"))
        })
    }

    /// Calls `with` for each shard's part of `rows`: shard, first row in it, number of rows.
    fn parts(
        &self,
        rows: Range<u64>,
        mut with: impl FnMut(&OpenShard, u64, u64) -> Result<(), ActivationsError>,
    ) -> Result<(), ActivationsError> {
        if rows.end > self.rows() || rows.start > rows.end {
            let found = format!("{} to {}", rows.start, rows.end);
            return Err(wrong(
                &self.folder,
                "rows",
                found,
                format!("within {}", self.rows()),
            ));
        }
        let mut at = rows.start;
        let mut i = self.shards.partition_point(|s| s.first + s.rows <= at);
        while at < rows.end {
            let shard = &self.shards[i];
            let n = (shard.first + shard.rows).min(rows.end) - at;
            with(shard, at - shard.first, n)?;
            at += n;
            i += 1;
        }
        Ok(())
    }

    /// Bytes of a row's values and of its scale.
    fn row_bytes(&self, hook: usize) -> [usize; 2] {
        let dtype = self.dtype();
        let scale = if dtype == StoreDtype::Int8 { 4 } else { 0 };
        [self.hooks()[hook].d_in * dtype.bytes(), scale]
    }

    /// Reads ranges of rows at a hook point, one after the other, as they lie on disk; several at
    /// once, since a disk answers many questions faster than one.
    pub(crate) fn read_raw(
        &self,
        hook: usize,
        ranges: &[Range<u64>],
        out: &mut RawRows,
    ) -> Result<(), ActivationsError> {
        let rows: u64 = ranges.iter().map(|r| r.end.saturating_sub(r.start)).sum();
        let [width, scale] = self.row_bytes(hook);
        out.bytes.resize(rows as usize * width, 0);
        out.scales.resize(rows as usize * scale, 0);
        let (mut bytes, mut scales) = (out.bytes.as_mut_slice(), out.scales.as_mut_slice());
        let results: Vec<Result<(), ActivationsError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = ranges
                .chunks(ranges.len().div_ceil(READERS).max(1))
                .map(|ranges| {
                    let rows: u64 = ranges.iter().map(|r| r.end.saturating_sub(r.start)).sum();
                    let (mine, rest) =
                        std::mem::take(&mut bytes).split_at_mut(rows as usize * width);
                    let (mine_too, rest_too) =
                        std::mem::take(&mut scales).split_at_mut(rows as usize * scale);
                    (bytes, scales) = (rest, rest_too);
                    scope.spawn(move || self.read_ranges(hook, ranges, mine, mine_too))
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("reading does not panic"))
                .collect()
        });
        results.into_iter().collect()
    }

    fn read_ranges(
        &self,
        hook: usize,
        ranges: &[Range<u64>],
        mut bytes: &mut [u8],
        mut scales: &mut [u8],
    ) -> Result<(), ActivationsError> {
        let [width, scale] = self.row_bytes(hook);
        for range in ranges {
            self.parts(range.clone(), |shard, start, n| {
                shard.verify(&mut |_| {})?;
                let path = &shard.path;
                let mut file = open(path)?;
                let offsets = shard.hooks[hook];
                let (mine, rest) = std::mem::take(&mut bytes).split_at_mut(n as usize * width);
                bytes = rest;
                read_at(path, &mut file, offsets.0 + start * width as u64, mine)?;
                if scale > 0 {
                    let (mine, rest) = std::mem::take(&mut scales).split_at_mut(n as usize * scale);
                    scales = rest;
                    read_at(path, &mut file, offsets.1 + start * scale as u64, mine)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Row `i` of raw rows, in f32.
    pub(crate) fn decode_row(&self, hook: usize, raw: &RawRows, i: usize, out: &mut [f32]) {
        let [width, _] = self.row_bytes(hook);
        let scale = raw
            .scales
            .get(4 * i..4 * i + 4)
            .map_or(0.0, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        decode(self.dtype(), &raw.bytes[i * width..][..width], scale, out);
    }

    /// Rows at a hook point in f32, `[n, d_in]` flat.
    ///
    /// # Errors
    /// When the store has no such hook point or rows, or cannot be read.
    pub fn read(&self, hook: &str, rows: Range<u64>) -> Result<Vec<f32>, ActivationsError> {
        let (hook, d) = self.hook(hook)?;
        let mut raw = RawRows::default();
        self.parts(rows.clone(), |_, _, _| Ok(()))?; // before anything is allocated
        self.read_raw(hook, std::slice::from_ref(&rows), &mut raw)?;
        let mut out = vec![0.0; (rows.end - rows.start) as usize * d];
        for (i, row) in out.chunks_exact_mut(d).enumerate() {
            self.decode_row(hook, &raw, i, row);
        }
        Ok(out)
    }

    /// Tokens of rows and their places in the corpus.
    ///
    /// # Errors
    /// When the store has no such rows, or cannot be read.
    pub fn places(&self, rows: Range<u64>) -> Result<Vec<RowPlace>, ActivationsError> {
        let mut places = vec![];
        self.parts(rows, |shard, start, n| {
            shard.verify(&mut |_| {})?;
            let path = &shard.path;
            let mut file = open(path)?;
            let mut columns: [Vec<u8>; 3] = Default::default();
            let (Some(token_ids), Some([documents, positions])) = (shard.token_ids, shard.places)
            else {
                let expected = "a store with tokens and places, as harvest writes them".into();
                return Err(wrong(path, "documents", "none".into(), expected));
            };
            for (column, offset) in columns.iter_mut().zip([token_ids, documents, positions]) {
                append(path, &mut file, offset + 4 * start, 4 * n as usize, column)?;
            }
            let number = |column: usize, i: usize| {
                let b = &columns[column][4 * i..];
                u32::from_le_bytes([b[0], b[1], b[2], b[3]])
            };
            places.extend((0..n as usize).map(|i| RowPlace {
                token: number(0, i),
                document: number(1, i),
                position: number(2, i),
            }));
            Ok(())
        })?;
        Ok(places)
    }

    /// Reads a file against its checksum if it is a shard of a store that lies beside it.
    ///
    /// # Errors
    /// When the store's manifest or the file is damaged.
    pub fn verify_file(path: &Path) -> Result<(), ActivationsError> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        let is_shard = name.to_str().is_some_and(is_shard_name);
        if !is_shard || !Self::exists(folder) {
            return Ok(());
        }
        let manifest = StoreManifest::read(folder)?;
        match manifest.shards.iter().find(|shard| *shard.file == *name) {
            Some(shard) => check(path, &shard.xxh64, &mut vec![0; CHUNK], &mut |_| {}),
            None => Ok(()),
        }
    }

    /// Reads every byte of a store against its checksums; `on_progress` hears the bytes read so
    /// far.
    ///
    /// # Errors
    /// Names every shard whose bytes are not those that were written.
    pub fn verify(
        folder: &Path,
        on_progress: &mut dyn FnMut(u64),
    ) -> Result<StoreManifest, ActivationsError> {
        let manifest = StoreManifest::read(folder)?;
        let mut problems = vec![];
        let (mut buffer, mut read, mut first) = (vec![0; CHUNK], 0, 0);
        for shard in &manifest.shards {
            let path = folder.join(&shard.file);
            let mut problem = OpenShard::open(folder, &manifest.settings, shard, first).err();
            first += shard.rows;
            if problem.is_none() {
                let mut on_read = |n| {
                    read += n;
                    on_progress(read);
                };
                problem = check(&path, &shard.xxh64, &mut buffer, &mut on_read).err();
            }
            problems.extend(problem);
        }
        match problems.len() {
            0 => Ok(manifest),
            1 => Err(problems.remove(0)),
            n => {
                let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let path = folder.into();
                Err(ActivationsError::Damaged {
                    path,
                    count: n,
                    of: manifest.shards.len(),
                    problems: all.join("; "),
                })
            }
        }
    }
}

fn open(path: &Path) -> Result<File, ActivationsError> {
    File::open(path).map_err(|source| ActivationsError::Read {
        path: path.into(),
        source,
    })
}

fn append(
    path: &Path,
    file: &mut File,
    offset: u64,
    bytes: usize,
    out: &mut Vec<u8>,
) -> Result<(), ActivationsError> {
    let start = out.len();
    out.resize(start + bytes, 0);
    read_at(path, file, offset, &mut out[start..])
}
