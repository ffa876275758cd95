//! Writing a store so that it can be killed at any moment. A shard appears whole, and then the
//! manifest that names it. Rows exist once the manifest names their shard, and not before. One
//! shard is written while the next is filled.

use super::manifest::{
    FORMAT_VERSION, MANIFEST, Place, Shard, StoreManifest, hexadecimal, is_shard_name, shard_name,
    wrong,
};
use super::settings::StoreSettings;
use super::shard::ShardRows;
use super::{Encoded, encode};
use crate::{ActivationsError, Excluded};
use lapidary_io::{FolderLock, IoError, remove_scratch, write_atomically, write_file};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// A store that grows.
pub struct StoreWriter {
    folder: PathBuf,
    manifest: StoreManifest,
    rows: ShardRows,
    /// The shard that is on its way to the disk while the next one is filled.
    writing: Option<Writing>,
    /// Two writers would overwrite each other's shards.
    _lock: FolderLock,
}

struct Writing {
    rows: u64,
    thread: JoinHandle<Result<(StoreManifest, ShardRows), ActivationsError>>,
}

/// One token's place in the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowPlace {
    /// The token.
    pub token: u32,
    /// Document of the corpus, counted from 0.
    pub document: u32,
    /// Position in the document, in tokens.
    pub position: u32,
}

impl StoreWriter {
    /// Opens the store in `folder` to go on with it, or makes an empty one.
    ///
    /// # Errors
    /// When the folder holds something else, a store of other settings, or cannot be written to;
    /// when another process writes to it.
    pub fn open(folder: &Path, settings: StoreSettings) -> Result<Self, ActivationsError> {
        let lock = FolderLock::take(folder)?;
        let standing = folder.join(MANIFEST).exists();
        let manifest = match standing {
            true => StoreManifest::read(folder)?,
            false => StoreManifest::new(settings.clone()),
        };
        manifest.check(&folder.join(MANIFEST))?;
        if manifest.is_old() {
            let path = folder.join(MANIFEST);
            return Err(wrong(
                &path,
                "format_version",
                manifest.version().to_string(),
                format!(
                    "{FORMAT_VERSION}: this store can be read, but not extended; give another --out"
                ),
            ));
        }
        if let Some((setting, there, here)) = manifest.settings.difference(&settings) {
            return Err(ActivationsError::StoreSettings {
                path: folder.into(),
                setting,
                there,
                here,
            });
        }
        remove_scratch(folder, |name| name == MANIFEST || is_shard_name(name));
        if !standing {
            let mut entries = std::fs::read_dir(folder).map_err(IoError::read(folder))?;
            if let Some(entry) = entries.find_map(Result::ok) {
                return Err(ActivationsError::NotAStore {
                    folder: folder.into(),
                    path: entry.path(),
                });
            }
        }
        remove_unnamed(folder, manifest.shards.len())?;
        let mut writer = Self {
            folder: folder.into(),
            manifest,
            rows: ShardRows::default(),
            writing: None,
            _lock: lock,
        };
        if !standing {
            commit(folder, &mut writer.manifest)?;
        }
        Ok(writer)
    }

    /// What is committed; a shard that is being written is not yet in it.
    pub fn manifest(&self) -> &StoreManifest {
        &self.manifest
    }

    /// Rows committed, being written and waiting.
    pub fn rows(&self) -> u64 {
        let written = self.writing.as_ref().map_or(0, |writing| writing.rows);
        self.manifest.rows + written + self.rows.rows
    }

    /// Rows until the shard is full.
    pub fn room(&self) -> u64 {
        self.manifest.settings.shard_tokens - self.rows.rows
    }

    /// Norm limits, once they are known.
    pub(crate) fn set_norm_limits(&mut self, limits: Vec<f32>) {
        self.manifest.norm_limits = limits;
    }

