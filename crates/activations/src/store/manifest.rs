//! `manifest.json`: what a store holds, of what it was made, and how far it is. Whatever it says is
//! checked before it is believed, and before anything is allocated for it.

use super::layout::Layout;
use super::settings::StoreSettings;
use crate::{ActivationsError, Checksum, Excluded};
use lapidary_model::HookPoint;
use serde::{Deserialize, Serialize};
use std::path::Path;

pub(crate) const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "lapidary activation store";
/// Version 1 knew a model by its unembedding and final norm only.
pub(super) const FORMAT_VERSION: u64 = 2;
/// More than any manifest of ours comes to: ten million shards.
const LARGEST: u64 = 2 << 30;

/// What `manifest.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreManifest {
    format: String,
    format_version: u64,
    /// Which program, of which version.
    pub made_by: String,
    /// All that decides the rows.
    pub settings: StoreSettings,
    /// Rows in all shards.
    pub rows: u64,
    /// Tokens that were read and left out.
    pub excluded: Excluded,
    /// Norms above which a row is left out, one a hook point; empty without `norm_multiple`, or
    /// before the first shard.
    pub norm_limits: Vec<f32>,
    /// Whether the corpus was read to its end.
    pub corpus_ended: bool,
    /// The shards, in the order of the text.
    pub shards: Vec<Shard>,
    /// XXH64 of this file's bytes, with zeros for these digits. Stores of earlier versions have
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

/// How the checksum begins in the file, and what stands for its digits while it is computed.
const CHECKSUM: &str = "\"checksum\": \"";
const NO_CHECKSUM: &str = "0000000000000000";

/// One file of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Its name in the store's folder.
    pub file: String,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its checksum.
    pub xxh64: String,
    /// Where in the text it ends.
    pub end: Place,
}

/// A place in the text between two tokens, from which a harvest goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Blocks before the batch in which it lies.
    pub blocks: u64,
    /// Tokens of that batch before it.
    pub tokens: u64,
    /// Digest of the tokens of those blocks ([`crate::BlockStream::digest`]).
    pub digest: String,
}

/// A digest as it is written.
pub(crate) fn hexadecimal(digest: u64) -> String {
    format!("{digest:016x}")
}

/// The name of the shard with a number.
pub(crate) fn shard_name(number: usize) -> String {
    format!("shard-{number:06}.safetensors")
}

/// Whether a file is called as a shard is.
pub(crate) fn is_shard_name(name: &str) -> bool {
    let number = name
        .strip_prefix("shard-")
        .and_then(|n| n.strip_suffix(".safetensors"));
    number
        .and_then(|n| n.parse().ok())
        .is_some_and(|n| shard_name(n) == name)
}

impl StoreManifest {
    /// An empty store's.
    pub(crate) fn new(settings: StoreSettings) -> Self {
        Self {
            format: FORMAT.into(),
            format_version: FORMAT_VERSION,
            made_by: format!("lapidary {}", env!("CARGO_PKG_VERSION")),
            settings,
            rows: 0,
            excluded: Excluded::default(),
            norm_limits: vec![],
            corpus_ended: false,
            shards: vec![],
            checksum: None,
        }
    }

    /// Reads and checks the manifest of the store in `folder`.
    ///
    /// # Errors
    /// When there is none, or a field is not what it can be.
    pub fn read(folder: &Path) -> Result<Self, ActivationsError> {
        let path = folder.join(MANIFEST);
        let read = |source| ActivationsError::Read {
            path: path.clone(),
            source,
        };
        let size = std::fs::metadata(&path).map_err(read)?.len();
        if size > LARGEST {
            let found = format!("{size} bytes");
            return Err(wrong(&path, "size", found, format!("at most {LARGEST}")));
        }
        Self::parse(&path, &std::fs::read(&path).map_err(read)?)
    }

    /// A manifest from its bytes; errors call it `path`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ActivationsError> {
        // The version comes first: a later one may have other fields.
        #[derive(Deserialize)]
        struct Version {
            format: String,
            format_version: u64,
        }
        let json = |e: serde_json::Error| {
            wrong(path, "manifest", e.to_string(), "a store's manifest".into())
        };
        let version: Version = serde_json::from_slice(bytes).map_err(json)?;
        if version.format != FORMAT || !(1..=FORMAT_VERSION).contains(&version.format_version) {
            let found = format!("{:?}, {}", version.format, version.format_version);
            let expected = format!(
                "{FORMAT:?}, 1 to {FORMAT_VERSION}: was it written by a newer version of lapidary?"
            );
            return Err(wrong(path, "format, format_version", found, expected));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(json)?;
        manifest.check(path)?;
        if let Some(checksum) = &manifest.checksum {
            let found = checksum_of(bytes).unwrap_or_else(|| "another spelling".into());
            if found != *checksum {
                let expected = format!("{checksum}: the file has changed since it was written");
                return Err(wrong(path, "checksum", found, expected));
            }
        }
        Ok(manifest)
    }

    /// The version of the format.
    pub(crate) fn version(&self) -> u64 {
        self.format_version
    }

    /// Whether an earlier version of this program wrote it: it can be read, but not gone on with.
    pub(crate) fn is_old(&self) -> bool {
        self.format_version < FORMAT_VERSION
    }

