//! Writing a store so that it can be killed at any moment. A shard is written under a temporary name, synced and renamed;
//! then the manifest that names it, likewise. Rows exist once the manifest names their shard, and not before.

use super::manifest::{
    Excluded, MANIFEST, Place, Shard, StoreManifest, StoreSettings, hexadecimal, shard_name,
};
use super::shard::ShardRows;
use super::{Encoded, encode};
use crate::ActivationsError;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A store that grows.
pub struct StoreWriter {
    folder: PathBuf,
    manifest: StoreManifest,
    rows: ShardRows,
    /// Locked while this lives: two writers would overwrite each other's shards.
    _lock: File,
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
    /// When the folder holds something else, a store of other settings, or cannot be written to; when another process
    /// writes to it.
    pub fn open(folder: &Path, settings: StoreSettings) -> Result<Self, ActivationsError> {
        let write = |source| ActivationsError::Write {
            path: folder.into(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(write)?;
        let lock = File::open(folder).map_err(write)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(ActivationsError::StoreInUse {
                    path: folder.into(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(write(source)),
        }
        let standing = folder.join(MANIFEST).exists();
        let manifest = match standing {
            true => StoreManifest::read(folder)?,
            false => StoreManifest::new(settings.clone()),
        };
        manifest.check(&folder.join(MANIFEST))?;
        if let Some((setting, there, here)) = manifest.settings.difference(&settings) {
            return Err(ActivationsError::StoreSettings {
                path: folder.into(),
                setting,
                there,
                here,
            });
        }
        if !standing {
            let mut entries = std::fs::read_dir(folder).map_err(write)?;
            let foreign = entries.find_map(|e| {
                e.ok()
                    .map(|e| e.file_name())
                    .filter(|n| n != temporary(MANIFEST).as_str())
            });
            if let Some(name) = foreign {
                let path = folder.join(name);
                return Err(ActivationsError::NotAStore {
                    folder: folder.into(),
                    path,
                });
            }
        }
        let writer = Self {
            folder: folder.into(),
            manifest,
            rows: ShardRows::default(),
            _lock: lock,
        };
        if !standing {
            writer.commit()?;
        }
        Ok(writer)
    }

    /// What is committed.
    pub fn manifest(&self) -> &StoreManifest {
        &self.manifest
    }

    /// Rows committed and waiting.
    pub fn rows(&self) -> u64 {
        self.manifest.rows + self.rows.rows
    }

    /// Rows until the shard is full.
    pub fn room(&self) -> u64 {
        self.manifest.settings.shard_tokens - self.rows.rows
    }

    /// Norm limits, once they are known.
    pub(crate) fn set_norm_limits(&mut self, limits: Vec<f32>) {
        self.manifest.norm_limits = limits;
    }

    /// Adds rows, at most [`Self::room`] of them: for each hook point finite values, `[n, d_in]` flat.
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
        for place in places {
            let numbers = [place.token, place.document, place.position];
            for (out, number) in self.rows.places.iter_mut().zip(numbers) {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        self.rows.rows += places.len() as u64;
        Ok(())
    }

    /// Writes the rows that wait as a shard and commits it: it ends before token `tokens` of the batch that follows `blocks`
    /// blocks, whose digest is `digest`; `excluded` were left out so far.
    ///
    /// # Errors
    /// When the store cannot be written to.
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
        let name = shard_name(self.manifest.shards.len());
        let mut written = (0, 0);
        let (rows, settings) = (&self.rows, &self.manifest.settings);
        self.put(&name, |file| {
            written = rows.write(settings, file)?;
            Ok(())
        })?;
        self.manifest.rows += self.rows.rows;
        self.manifest.excluded = excluded;
        self.manifest.shards.push(Shard {
            file: name,
            rows: self.rows.rows,
            bytes: written.0,
            xxh64: hexadecimal(written.1),
            end: Place {
                blocks,
                tokens,
                digest: hexadecimal(digest),
            },
        });
        // The memory is kept for the next shard.
        self.rows.rows = 0;
        self.rows.places.iter_mut().for_each(Vec::clear);
        for hook in &mut self.rows.hooks {
            hook.bytes.clear();
            hook.scales.clear();
        }
        self.commit()
    }

    /// Notes whether the corpus is at its end.
    pub(crate) fn set_corpus_ended(&mut self, ended: bool) -> Result<(), ActivationsError> {
        if self.manifest.corpus_ended == ended {
            return Ok(());
        }
        self.manifest.corpus_ended = ended;
        self.commit()
    }

    fn commit(&self) -> Result<(), ActivationsError> {
        let json = self.manifest.to_json();
        self.put(MANIFEST, |file| {
            file.write_all(json.as_bytes())?;
            file.sync_all()
        })
    }

    /// A file that is whole or absent. The temporary name is always the same, so what a kill leaves is overwritten.
    fn put(
        &self,
        name: &str,
        fill: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> Result<(), ActivationsError> {
        let path = self.folder.join(name);
        let scratch = self.folder.join(temporary(name));
        File::create(&scratch)
            .and_then(|mut file| fill(&mut file))
            .and_then(|()| std::fs::rename(&scratch, &path))
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(|source| ActivationsError::Write { path, source })
    }
}

fn temporary(name: &str) -> String {
    format!(".{name}.writing")
}
