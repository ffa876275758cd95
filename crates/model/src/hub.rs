//! Models, datasets and dictionaries by name from the Hugging Face hub, through the cache that
//! Python's `huggingface_hub` uses.
//!
//! `hf-hub` says how repositories are called on the hub and in the cache. The requests are our own
//! (`hub/client.rs`): what a server answers is checked before any of it becomes a path, and a file
//! has its name only when it is whole.

mod answer;
mod client;
mod download;
mod environment;
mod error;
mod progress;

pub use progress::{Download, on_download};

use crate::ModelError;
use crate::tensor_file::Index;
use answer::{Listing, is_below, is_plain, quoted};
use client::Client;
use download::{Place, download, note};
use environment::Environment;
use error::HubError;
use hf_hub::{Repo, RepoType};
use std::path::{Path, PathBuf};

/// Files that a model may do without.
const OPTIONAL: [&str; 2] = ["tokenizer.json", "generation_config.json"];
/// Why nothing is fetched.
const OFFLINE: &str = "HF_HUB_OFFLINE forbids fetching";
/// Names that an error shows of a repository or folder.
const SHOWN: usize = 12;

/// The folder of a model's files, fetched into the hub's cache unless they are there.
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
    let hub = Hub::open().map_err(|e| not_found(e.to_string()))?;
    let repo = Repo::model(name.into());
    let cached = hub.cached(&repo);
    if let Some(folder) = cached
        && lacking(&folder)?.is_none()
    {
        hub.complete(&repo, name, &folder)?;
        return Ok(folder);
    }
    let Some(client) = &hub.client else {
        return Err(not_found(hub.without_network("model", &repo, "", OFFLINE)));
    };
    let mut commit: Option<String> = None;
    let mut fetch = |file: &str| -> Result<PathBuf, HubError> {
        let (path, found) = hub.download(client, &repo, name, repo.revision(), file)?;
        match &commit {
            Some(before) if *before != found => Err(HubError::Changed {
                before: before.clone(),
                after: found,
            }),
            _ => {
                commit = Some(found);
                Ok(path)
            }
        }
    };
    let failed = |file: &str, error: HubError| hub.failure("model", &repo, name, file, error);
    let config = fetch("config.json").map_err(|e| failed("config.json", e))?;
    let index = "model.safetensors.index.json";
    match fetch(index) {
        Ok(path) => {
            for shard in Index::read(&path)?.shards() {
                fetch(shard).map_err(|e| failed(shard, e))?;
            }
        }
        Err(error) if error.is_not_found() => {
            let weights = "model.safetensors";
            fetch(weights).map_err(|error| {
                let absent = error.is_not_found();
                match absent.then(|| hub.other_files(client, &repo)).flatten() {
                    Some(files) => not_found(format!(
                        "found [{files}], expected {weights}, or its shards with their index"
                    )),
                    None => failed(weights, error),
                }
            })?;
        }
        Err(error) => return Err(failed(index, error)),
    }
    for file in OPTIONAL {
        match fetch(file) {
            Err(error) if error.is_not_found() => hub.remember_absent(&repo, file, &error),
            Err(error) => return Err(failed(file, error)),
            Ok(_) => {}
        }
    }
    let folder = config.parent().map(Path::to_path_buf);
    let (Some(folder), Some(commit)) = (folder, commit) else {
        return Err(not_found("its config.json lies in no folder".into()));
    };
    // Last, so that what the name meant before stays whole until all of this is there.
    hub.refer(&repo, &commit)
        .map_err(|e| failed("refs/main", e))?;
    Ok(folder)
}

/// The first file that a cached model lacks.
fn lacking(folder: &Path) -> Result<Option<String>, ModelError> {
    let lacks = |file: &str| !folder.join(file).is_file();
    if lacks("config.json") {
        return Ok(Some("config.json".into()));
    }
    let index = folder.join("model.safetensors.index.json");
    if !lacks("model.safetensors") {
        return Ok(None);
    }
    if !index.is_file() {
        return Ok(Some("model.safetensors".into()));
    }
    let index = Index::read(&index)?;
    let missing = index.shards().into_iter().find(|shard| lacks(shard));
    Ok(missing.map(str::to_owned))
}

