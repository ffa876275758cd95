//! Writing into a run's folder so that nobody loses anything.
//!
//! - A folder has one writer at a time: it is locked as long as a [`RunWriter`] lives.
//! - `run.json` lists what belongs to the run. Anything else that stands where the run writes is
//!   refused by its name, before any work.
//! - With `--overwrite` the new run grows in `.run.writing` until its first checkpoint is written;
//!   only then is the old run removed. `.run.writing` is renamed to `.run.next` at that moment, so
//!   that a kill in the middle is finished by whoever comes next.

use super::{RunFolder, write_json};
use crate::error::{Context, Result, bail};
use crate::{first_batch, summary};
use lapidary_formats::saelens;
use lapidary_io::{FolderLock, IoError, files_below, read_json, remove_scratch, restore};
use lapidary_sae::{Recipe, checkpoint};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const MANIFEST: &str = "run.json";
const FORMAT: &str = "lapidary run";
const FORMAT_VERSION: u64 = 1;
/// Where a new run grows while the old one stands.
const STAGE: &str = ".run.writing";
/// The same once its first checkpoint is written: what the folder becomes.
const NEXT: &str = ".run.next";
const CHECKPOINT: &str = "checkpoint";
/// Folders of a run that hold nothing but its files.
const FOLDERS: [&str; 3] = ["dictionary", "features", CHECKPOINT];

/// `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Manifest {
    format: String,
    format_version: u64,
    lapidary_version: String,
    made_by: Maker,
    /// Whether the training, the evaluation and the tables are done.
    finished: bool,
    /// Whether the checkpoint of the finished run was to be kept.
    #[serde(default)]
    keep_checkpoint: bool,
    /// What belongs to the run, by path with `/`; `checkpoint` is all of a checkpoint.
    files: BTreeSet<String>,
}

/// The command that made a folder, which alone replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Maker {
    /// `lapidary train`
    Train,
    /// Tables in a folder of their own; those in a run's folder belong to the run.
    Features,
    /// `lapidary synthetic`
    Synthetic,
    /// `lapidary pretrain`
    Pretrain,
    /// `lapidary codebook train`
    Codebook,
}

impl std::fmt::Display for Maker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Features => "features",
            Self::Synthetic => "synthetic",
            Self::Pretrain => "pretrain",
            Self::Codebook => "codebook train",
        })
    }
}

impl Manifest {
    fn new(made_by: Maker, files: BTreeSet<String>) -> Self {
        Self {
            format: FORMAT.into(),
            format_version: FORMAT_VERSION,
            lapidary_version: env!("CARGO_PKG_VERSION").into(),
            made_by,
            finished: false,
            keep_checkpoint: false,
            files,
        }
    }

    /// The manifest in `folder`, or that of a run which was made before there were manifests.
    fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST);
        if path.exists() {
            let manifest: Self = read_json(&path)?;
            let is_below = |file: &String| {
                Path::new(file).iter().eq(file.split('/')) && file.split('/').all(|p| p != "..")
            };
            if let Some(file) = manifest.files.iter().find(|file| !is_below(file)) {
                bail!(
                    "{}: field `files`: found {file:?}, expected paths below the folder",
                    path.display()
                );
            }
            if manifest.format != FORMAT || manifest.format_version != FORMAT_VERSION {
                bail!(
                    "{}: fields `format`, `format_version`: found \"{}\", {}, expected \"{FORMAT}\", {FORMAT_VERSION}: was it written by a newer version of lapidary?",
                    path.display(),
                    manifest.format,
                    manifest.format_version
                );
            }
            return Ok(Some(manifest));
        }
        let run = RunFolder::new(folder);
        let is_ours = |config: &Path| Recipe::load(config, &[]).is_ok();
        let has_coder =
            saelens::exists(&run.dictionary()) || checkpoint::recipes(&run.checkpoint()).is_ok();
        if !(is_ours(&run.config()) && has_coder) {
            return Ok(None);
        }
        Ok(Some(Self::new(Maker::Train, training_files(&[]))))
    }

    /// Whether a file, by its path relative to the folder, belongs to the run.
    fn owns(&self, file: &Path) -> bool {
        self.files.contains(&slashes(file))
            || file.ancestors().any(|above| {
                self.files.contains(&slashes(above))
                    && above.file_name().is_some_and(|name| name == CHECKPOINT)
                    && file.strip_prefix(above).is_ok_and(is_of_checkpoint)
            })
    }
}

