//! Where a dictionary lies: a folder, or one file in it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lapidary_coder::CoderError;
use lapidary_io::existing;

use crate::container::Container;
use crate::error::FormatError;
use crate::found;
use crate::hub::cached;

/// A folder with the names in it, and the file that was meant if it was one.
pub(crate) struct Place {
    /// As it was given.
    pub(crate) path: PathBuf,
    pub(crate) folder: PathBuf,
    /// The file that was given; none if a folder was.
    file: Option<String>,
    /// Names of the folder's files, sorted.
    names: Vec<String>,
    /// Names of its folders, sorted.
    folders: Vec<String>,
}

/// Names that an error shows of a folder.
const SHOWN: usize = 12;

impl Place {
    pub(crate) fn new(path: &Path) -> Result<Self, FormatError> {
        let is_file = path.is_file();
        let folder = match is_file {
            true => match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
                _ => PathBuf::from("."),
            },
            // A folder of ours that was being replaced when the program died.
            false => existing(path, "cfg.json"),
        };
        let (names, folders) = list(&folder).map_err(|e| match e.kind() {
            ErrorKind::NotFound => CoderError::Invalid {
                place: path.display().to_string(),
                message: "not found; expected a dictionary, a run's folder, or hf:OWNER/NAME/PATH"
                    .into(),
            },
            _ => CoderError::read(path, e),
        })?;
        let file = path.file_name().filter(|_| is_file);
        Ok(Self {
            path: path.to_path_buf(),
            folder,
            file: file.map(|name| name.to_string_lossy().into_owned()),
            names,
            folders,
        })
    }

    /// The place of the dictionary that is meant by `path`: that of a run's folder, and the
    /// snapshot of a repository's folder in the hub's cache, lie below.
    pub(crate) fn resolved(path: &Path) -> Result<Self, FormatError> {
        let place = Self::new(&cached(path)?)?;
        let place = match below(&place) {
            Some(folder) => Self::new(&folder)?,
            None => place,
        };
        Ok(Self {
            path: path.to_path_buf(),
            ..place
        })
    }

    /// Whether the folder has a file of this name, be it the one that was given or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }

    /// Whether this file of weights is meant: it is the one that was given, or lies in the folder
    /// that was.
    pub(crate) fn means(&self, name: &str) -> bool {
        match &self.file {
            Some(file) => file == name,
            None => self.has(name),
        }
    }

    /// Refuses another file than these, where a file was given.
    pub(crate) fn expect(&self, names: &[&str]) -> Result<(), CoderError> {
        match &self.file {
            Some(file) if !names.contains(&file.as_str()) => {
                let expected = format!("the folder, or {}", names.join(" or "));
                Err(CoderError::format(&self.path, "file", file, expected))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a folder that has some of a dictionary's files alone, and another file than these,
    /// where a file was given.
    pub(crate) fn has_all(&self, names: &[&str]) -> Result<(), CoderError> {
        self.expect(names)?;
        match names.iter().find(|name| !self.has(name)) {
            None => Ok(()),
            Some(missing) => Err(CoderError::format(
                &self.folder,
                "files",
                self.listed(),
                format!("{missing} among them"),
            )),
        }
    }

    /// The files that may be meant: the one that was given, or all of the folder.
    pub(crate) fn meant(&self) -> &[String] {
        match &self.file {
            Some(file) => std::slice::from_ref(file),
            None => &self.names,
        }
    }

    /// The files that may be meant, with this ending.
    pub(crate) fn ending(&self, extension: &str) -> Vec<&str> {
        let names = self.meant().iter().map(String::as_str);
        names.filter(|n| n.ends_with(extension)).collect()
    }

    /// The file that is meant among those that `fits`, when it can be only one; `what` is what it
    /// is called.
    pub(crate) fn only(
        &self,
        what: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Result<PathBuf, CoderError> {
        let names = self.meant().iter().filter(|n| fits(n));
        let names: Vec<&str> = names.map(String::as_str).collect();
        match names[..] {
            [name] => Ok(self.join(name)),
            [] => Err(CoderError::format(
                &self.path,
                "files",
                self.describe(),
                what,
            )),
            _ => Err(CoderError::format(
                &self.path,
                "files",
                format!("{} of them, [{}]", names.len(), shown(&names)),
                format!(
                    "{what}: name one, such as {}",
                    self.join(names[0]).display()
                ),
            )),
        }
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// `name` in the folder, or else in the one above.
    pub(crate) fn here_or_above(&self, name: &str) -> Option<PathBuf> {
        let above = fs::canonicalize(&self.folder).ok();
        let above = above
            .as_deref()
            .and_then(Path::parent)
            .map(|p| p.join(name));
        [Some(self.join(name)), above]
            .into_iter()
            .flatten()
            .find(|path| path.is_file())
    }

    /// The parts of the folder's whole path, from the last to the first.
    pub(crate) fn components(&self) -> Vec<String> {
        let whole = fs::canonicalize(&self.folder).unwrap_or_else(|_| self.folder.clone());
        let parts = whole.components().rev();
        parts
            .map(|c| c.as_os_str().to_string_lossy().into_owned())
            .collect()
    }

    /// Names of the tensors in the one file of PyTorch that is meant; none if there is none, or
    /// several.
    pub(crate) fn torch_names(&self) -> Result<Option<Vec<String>>, FormatError> {
        // A training's folder may keep its state beside a dictionary in another format.
        if self.file.is_none() && self.has("cfg.json") {
            return Ok(None);
        }
        let [name] = self.ending(".pt")[..] else {
            return Ok(None);
        };
        let file = Container::open(&self.join(name))?;
        let tensors = file.tensors()?;
        Ok(Some(tensors.names().map(str::to_owned).collect()))
    }

    /// The names of its files.
    pub(crate) fn listed(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        format!("[{}]", shown(&names))
    }

    /// What lies there, in words.
    pub(crate) fn describe(&self) -> String {
        if self.file.is_none()
            && let Some(known) = found::instead(&self.folder, &self.names, &self.folders)
        {
            return known;
        }
        let names: Vec<&str> = self.meant().iter().map(String::as_str).collect();
        let folders: Vec<&str> = self.folders.iter().map(String::as_str).collect();
        match (names.is_empty(), folders.is_empty() || self.file.is_some()) {
            (true, true) => "no file".into(),
            (true, false) => format!("no file, and the folders [{}]", shown(&folders)),
            (false, true) => format!("[{}]", shown(&names)),
            (false, false) => format!("[{}] and the folders [{}]", shown(&names), shown(&folders)),
        }
    }
}

/// Names of a folder's files and of its folders, sorted.
fn list(folder: &Path) -> std::io::Result<(Vec<String>, Vec<String>)> {
    let (mut names, mut folders) = (vec![], vec![]);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_file() {
            names.push(name);
        } else if path.is_dir() {
            folders.push(name);
        }
    }
    names.sort();
    folders.sort();
    Ok((names, folders))
}

/// The dictionary in a run's folder.
fn below(place: &Place) -> Option<PathBuf> {
    let is_run = place.folders.iter().any(|folder| folder == "dictionary");
    if place.file.is_some() || place.has("cfg.json") || !is_run {
        return None;
    }
    let dictionary = place.folder.join("dictionary");
    let whole = existing(&dictionary, "cfg.json").join("cfg.json");
    whole.is_file().then_some(dictionary)
}

fn shown(names: &[&str]) -> String {
    let more = if names.len() > SHOWN { ", …" } else { "" };
    let first: Vec<&str> = names.iter().copied().take(SHOWN).collect();
    format!("{}{more}", first.join(", "))
}