/// The hub as the environment variables have it.
struct Hub {
    environment: Environment,
    /// None: nothing is to be fetched.
    client: Option<Client>,
}

impl Hub {
    fn open() -> Result<Self, HubError> {
        let environment = Environment::read()?;
        let client = match environment.offline {
            true => None,
            false => Some(Client::new(&environment)?),
        };
        Ok(Self {
            environment,
            client,
        })
    }

    /// A repository's folder in the cache.
    fn folder(&self, repo: &Repo) -> PathBuf {
        self.environment.cache.join(repo.folder_name())
    }

    /// The folder of a repository's revision, if the cache has it.
    fn cached(&self, repo: &Repo) -> Option<PathBuf> {
        let folder = self.folder(repo);
        let named = std::fs::read_to_string(folder.join("refs").join(repo.revision()));
        // A commit is called by its own name.
        let commit = named.unwrap_or_else(|_| repo.revision().to_owned());
        let commit = commit.trim();
        let found = folder.join("snapshots").join(commit);
        (is_plain(commit) && found.is_dir()).then_some(found)
    }

    /// Where a file lies once it is fetched, and its commit.
    fn download(
        &self,
        client: &Client,
        repo: &Repo,
        name: &str,
        revision: &str,
        file: &str,
    ) -> Result<(PathBuf, String), HubError> {
        let place = Place {
            cache: &self.environment.cache,
            folder: &repo.folder_name(),
            repository: name,
        };
        let url = client.address(&format!("{}/resolve/{revision}/{file}", repo.url()))?;
        let (path, about) = download(client, &place, &url, file)?;
        Ok((path, about.commit))
    }

    fn list(&self, client: &Client, repo: &Repo) -> Result<Listing, HubError> {
        let url = client.address(&format!("api/{}", repo.api_url()))?;
        answer::listing(&client.read(&url)?, &url)
    }

    /// Fetches what a cached model may have and lacks. A hub that cannot be reached is no obstacle.
    fn complete(&self, repo: &Repo, name: &str, folder: &Path) -> Result<(), ModelError> {
        let commit = folder.file_name().unwrap_or_default().to_string_lossy();
        let is_commit = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
        let revision = if is_commit { &*commit } else { repo.revision() };
        let Some(client) = &self.client else {
            return Ok(());
        };
        for file in OPTIONAL {
            if folder.join(file).exists() || self.absent(repo, &commit, file).exists() {
                continue;
            }
            match self.download(client, repo, name, revision, file) {
                Ok(_) => {}
                Err(error) if error.is_unreachable() => return Ok(()),
                Err(error) if error.is_not_found() => self.remember_absent(repo, file, &error),
                Err(error) => return Err(self.failure("model", repo, name, file, error)),
            }
        }
        Ok(())
    }

    /// What says that a commit has no such file, as in Python's cache.
    fn absent(&self, repo: &Repo, commit: &str, file: &str) -> PathBuf {
        let folder = self.folder(repo).join(".no_exist");
        folder.join(commit).join(file)
    }

    fn remember_absent(&self, repo: &Repo, file: &str, error: &HubError) {
        if let HubError::Status {
            absent_from: Some(commit),
            ..
        } = error
        {
            // Without it the hub is asked again, no more.
            drop(note(&self.absent(repo, commit, file), ""));
        }
    }

    /// Makes the repository's revision mean this commit.
    fn refer(&self, repo: &Repo, commit: &str) -> Result<(), HubError> {
        match repo.revision() == commit {
            true => Ok(()),
            false => note(
                &self.folder(repo).join("refs").join(repo.revision()),
                commit,
            ),
        }
    }

    /// The files of a model that has no weights which are read.
    fn other_files(&self, client: &Client, repo: &Repo) -> Option<String> {
        let files = self.list(client, repo).ok()?.files;
        let has_weights = files
            .iter()
            .any(|file| file.starts_with("model.safetensors"));
        (!has_weights).then(|| names(&files))
    }