/// What `train` writes for one coder, or for several whose folders have these names.
pub fn training_files(coders: &[String]) -> BTreeSet<String> {
    let mut files = BTreeSet::from([CHECKPOINT.to_owned()]);
    if coders.is_empty() {
        files.extend(coder_files());
        return files;
    }
    files.insert(summary::FILE.to_owned());
    for coder in coders {
        files.extend(coder_files().iter().map(|file| format!("{coder}/{file}")));
        files.insert(format!("{coder}/{MANIFEST}"));
    }
    files
}

fn coder_files() -> BTreeSet<String> {
    let mut files = table_files();
    let more = [
        "config.toml",
        first_batch::FILE,
        "metrics.json",
        "metrics.jsonl",
        "dictionary/cfg.json",
        "dictionary/sae_weights.safetensors",
    ];
    files.extend(more.map(str::to_owned));
    files
}

/// What `features` writes.
pub fn table_files() -> BTreeSet<String> {
    [
        "features/features.parquet",
        "features/examples.parquet",
        "features/histograms.parquet",
        "features/coactivations.parquet",
        "features/documents.parquet",
        "features/codes.parquet",
        "report.html",
    ]
    .map(str::to_owned)
    .into()
}

/// A run's folder while it is written.
pub struct RunWriter {
    folder: PathBuf,
    manifest: Manifest,
    /// Whether the new run still grows beside the old one.
    staged: bool,
    /// Folders of coders that were locked, and made for that if they were not there.
    coders: Vec<PathBuf>,
    _locks: Vec<FolderLock>,
}

impl Drop for RunWriter {
    fn drop(&mut self) {
        // Those in which nothing was written; others are not empty, and stay.
        for coder in &self.coders {
            let _ = fs::remove_dir(coder);
        }
    }
}

impl RunWriter {
    /// Claims the folder `path` for a command that writes `files` into it: locks it, finishes a
    /// replacement that a killed process began, removes scratch of dead processes, and refuses
    /// files that are not the run's.
    ///
    /// # Errors
    /// Another process writes there; another command made the folder; one of `files`, or something
    /// in a folder of them, is nobody's.
    pub fn claim(path: &Path, command: Maker, files: &BTreeSet<String>) -> Result<Self> {
        let mut locks = vec![FolderLock::take(path)?];
        let folder = path.to_path_buf();
        let coders: BTreeSet<&str> = files
            .iter()
            .filter_map(|file| file.split_once('/'))
            .map(|(top, _)| top)
            .filter(|top| !FOLDERS.contains(top))
            .collect();
        for coder in &coders {
            locks.push(FolderLock::take(&folder.join(coder))?);
        }
        finish_replacing(&folder)?;
        for below in std::iter::once("").chain(coders.iter().copied()) {
            let folder = folder.join(below);
            for name in FOLDERS {
                restore(&folder.join(name))?;
            }
            let names = coder_files();
            let is_ours = |name: &str| {
                [MANIFEST, summary::FILE, "run"].contains(&name)
                    || FOLDERS.contains(&name)
                    || names
                        .iter()
                        .any(|file| file.rsplit('/').next() == Some(name))
            };
            remove_scratch(&folder, is_ours);
            remove_scratch(&folder.join("features"), is_ours);
        }
        let found = Manifest::read(&folder)?;
        let is_new = found.is_none();
        let writer = Self {
            manifest: found.unwrap_or_else(|| Manifest::new(command, BTreeSet::new())),
            folder,
            staged: false,
            coders: coders.iter().map(|coder| path.join(coder)).collect(),
            _locks: locks,
        };
        let made_by = writer.manifest.made_by;
        // Tables are added to a run; nothing else is mixed, since a folder is replaced as a whole.
        let adds_tables =
            command == Maker::Features && matches!(made_by, Maker::Train | Maker::Codebook);
        if made_by != command && !adds_tables {
            bail!(
                "{} was written by `lapidary {made_by}`; `lapidary {command}` does not replace it: give another --out",
                path.display()
            );
        }
        if let Some(file) = in_the_way(path, &writer.manifest, files)? {
            let why = match is_new {
                true => "no run of lapidary wrote it".to_owned(),
                false => format!("{} does not list it", path.join(MANIFEST).display()),
            };
            bail!(
                "{} is in the way: {why}; move it away, or give another --out",
                path.join(file).display()
            );
        }
        Ok(writer)
    }

