//! Which files of a folder are corpus, of which format and which split.
//!
//! Those with an extension of [`EXTENSIONS`] count, at any depth, unless a part of their path
//! begins with a dot or they are what repositories say about themselves (README, LICENSE,
//! `dataset_infos.json`, ..). A file's split is what stands before `-00000-of-00001` in its name,
//! else the first split's name among the words of its path (`data/test/a.txt`, `val_2.jsonl`), else
//! none.

use crate::ActivationsError;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a corpus's files may be called.
pub(super) const EXTENSIONS: &str =
    ".parquet, .txt, .md, .jsonl, .ndjson or .json, the last five also with .gz or .zst behind";

/// How a file holds its documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text(Packing),
    Json(Packing),
    Parquet,
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstandard,
}

impl Format {
    /// By the file's name.
    pub fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (name, packing) = match name.rsplit_once('.')? {
            (name, "gz") => (name.to_owned(), Packing::Gzip),
            (name, "zst") => (name.to_owned(), Packing::Zstandard),
            _ => (name, Packing::Plain),
        };
        match name.rsplit_once('.')?.1 {
            "txt" | "md" => Some(Self::Text(packing)),
            "jsonl" | "ndjson" | "json" => Some(Self::Json(packing)),
            "parquet" if packing == Packing::Plain => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// Names that tell about a corpus and are none, without their extensions.
const ABOUT: [&str; 11] = [
    "readme",
    "license",
    "licence",
    "notice",
    "changelog",
    "citation",
    "contributing",
    "dataset_infos",
    "dataset_info",
    "dataset_dict",
    "state",
];

/// Splits and what they are called in paths.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The corpus files below a folder, in the order of their paths.
pub(super) struct Files(Vec<(String, Format)>);

impl Files {
    /// Those among `names`, which are relative paths with `/`.
    pub fn new(mut names: Vec<String>) -> Self {
        names.sort();
        let counts = |name: &String| {
            let hidden = name.split('/').any(|part| part.starts_with('.'));
            let file = name.rsplit('/').next().unwrap_or(name);
            let stem = file.split('.').next().unwrap_or(file).to_ascii_lowercase();
            !hidden && !ABOUT.contains(&stem.as_str())
        };
        let known = |name: String| Format::of(&name).map(|format| (name, format));
        Self(names.into_iter().filter(counts).filter_map(known).collect())
    }

    /// Those below a folder on this machine.
    pub fn below(folder: &Path) -> Result<Self, ActivationsError> {
        Ok(Self::new(names_below(folder)?))
    }

    /// Those of a split; without one those of `train` where there are such, else all. Errors call
    /// the corpus `source`.
    pub fn of_split(
        self,
        source: &str,
        split: Option<&str>,
    ) -> Result<Vec<(String, Format)>, ActivationsError> {
        let wrong = |problem: String| ActivationsError::Corpus {
            path: source.into(),
            problem,
        };
        if self.0.is_empty() {
            return Err(wrong(format!(
                "found no corpus file, expected {EXTENSIONS}"
            )));
        }
        let splits: Vec<Option<String>> = self.0.iter().map(|(name, _)| split_of(name)).collect();
        let of = |wanted: &str| {
            let paired = self.0.iter().zip(&splits);
            let mine = paired.filter(|(_, split)| split.as_deref() == Some(wanted));
            mine.map(|(file, _)| file.clone()).collect::<Vec<_>>()
        };
        match split {
            None => {
                let train = of("train");
                Ok(if train.is_empty() { self.0 } else { train })
            }
            Some(split) => {
                let files = of(split);
                if files.is_empty() {
                    let mut known: Vec<&str> =
                        splits.iter().flatten().map(String::as_str).collect();
                    known.sort_unstable();
                    known.dedup();
                    let found = match known.is_empty() {
                        true => "found no file that is named after a split".into(),
                        false => format!("found the splits {}", known.join(", ")),
                    };
                    return Err(wrong(format!("{found}, expected `{split}`")));
                }
                Ok(files)
            }
        }
    }
}

fn split_of(name: &str) -> Option<String> {
    let (folders, file) = name.rsplit_once('/').unwrap_or(("", name));
    let stem = file.split('.').next().unwrap_or(file);
    if let Some((before, count)) = stem.split_once("-of-") {
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        if let Some((split, number)) = before.rsplit_once('-')
            && digits(number)
            && count.get(..5).is_some_and(digits)
        {
            return Some(split.into());
        }
    }
    let words = |text: &str| {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.map(str::to_ascii_lowercase).collect::<Vec<_>>()
    };
    // The file's own name says more than the folder's.
    [words(stem), words(folders)].iter().find_map(|words| {
        let named = |(split, names): &(&str, &[&str])| {
            let named = words.iter().any(|word| names.contains(&word.as_str()));
            named.then(|| (*split).to_owned())
        };
        SPLITS.iter().find_map(named)
    })
}

/// Folders and files below a folder, at most: what has more is a mistake, such as a link to the
/// root.
const MOST_ENTRIES: usize = 1 << 22;

/// The names of the files below a folder. A folder that is reached in several ways (by links) is
/// read once, under its own name if it has one there; links to a folder that holds `root` itself
/// are not followed.
fn names_below(root: &Path) -> Result<Vec<String>, ActivationsError> {
    let true_path = |path: &Path| {
        path.canonicalize()
            .map_err(|source| ActivationsError::Read {
                path: path.into(),
                source,
            })
    };
    let above = true_path(root)?;
    let mut seen = BTreeSet::from([above.clone()]);
    let mut names = vec![];
    let mut entries = 0;
    // Linked folders wait until all others were read.
    let mut folders = vec![(root.to_owned(), String::new())];
    let mut links: Vec<(PathBuf, String)> = vec![];
    while let Some((folder, before)) = folders.pop().or_else(|| links.pop()) {
        if folder != root {
            let path = true_path(&folder)?;
            if above.starts_with(&path) || !seen.insert(path) {
                continue;
            }
        }
        let read = |source| ActivationsError::Read {
            path: folder.clone(),
            source,
        };
        for entry in std::fs::read_dir(&folder).map_err(read)? {
            let entry = entry.map_err(read)?;
            entries += 1;
            if entries > MOST_ENTRIES {
                return Err(ActivationsError::Corpus {
                    path: root.into(),
                    problem: format!("found more than {MOST_ENTRIES} files and folders in it"),
                });
            }
            // A name that is not Unicode has no extension that we know. Hidden folders hold no
            // corpus.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            let path = entry.path();
            let name = format!("{before}{name}");
            match (path.is_dir(), path.is_symlink()) {
                (false, _) => names.push(name),
                (true, false) => folders.push((path, name + "/")),
                (true, true) => links.push((path, name + "/")),
            }
        }
        if folders.is_empty() {
            // The first by name is taken first.
            links.sort_by(|a, b| b.1.cmp(&a.1));
        }
    }
    Ok(names)
}

/// The folder of files behind a folder of the hub's cache (`datasets--owner--name`): its revision
/// `main`. Any other folder is itself.
pub(super) fn snapshot(folder: &Path) -> Result<PathBuf, ActivationsError> {
    let reference = folder.join("refs/main");
    if !reference.is_file() || !folder.join("snapshots").is_dir() {
        return Ok(folder.into());
    }
    let revision = lapidary_io::read_text(&reference)?;
    let revision = revision.trim();
    let plain = !revision.is_empty() && revision.bytes().all(|b| b.is_ascii_alphanumeric());
    let path = folder.join("snapshots").join(revision);
    if !plain || !path.is_dir() {
        return Err(ActivationsError::Corpus {
            path: reference,
            problem: format!("found revision {revision:.60?}, expected one that is in snapshots/"),
        });
    }
    Ok(path)
}