    /// What there is without a network, why nothing is fetched, and what will do.
    fn without_network(&self, kind: &str, repo: &Repo, file: &str, why: &str) -> String {
        let will_do = "a folder with its files will do";
        let folder = self.folder(repo);
        match self.cached(repo) {
            // The name may be a misspelt path.
            None if kind == "model" => format!(
                "there is no folder or GGUF file of this name here, and no model of this name in the hub's cache ({}); {why}; {will_do}",
                folder.display()
            ),
            None => format!(
                "{file}{why}; the hub's cache {} does not hold it; {will_do}",
                folder.display()
            ),
            Some(snapshot) if kind == "model" => {
                let absent = lacking(&snapshot).ok().flatten();
                let absent = absent.unwrap_or_else(|| "a file that can be read".into());
                format!(
                    "{file}{why}; the hub's cache {} lacks {absent}; {will_do}",
                    snapshot.display()
                )
            }
            Some(snapshot) => format!(
                "{file}{why}; HF_HUB_OFFLINE=1 reads what the hub's cache {} holds",
                snapshot.display()
            ),
        }
    }

    /// An error as a user reads it: what was asked for, what happened, and what can be done.
    fn failure(
        &self,
        kind: &'static str,
        repo: &Repo,
        name: &str,
        file: &str,
        error: HubError,
    ) -> ModelError {
        let file = match file {
            "" => String::new(),
            file => format!("{file}: "),
        };
        let problem = match &error {
            HubError::NoNetwork { .. } => {
                self.without_network(kind, repo, &file, &error.to_string())
            }
            _ => format!("{file}{error}"),
        };
        match kind {
            "model" if error.is_not_found() || matches!(error, HubError::NoNetwork { .. }) => {
                ModelError::NotFound {
                    model: name.into(),
                    problem,
                }
            }
            _ => ModelError::Repository {
                kind,
                name: name.into(),
                problem,
            },
        }
    }
}