    /// Where files are written now.
    pub fn folder(&self) -> PathBuf {
        match self.staged {
            true => self.folder.join(STAGE),
            false => self.folder.clone(),
        }
    }

    /// Whether the checkpoint stays when the run is finished.
    pub fn keeps_checkpoint(&self) -> bool {
        self.manifest.keep_checkpoint
    }

    /// Whether everything that the run in the folder was to do is done.
    pub fn is_finished(&self) -> bool {
        self.manifest.finished
    }

    /// The names of the coders of the run in the folder; none where there is one, whose folder is
    /// the run's.
    pub fn coders(&self) -> BTreeSet<String> {
        let name = |file: &String| Some(file.strip_suffix(MANIFEST)?.strip_suffix('/')?.to_owned());
        self.manifest.files.iter().filter_map(name).collect()
    }

    /// A result of the run in the folder, if it has any: what training left, or a table.
    pub fn existing(&self) -> Option<PathBuf> {
        let first = ["config.toml", first_batch::FILE, MANIFEST];
        let is_result = |file: &&String| !first.iter().any(|name| file.ends_with(name));
        let mut files = self.manifest.files.iter().filter(is_result);
        files.find_map(|file| {
            let path = self.folder.join(file);
            path.exists().then_some(path)
        })
    }

    /// Begins a new run that writes `files`, beside the old one if there is one.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn begin(&mut self, files: BTreeSet<String>) -> Result<()> {
        self.staged = self.existing().is_some();
        if self.staged {
            // An old run without a manifest gets one, by which it is removed when its time has
            // come.
            write_json(&self.folder.join(MANIFEST), &self.manifest)?;
        } else {
            remove_owned(&self.folder, &self.manifest)?;
        }
        self.manifest = Manifest::new(self.manifest.made_by, files);
        self.write_manifest()
    }

    /// Goes on with the training of the run in the folder.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn go_on(&mut self, files: BTreeSet<String>) -> Result<()> {
        self.manifest.finished = false;
        self.add(files)
    }

    /// Removes what belongs to the run apart from `files`, such as tables of an earlier state.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn keep_only(&mut self, files: &BTreeSet<String>) -> Result<()> {
        let others: BTreeSet<String> = self.manifest.files.difference(files).cloned().collect();
        remove_files(&self.folder, &others)?;
        self.manifest.files.retain(|file| files.contains(file));
        self.write_manifest()
    }

    /// Adds `files` to what the run in the folder owns.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn add(&mut self, files: BTreeSet<String>) -> Result<()> {
        self.manifest.files.extend(files);
        self.write_manifest()
    }

    /// Makes the new run the folder's, in place of the old one, now that something of it stands.
    ///
    /// # Errors
    /// Files cannot be moved; the next [`RunWriter::claim`] goes on with it.
    pub fn replace_old(&mut self) -> Result<()> {
        if !self.staged {
            return Ok(());
        }
        let (stage, next) = (self.folder.join(STAGE), self.folder.join(NEXT));
        fs::rename(&stage, &next).map_err(IoError::write(&self.folder))?;
        finish_replacing(&self.folder)?;
        self.staged = false;
        Ok(())
    }

    /// Notes that all is done, and removes the checkpoint unless it is to be kept, now or since the
    /// run was finished before.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn finish(&mut self, keep_checkpoint: bool) -> Result<()> {
        self.manifest.keep_checkpoint |= keep_checkpoint;
        self.manifest.finished = true;
        self.write_manifest()?;
        let checkpoint = self.folder.join(CHECKPOINT);
        if !self.manifest.keep_checkpoint && checkpoint.exists() {
            let removed = fs::remove_dir_all(&checkpoint);
            removed.with_context(|| format!("{}: cannot be removed", checkpoint.display()))?;
        }
        Ok(())
    }

    /// Writes the manifest, and one into the folder of each of several coders.
    fn write_manifest(&self) -> Result<()> {
        let folder = self.folder();
        for coder in self.coders() {
            let place = folder.join(coder);
            fs::create_dir_all(&place).map_err(IoError::write(&place))?;
            let manifest = Manifest {
                finished: self.manifest.finished,
                ..Manifest::new(Maker::Train, coder_files())
            };
            write_json(&place.join(MANIFEST), &manifest)?;
        }
        fs::create_dir_all(&folder).map_err(IoError::write(&folder))?;
        write_json(&folder.join(MANIFEST), &self.manifest)
    }
}