    pub(crate) fn check(&self, path: &Path) -> Result<(), ActivationsError> {
        let s = &self.settings;
        let expect = |ok: bool, field: &str, found: String, expected: &str| match ok {
            true => Ok(()),
            false => Err(wrong(path, field, found, expected.into())),
        };
        let at_least_1 =
            |field: &str, value: u64| expect(value > 0, field, value.to_string(), "at least 1");
        at_least_1("settings.context", s.context as u64)?;
        at_least_1("settings.batch_blocks", s.batch_blocks as u64)?;
        at_least_1("settings.shard_tokens", s.shard_tokens)?;
        at_least_1("settings.hook_points", s.hook_points.len() as u64)?;
        for (i, hook) in s.hook_points.iter().enumerate() {
            let field = format!("settings.hook_points[{i}]");
            // Their spelling has no other tensor's name in it, so that names in a shard cannot
            // collide.
            let known = hook
                .name
                .parse::<HookPoint>()
                .is_ok_and(|h| h.to_string() == hook.name);
            expect(known, &field, format!("{:?}", hook.name), "a hook point")?;
            let once = s.hook_points[..i]
                .iter()
                .all(|other| other.name != hook.name);
            expect(
                once,
                &field,
                format!("{:?} again", hook.name),
                "each hook point once",
            )?;
            at_least_1(&format!("{field}.d_in"), hook.d_in as u64)?;
        }
        let limits = self.norm_limits.len();
        let fits =
            limits == 0 || (limits == s.hook_points.len() && s.exclude.norm_multiple.is_some());
        expect(
            fits,
            "norm_limits",
            format!("{limits} values"),
            "one a hook point, or none",
        )?;
        let mut rows = 0_u64;
        for (i, shard) in self.shards.iter().enumerate() {
            let field = |name: &str| format!("shards[{i}].{name}");
            let name = shard_name(i);
            expect(
                shard.file == name,
                &field("file"),
                format!("{:?}", shard.file),
                &format!("{name:?}"),
            )?;
            let fits = shard.rows >= 1 && shard.rows <= s.shard_tokens;
            expect(
                fits,
                &field("rows"),
                shard.rows.to_string(),
                &format!("1 to {}", s.shard_tokens),
            )?;
            let size = Layout::size(s, shard.rows);
            let expected = size.map_or("fewer rows: so many do not fit any file".into(), |n| {
                n.to_string()
            });
            expect(
                size == Some(shard.bytes),
                &field("bytes"),
                shard.bytes.to_string(),
                &expected,
            )?;
            for (name, digest) in [("xxh64", &shard.xxh64), ("end.digest", &shard.end.digest)] {
                let ok = digest.len() == 16
                    && u64::from_str_radix(digest, 16).is_ok_and(|d| hexadecimal(d) == *digest);
                expect(
                    ok,
                    &field(name),
                    format!("{digest:?}"),
                    "16 lower-case hexadecimal digits",
                )?;
            }
            let later = i == 0 || {
                let before = &self.shards[i - 1].end;
                (before.blocks, before.tokens) < (shard.end.blocks, shard.end.tokens)
            };
            let place = format!("block {}, token {}", shard.end.blocks, shard.end.tokens);
            expect(
                later,
                &field("end"),
                place,
                "a place after the shard before",
            )?;
            rows = rows.saturating_add(shard.rows);
        }
        expect(
            rows == self.rows,
            "rows",
            self.rows.to_string(),
            &format!("{rows}, the sum of all shards"),
        )
    }

    /// Its text as it was read.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data") + "\n"
    }

    /// Its text with its checksum.
    pub(crate) fn seal(&mut self) -> String {
        self.checksum = Some(NO_CHECKSUM.into());
        self.checksum = checksum_of(self.to_json().as_bytes());
        self.to_json()
    }
}

/// The checksum of a manifest that has one, whatever it says itself.
fn checksum_of(bytes: &[u8]) -> Option<String> {
    let begins = bytes
        .windows(CHECKSUM.len())
        .rposition(|w| w == CHECKSUM.as_bytes())?;
    let (before, rest) = bytes.split_at(begins + CHECKSUM.len());
    let mut sum = Checksum::default();
    sum.update(before);
    sum.update(NO_CHECKSUM.as_bytes());
    sum.update(rest.get(NO_CHECKSUM.len()..)?);
    Some(hexadecimal(sum.finish()))
}

impl StoreSettings {
    /// The first setting in which two differ, with both values.
    pub fn difference(&self, other: &Self) -> Option<(String, String, String)> {
        let fields = |s: &Self| match serde_json::to_value(s).expect("plain data") {
            serde_json::Value::Object(fields) => fields,
            _ => unreachable!("settings are an object"),
        };
        let (a, b) = (fields(self), fields(other));
        a.iter()
            .find(|(key, value)| b.get(*key) != Some(value))
            .map(|(key, value)| (key.clone(), value.to_string(), b[key].to_string()))
    }
}

pub(crate) fn wrong(path: &Path, field: &str, found: String, expected: String) -> ActivationsError {
    ActivationsError::Field {
        path: path.into(),
        field: field.into(),
        found,
        expected,
    }
}