/// A repository on the hub: which files it has, fetched into the hub's cache one by one as they are
/// asked for. The environment variables are those that models know.
pub struct HubRepository {
    hub: Hub,
    repo: Repo,
    name: String,
    kind: &'static str,
    files: Vec<String>,
    /// The commit that has them, where the hub said so.
    commit: Option<String>,
    /// Its folder in the cache, if it was listed from there.
    folder: Option<PathBuf>,
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
        let hub = Hub::open().map_err(|e| not_found(e.to_string()))?;
        let (listing, folder) = match &hub.client {
            Some(client) => {
                let listing = hub.list(client, &repo);
                let failed = |e| hub.failure(kind, &repo, name, "", e);
                (listing.map_err(failed)?, None)
            }
            None => {
                let folder = hub
                    .cached(&repo)
                    .ok_or_else(|| not_found(hub.without_network(kind, &repo, "", OFFLINE)))?;
                let mut files = vec![];
                collect(&folder, "", &mut files).map_err(ModelError::read(&folder))?;
                let commit = None;
                (Listing { commit, files }, Some(folder))
            }
        };
        Ok(Self {
            repo,
            name: name.into(),
            kind,
            files: listing.files,
            commit: listing.commit,
            folder,
            hub,
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
        let failed = |error: HubError| {
            self.hub
                .failure(self.kind, &self.repo, &self.name, file, error)
        };
        if !is_below(file) {
            return Err(failed(HubError::Name {
                found: quoted(Some(file)),
            }));
        }
        let (Some(client), None) = (&self.hub.client, &self.folder) else {
            let folder = self.folder.clone().unwrap_or_default();
            return Ok(folder.join(file));
        };
        let snapshots = self.hub.folder(&self.repo).join("snapshots");
        let cached = self.commit.as_ref();
        let cached = cached.map(|commit| snapshots.join(commit).join(file));
        if let Some(path) = cached.filter(|path| path.is_file()) {
            return Ok(path);
        }
        let revision = self.repo.revision();
        let (path, found) = self
            .hub
            .download(client, &self.repo, &self.name, revision, file)
            .map_err(failed)?;
        match &self.commit {
            Some(before) if *before != found => Err(failed(HubError::Changed {
                before: before.clone(),
                after: found,
            })),
            _ => {
                self.hub.refer(&self.repo, &found).map_err(failed)?;
                Ok(path)
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

/// A folder of the hub's cache, with the name of its repository and the folder of files that it
/// stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedRepository {
    /// `owner/name`.
    pub name: String,
    /// The snapshot of its revision `main`, or its only one.
    pub snapshot: PathBuf,
}

impl CachedRepository {
    /// What lies at a folder of the hub's cache (`models--owner--name`); none if it is another
    /// folder.
    ///
    /// # Errors
    /// When it is such a folder and holds no snapshot, or several and no `refs/main` that chooses
    /// one.
    pub fn at(folder: &Path) -> Result<Option<Self>, ModelError> {
        let called = std::path::absolute(folder).map_err(ModelError::read(folder))?;
        let called = called.file_name().unwrap_or_default().to_string_lossy();
        let name = ["models--", "datasets--"]
            .iter()
            .find_map(|kind| called.strip_prefix(kind));
        let snapshots = folder.join("snapshots");
        let (Some(name), true) = (name, snapshots.is_dir()) else {
            return Ok(None);
        };
        let mut commits = vec![];
        for entry in std::fs::read_dir(&snapshots).map_err(ModelError::read(&snapshots))? {
            let entry = entry.map_err(ModelError::read(&snapshots))?;
            if entry.path().is_dir() {
                commits.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        commits.sort();
        let reference = folder.join("refs/main");
        let wrong =
            |path: PathBuf, field: &str, found: String, expected: String| ModelError::Field {
                path,
                field: field.into(),
                found,
                expected,
            };
        let commit = match lapidary_io::read_text(&reference) {
            Ok(text) => {
                let commit = text.trim().to_owned();
                if !commits.contains(&commit) {
                    let found = quoted(Some(&commit));
                    let expected = format!("one of [{}]", names(&commits));
                    return Err(wrong(reference, "commit", found, expected));
                }
                commit
            }
            Err(_) => match &commits[..] {
                [commit] => commit.clone(),
                _ => {
                    let found = match commits.len() {
                        0 => "none".into(),
                        n => format!("{n} and no refs/main, [{}]", names(&commits)),
                    };
                    let expected = "one: name its folder in snapshots";
                    return Err(wrong(folder.into(), "snapshots", found, expected.into()));
                }
            },
        };
        Ok(Some(Self {
            name: name.replace("--", "/"),
            snapshot: snapshots.join(commit),
        }))
    }
}

/// Reads bytes as each thing that a server may say: a list of files, headers in lines, an address
/// of a redirect.
///
/// For fuzzing: nothing panics, and what is accepted stays below the cache.
#[doc(hidden)]
pub fn read_hub_answer(bytes: &[u8]) {
    use ureq::http::{HeaderMap, HeaderName, HeaderValue, Uri};
    let url = Uri::from_static("https://hub.example/owner/name/resolve/main/file");
    if let Ok(listing) = answer::listing(bytes, &url) {
        assert!(listing.files.iter().all(|file| is_below(file)));
        assert!(listing.commit.is_none_or(|commit| is_plain(&commit)));
    }
    if let Ok(next) = answer::redirect(&url, Some(bytes)) {
        assert!(matches!(next.scheme_str(), Some("http" | "https")));
    }
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    if let Ok(about) = answer::About::of(&headers, &url) {
        assert!(is_plain(&about.etag) && is_plain(&about.commit));
    }
    let range = answer::text(&headers, "content-range");
    if let Some((first, whole)) = range.and_then(answer::content_range) {
        assert!(first < whole);
    }
}

fn collect(folder: &Path, before: &str, names: &mut Vec<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{before}{}", entry.file_name().to_string_lossy());
        // Files are links to blobs; a link to a folder is none of the cache's.
        match entry.file_type()?.is_dir() {
            true => collect(&entry.path(), &format!("{name}/"), names)?,
            false if entry.path().is_file() => names.push(name),
            false => {}
        }
    }
    Ok(())
}

fn names(all: &[String]) -> String {
    let more = if all.len() > SHOWN { ", …" } else { "" };
    let first: Vec<String> = all
        .iter()
        .take(SHOWN)
        .map(|n| n.escape_debug().to_string())
        .collect();
    format!("{}{more}", first.join(", "))
}

/// `name` or `owner/name` in the hub's alphabet, so that a mistyped path is never sent anywhere.
fn is_repository_name(name: &str) -> bool {
    let mut parts = name.split('/');
    let (first, second, rest) = (parts.next(), parts.next(), parts.next());
    rest.is_none() && first.is_some_and(is_plain) && second.is_none_or(is_plain)
}