/// The first file that is not the run's and has the name of one of `files`, or lies in a folder
/// that holds the run's files only.
fn in_the_way(
    folder: &Path,
    manifest: &Manifest,
    files: &BTreeSet<String>,
) -> Result<Option<PathBuf>> {
    let mut folders = BTreeSet::new();
    for file in files {
        let file = Path::new(file);
        let is_folder = |part: &Path| {
            let name = part.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| FOLDERS.contains(&name))
        };
        if let Some(part) = file.ancestors().find(|part| is_folder(part)) {
            folders.insert(part.to_path_buf());
        } else {
            let found = folder.join(file).symlink_metadata();
            if found.is_ok() && !manifest.owns(file) {
                return Ok(Some(file.to_path_buf()));
            }
        }
    }
    for part in folders {
        let place = folder.join(&part);
        match place.metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Ok(found) if found.is_dir() => {}
            _ => return Ok(Some(part)),
        }
        let mut found = files_below(&place)?.into_iter();
        if let Some(file) = found.find(|file| !manifest.owns(&part.join(file))) {
            return Ok(Some(part.join(file)));
        }
    }
    Ok(None)
}

/// Removes these files of a run, and folders that are empty then.
fn remove_files(folder: &Path, files: &BTreeSet<String>) -> Result<()> {
    let failed = |path: &Path, e| IoError::write(path)(e);
    for file in files {
        let path = folder.join(file);
        let removed = match path.is_dir() {
            false => fs::remove_file(&path),
            true if holds_checkpoint(&path) => fs::remove_dir_all(&path),
            true => continue,
        };
        match removed {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(&path, e).into()),
            _ => {}
        }
    }
    // Folders that are empty now, the deepest first.
    let mut above: Vec<&Path> = files
        .iter()
        .flat_map(|file| Path::new(file).ancestors().skip(1))
        .filter(|above| !above.as_os_str().is_empty())
        .collect();
    above.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for part in above {
        let _ = fs::remove_dir(folder.join(part));
    }
    Ok(())
}

/// Removes what belongs to a run and nothing else, its manifest last.
fn remove_owned(folder: &Path, manifest: &Manifest) -> Result<()> {
    let failed = |path: &Path, e| IoError::write(path)(e);
    remove_files(folder, &manifest.files)?;
    match fs::remove_file(folder.join(MANIFEST)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed(&folder.join(MANIFEST), e).into()),
        _ => Ok(()),
    }
}

