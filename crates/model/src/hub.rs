//! Models and datasets by name from the Hugging Face hub, through its shared cache.

use crate::ModelError;
use crate::tensor_file::Index;
use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use std::path::{Component, Path, PathBuf};

/// The folder of a model's files, fetched into the hub's cache unless they are there. `HF_HOME`, `HF_ENDPOINT`,
/// `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean in Python.
pub(crate) fn fetch(name: &str) -> Result<PathBuf, ModelError> {
    let not_found = |problem: String| ModelError::NotFound {
        model: name.into(),
        problem,
    };
    if !is_repository_name(name) {
        return Err(not_found(
            "it is no folder here, nor a hub name such as `openai-community/gpt2`, nor `embedded`"
                .into(),
        ));
    }
    if offline() {
        let cache = Cache::from_env().repo(Repo::model(name.into()));
        let config = cache.get("config.json").ok_or_else(|| {
            not_found("HF_HUB_OFFLINE forbids fetching and the hub's cache does not hold it".into())
        })?;
        return folder_of(&config)
            .ok_or_else(|| not_found("its cached config.json lies in no folder".into()));
    }
    let repo = api().map_err(not_found)?.model(name.into());
    let fetch = |file: &str| {
        repo.get(file)
            .map_err(|e| not_found(format!("{file}: {e}")))
    };
    let config = fetch("config.json")?;
    // A model without a tokenizer can still be run on token ids.
    let _ = repo.get("tokenizer.json");
    match repo.get("model.safetensors.index.json") {
        Ok(index) => {
            for shard in Index::read(&index)?.shards() {
                fetch(shard)?;
            }
        }
        Err(_) => {
            fetch("model.safetensors")?;
        }
    }
    folder_of(&config).ok_or_else(|| not_found("its cached config.json lies in no folder".into()))
}

/// A repository on the hub: which files it has, fetched into the hub's cache one by one as they are asked for. The environment
/// variables are those that models know.
pub struct HubRepository {
    repo: Repo,
    name: String,
    kind: &'static str,
    files: Vec<String>,
    /// None: nothing is to be fetched.
    online: Option<ApiRepo>,
}

impl HubRepository {
    /// Asks the hub which files the dataset `owner/name` has; with `HF_HUB_OFFLINE` its cache.
    ///
    /// # Errors
    /// When the hub does not know the dataset, or the cache does not hold it.
    pub fn dataset(name: &str) -> Result<Self, ModelError> {
        Self::open(name, "main", RepoType::Dataset, "dataset")
    }

    /// The same of a repository of models, dictionaries among them, at a branch, tag or commit.
    ///
    /// # Errors
    /// As there.
    pub fn model(name: &str, revision: Option<&str>) -> Result<Self, ModelError> {
        let revision = revision.unwrap_or("main");
        Self::open(name, revision, RepoType::Model, "repository")
    }

    fn open(
        name: &str,
        revision: &str,
        of: RepoType,
        kind: &'static str,
    ) -> Result<Self, ModelError> {
        let not_found = |problem: String| ModelError::Repository {
            kind,
            name: name.into(),
            problem,
        };
        if !is_repository_name(name) {
            let problem = "it is no name of the hub's, such as `owner/name`";
            return Err(not_found(problem.into()));
        }
        if !is_plain(revision) {
            return Err(not_found(format!("{revision:?} is no name of a revision")));
        }
        let repo = Repo::with_revision(name.to_owned(), of, revision.to_owned());
        let (files, online) = match !offline() {
            true => {
                let online = api().map_err(not_found)?.repo(repo.clone());
                let info = online.info().map_err(|e| not_found(e.to_string()))?;
                let names = info.siblings.into_iter().map(|file| file.rfilename);
                (names.collect(), Some(online))
            }
            false => {
                let folder = cached(&repo).ok_or_else(|| {
                    let problem =
                        "HF_HUB_OFFLINE forbids fetching and the hub's cache does not hold it";
                    not_found(problem.into())
                })?;
                let mut names = vec![];
                collect(&folder, "", &mut names).map_err(ModelError::read(&folder))?;
                (names, None)
            }
        };
        // Names become paths in the cache: one that leads out of it is never asked for.
        if let Some(file) = files.iter().find(|file| !is_below(file)) {
            return Err(not_found(format!(
                "found a file named {file:?}, expected a path below the {kind}"
            )));
        }
        Ok(Self {
            repo,
            name: name.into(),
            kind,
            files,
            online,
        })
    }

    /// Its files, relative paths with `/`.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Where a file of it lies on this machine, once it has been fetched.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub fn fetch(&self, file: &str) -> Result<PathBuf, ModelError> {
        let failed = |problem: String| ModelError::Repository {
            kind: self.kind,
            name: self.name.clone(),
            problem: format!("{file}: {problem}"),
        };
        match &self.online {
            Some(repo) => repo.get(file).map_err(|e| failed(e.to_string())),
            None => {
                let folder = cached(&self.repo);
                let folder =
                    folder.ok_or_else(|| failed("is in the hub's cache no longer".into()))?;
                Ok(folder.join(file))
            }
        }
    }
}

impl std::fmt::Debug for HubRepository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "HubRepository({}, {} files)",
            self.name,
            self.files.len()
        )
    }
}

/// The folder of a repository's revision in the cache.
fn cached(repo: &Repo) -> Option<PathBuf> {
    let cache = Cache::from_env();
    let folder = cache.path().join(repo.folder_name());
    let named = std::fs::read_to_string(folder.join("refs").join(repo.revision()));
    // A commit is called by its own name.
    let commit = named.unwrap_or_else(|_| repo.revision().to_owned());
    let found = folder.join("snapshots").join(&commit);
    (is_plain(&commit) && found.is_dir()).then_some(found)
}

/// A branch, tag or commit that is a single name in the hub's alphabet.
fn is_plain(revision: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !revision.is_empty() && !revision.starts_with('.') && revision.chars().all(fits)
}

fn collect(folder: &Path, before: &str, names: &mut Vec<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{before}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => collect(&entry.path(), &format!("{name}/"), names)?,
            false => names.push(name),
        }
    }
    Ok(())
}

fn is_below(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    !file.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn offline() -> bool {
    std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|v| matches!(v.to_lowercase().as_str(), "1" | "true" | "yes" | "on"))
}

fn api() -> Result<Api, String> {
    let mut builder = ApiBuilder::from_env().with_progress(true);
    if let Ok(token) = std::env::var("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    builder.build().map_err(|e| e.to_string())
}

fn folder_of(file: &Path) -> Option<PathBuf> {
    file.parent().map(Path::to_path_buf)
}

/// `name` or `owner/name` in the hub's alphabet, so that a mistyped path is never sent anywhere.
fn is_repository_name(name: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && !p.starts_with('.')
            && p.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let mut parts = name.split('/');
    let (first, second, rest) = (parts.next(), parts.next(), parts.next());
    rest.is_none() && first.is_some_and(part) && second.is_none_or(part)
}