    /// Adds rows, at most [`Self::room`] of them: for each hook point finite values, `[n, d_in]`
    /// flat.
    ///
    /// # Errors
    /// When f16 cannot hold a value.
    ///
    /// # Panics
    /// When there are more rows than room, or values of another shape.
    pub fn push(&mut self, places: &[RowPlace], values: &[&[f32]]) -> Result<(), ActivationsError> {
        let settings = &self.manifest.settings;
        assert!(places.len() as u64 <= self.room() && values.len() == settings.hook_points.len());
        self.rows.hooks.resize_with(values.len(), Encoded::default);
        for ((hook, values), out) in settings
            .hook_points
            .iter()
            .zip(values)
            .zip(&mut self.rows.hooks)
        {
            assert_eq!(values.len(), places.len() * hook.d_in);
            encode(settings.dtype, values, hook.d_in, &hook.name, out)?;
        }
        let columns: [fn(&RowPlace) -> u32; 3] = [|p| p.token, |p| p.document, |p| p.position];
        for (out, number) in self.rows.places.iter_mut().zip(columns) {
            out.extend(places.iter().flat_map(|place| number(place).to_le_bytes()));
        }
        self.rows.rows += places.len() as u64;
        Ok(())
    }

    /// Has the rows that wait written as a shard and committed, in the background: it ends before
    /// token `tokens` of the batch that follows `blocks` blocks, whose digest is `digest`;
    /// `excluded` were left out so far. The shard before is committed when this returns.
    ///
    /// # Errors
    /// When the shard before could not be written.
    pub fn close_shard(
        &mut self,
        blocks: u64,
        tokens: u64,
        digest: u64,
        excluded: Excluded,
    ) -> Result<(), ActivationsError> {
        if self.rows.rows == 0 {
            return Ok(());
        }
        let spare = self.settle()?;
        let rows = std::mem::replace(&mut self.rows, spare);
        let end = Place {
            blocks,
            tokens,
            digest: hexadecimal(digest),
        };
        let (folder, manifest) = (self.folder.clone(), self.manifest.clone());
        self.writing = Some(Writing {
            rows: rows.rows,
            thread: std::thread::spawn(move || write(&folder, manifest, rows, end, excluded)),
        });
        Ok(())
    }

    /// Waits until everything that was closed is committed.
    ///
    /// # Errors
    /// When the last shard could not be written.
    pub fn finish(&mut self) -> Result<&StoreManifest, ActivationsError> {
        self.settle()?;
        Ok(&self.manifest)
    }

    /// Waits for the shard that is being written; its memory, empty.
    fn settle(&mut self) -> Result<ShardRows, ActivationsError> {
        let Some(writing) = self.writing.take() else {
            return Ok(ShardRows::default());
        };
        let (manifest, rows) = writing.thread.join().expect("writing does not panic")?;
        self.manifest = manifest;
        Ok(rows)
    }

    /// Notes whether the corpus is at its end.
    pub(crate) fn set_corpus_ended(&mut self, ended: bool) -> Result<(), ActivationsError> {
        self.settle()?;
        if self.manifest.corpus_ended == ended {
            return Ok(());
        }
        self.manifest.corpus_ended = ended;
        commit(&self.folder, &mut self.manifest)
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        // The lock is held until nothing is written any more.
        if let Some(writing) = self.writing.take() {
            drop(writing.thread.join());
        }
    }
}

/// Writes a shard and the manifest with it; both and the memory of the rows come back.
fn write(
    folder: &Path,
    mut manifest: StoreManifest,
    mut rows: ShardRows,
    end: Place,
    excluded: Excluded,
) -> Result<(StoreManifest, ShardRows), ActivationsError> {
    let file = shard_name(manifest.shards.len());
    let path = folder.join(&file);
    let (mut bytes, mut checksum) = (0, 0);
    write_file(&path, |file| -> Result<(), IoError> {
        let written = rows.write(&manifest.settings, file);
        (bytes, checksum) = written.map_err(IoError::write(&path))?;
        Ok(())
    })?;
    manifest.rows += rows.rows;
    manifest.excluded = excluded;
    manifest.shards.push(Shard {
        file,
        rows: rows.rows,
        bytes,
        xxh64: hexadecimal(checksum),
        end,
    });
    commit(folder, &mut manifest)?;
    rows.clear();
    Ok((manifest, rows))
}

fn commit(folder: &Path, manifest: &mut StoreManifest) -> Result<(), ActivationsError> {
    let json = manifest.seal();
    Ok(write_atomically(&folder.join(MANIFEST), json.as_bytes())?)
}

/// Removes the shard that a killed writer finished but did not name in the manifest, which names
/// `shards`.
fn remove_unnamed(folder: &Path, shards: usize) -> Result<(), IoError> {
    let path = folder.join(shard_name(shards));
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(IoError::write(&path)(e)),
        _ => Ok(()),
    }
}