/// Moves a run that is ready into the place of the old one; does nothing where none is. May be
/// killed at any moment and called again: the old run's manifest goes last of the old, the new
/// one's comes last of the new.
fn finish_replacing(folder: &Path) -> Result<()> {
    let next = folder.join(NEXT);
    if !next.exists() {
        return Ok(());
    }
    if next.join(MANIFEST).exists() {
        if folder.join(MANIFEST).exists()
            && let Some(old) = Manifest::read(folder)?
        {
            remove_owned(folder, &old)?;
        }
        move_into(&next, folder, &|name| name != MANIFEST)?;
        let (from, to) = (next.join(MANIFEST), folder.join(MANIFEST));
        fs::rename(&from, &to).map_err(IoError::write(&to))?;
    }
    fs::remove_dir_all(&next).map_err(IoError::write(&next))?;
    Ok(())
}

/// Moves what `from` holds into `to`, into folders that are there already.
fn move_into(from: &Path, to: &Path, takes: &dyn Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(from).map_err(IoError::read(from))? {
        let entry = entry.map_err(IoError::read(from))?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        if !takes(&entry.file_name().to_string_lossy()) {
            continue;
        }
        if old.is_dir() && new.is_dir() {
            move_into(&old, &new, &|_| true)?;
            fs::remove_dir(&old).map_err(IoError::write(&old))?;
        } else {
            fs::rename(&old, &new).map_err(IoError::write(&new))?;
        }
    }
    Ok(())
}

/// Whether a folder is a checkpoint's and holds nothing else.
fn holds_checkpoint(folder: &Path) -> bool {
    let all_ours = || files_below(folder).is_ok_and(|f| f.iter().all(|f| is_of_checkpoint(f)));
    folder.file_name().is_some_and(|name| name == CHECKPOINT) && all_ours()
}

/// Whether a checkpoint, of coders or of codebooks, has a file of this name.
fn is_of_checkpoint(file: &Path) -> bool {
    checkpoint::is_ours(file) || lapidary_codebook::is_checkpoint_file(file)
}

fn slashes(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, file: &str, text: &str) {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn all(folder: &Path) -> Vec<(String, String)> {
        let files = files_below(folder).unwrap();
        let text = |file: &PathBuf| fs::read_to_string(folder.join(file)).unwrap();
        let named = |file: &PathBuf| (slashes(file), text(file));
        let found = files.iter().map(named);
        found
            .filter(|(name, _)| !name.ends_with(MANIFEST))
            .collect()
    }

    fn claim(folder: &Path) -> Result<RunWriter> {
        RunWriter::claim(folder, Maker::Train, &training_files(&[]))
    }

    fn run(folder: &Path, text: &str) {
        let mut writer = claim(folder).unwrap();
        writer.begin(training_files(&[])).unwrap();
        let place = writer.folder();
        for file in [
            "metrics.jsonl",
            "dictionary/cfg.json",
            "checkpoint/manifest.json",
            "report.html",
        ] {
            write(&place, file, text);
        }
        writer.replace_old().unwrap();
    }

    #[test]
    fn what_no_run_wrote_is_refused_by_name_and_stays() {
        for file in [
            "config.toml",
            "features/mydata.csv",
            "checkpoint/epoch10.pt",
            "dictionary",
            "report.html",
        ] {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), file, "mine");
            write(dir.path(), "notes.md", "mine");
            let error = claim(dir.path()).err().unwrap().to_string();
            assert!(
                error.contains(file) && error.contains("in the way"),
                "{error}"
            );
            assert_eq!(fs::read_to_string(dir.path().join(file)).unwrap(), "mine");
        }
        // Beside a run too, and after it.
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "notes.md", "mine");
        run(dir.path(), "one");
        claim(dir.path()).unwrap();
        write(dir.path(), "features/mydata.csv", "mine");
        let error = claim(dir.path()).err().unwrap().to_string();
        assert!(error.contains("features/mydata.csv"), "{error}");
        assert!(error.contains("run.json does not list it"), "{error}");
    }

    #[test]
    fn an_old_run_stands_until_something_of_the_new_one_does() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), "one");
        write(dir.path(), "notes.md", "mine");
        let before = all(dir.path());
        {
            let mut writer = claim(dir.path()).unwrap();
            assert!(writer.existing().is_some());
            writer.begin(training_files(&[])).unwrap();
            write(&writer.folder(), "metrics.jsonl", "two");
            // Killed here: the scratch folder is not the old run's loss.
        }
        let writer = claim(dir.path()).unwrap();
        assert_eq!(all(dir.path()), before);
        drop(writer);
        let mut writer = claim(dir.path()).unwrap();
        writer.begin(training_files(&[])).unwrap();
        write(&writer.folder(), "metrics.jsonl", "two");
        write(&writer.folder(), "checkpoint/manifest.json", "two");
        writer.replace_old().unwrap();
        let expected = [
            ("checkpoint/manifest.json", "two"),
            ("metrics.jsonl", "two"),
            ("notes.md", "mine"),
        ];
        assert_eq!(
            all(dir.path()),
            expected.map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }

    #[test]
    fn replacing_is_finished_wherever_it_was_killed() {
        // Each number of the steps of `finish_replacing` done: files of the old run removed, then
        // files of the new one moved.
        for steps in 0..9 {
            let dir = tempfile::tempdir().unwrap();
            run(dir.path(), "one");
            {
                let mut writer = claim(dir.path()).unwrap();
                writer.begin(training_files(&[])).unwrap();
                let stage = writer.folder();
                for file in ["metrics.jsonl", "config.toml", "checkpoint/manifest.json"] {
                    write(&stage, file, "two");
                }
                fs::rename(stage, dir.path().join(NEXT)).unwrap();
            }
            let mut actions: Vec<Box<dyn Fn()>> = vec![];
            let path = dir.path().to_path_buf();
            for old in [
                "metrics.jsonl",
                "dictionary/cfg.json",
                "report.html",
                MANIFEST,
            ] {
                let path = path.clone();
                actions.push(Box::new(move || fs::remove_file(path.join(old)).unwrap()));
            }
            for new in [
                "metrics.jsonl",
                "config.toml",
                "checkpoint/manifest.json",
                MANIFEST,
            ] {
                let path = path.clone();
                actions.push(Box::new(move || {
                    fs::create_dir_all(path.join(new).parent().unwrap()).unwrap();
                    fs::rename(path.join(NEXT).join(new), path.join(new)).unwrap();
                }));
            }
            actions.iter().take(steps).for_each(|action| action());
            claim(&path).unwrap();
            let expected = ["checkpoint/manifest.json", "config.toml", "metrics.jsonl"];
            let expected = expected.map(|name| (name.to_owned(), "two".to_owned()));
            assert_eq!(all(&path), expected, "{steps} steps");
            assert!(!path.join(NEXT).exists());
        }
    }

    #[test]
    fn a_folder_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let _writer = claim(dir.path()).unwrap();
        let error = claim(dir.path()).err().unwrap().to_string();
        assert!(error.contains("another process is writing"), "{error}");
    }

    #[test]
    fn several_coders_have_folders_and_manifests_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "k-16/notes.md", "mine");
        let files = training_files(&["k-16", "k-32"].map(str::to_owned));
        let mut writer = RunWriter::claim(dir.path(), Maker::Train, &files).unwrap();
        writer.begin(files.clone()).unwrap();
        write(&writer.folder(), "k-16/metrics.jsonl", "one");
        write(&writer.folder(), "k-16/features/features.parquet", "one");
        drop(writer);
        let tables = table_files();
        RunWriter::claim(&dir.path().join("k-16"), Maker::Features, &tables).unwrap();
        let error = RunWriter::claim(
            dir.path(),
            Maker::Train,
            &training_files(&["k-64".to_owned()]),
        );
        error
            .unwrap()
            .begin(training_files(&["k-64".to_owned()]))
            .unwrap();
        write(dir.path(), "k-64/features/features.parquet", "mine");
        assert!(RunWriter::claim(dir.path(), Maker::Train, &files).is_ok());
    }
}
