//! A file of the hub into the cache. It gets its name when it is whole: its length is the one that
//! was said, and its digest is the one that its ETag is.

use super::answer::{About, INCOMPLETE, believable, content_range, is_below, quoted, text};
use super::client::{Answer, Client, WAITS};
use super::error::{HubError, shown};
use super::progress::{Download, report};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use ureq::http::Uri;

/// Bytes read at once.
const CHUNK: usize = 1 << 20;
/// A connection that brought this much has earned all its tries again.
const PROGRESS: u64 = 16 << 20;
/// Bytes that a connection must bring in a minute.
const SLOWEST: usize = 60 << 10;
/// How long another process may hold a file's lock without fetching any of it.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// A repository's folder in the cache, and what it is called in progress.
pub(super) struct Place<'a> {
    /// The cache itself, where the locks are.
    pub(super) cache: &'a Path,
    /// `models--owner--name` in it.
    pub(super) folder: &'a str,
    pub(super) repository: &'a str,
}

/// The digest that an ETag holds.
enum Content {
    /// SHA-256 of the file, as the hub gives it for large files.
    Sha256,
    /// SHA-1 of the file as a git blob, as the hub gives it for small files.
    GitBlob,
    Unknown,
}

impl Content {
    fn of(etag: &str) -> Self {
        let hex = etag.bytes().all(|b| b.is_ascii_hexdigit());
        match etag.len() {
            64 if hex => Self::Sha256,
            40 if hex => Self::GitBlob,
            _ => Self::Unknown,
        }
    }

    fn can_be_checked(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// Name and value of a digest of the file that is not its ETag; none if the file is what its
    /// ETag says.
    fn difference(
        &self,
        file: &mut File,
        bytes: u64,
        etag: &str,
    ) -> std::io::Result<Option<(&'static str, String)>> {
        let digests: Vec<(&str, String)> = match self {
            Self::Sha256 => vec![("SHA-256", hex(Sha256::new(), file)?)],
            Self::GitBlob => {
                let of_blob = Sha1::new_with_prefix(format!("blob {bytes}\0"));
                vec![
                    ("SHA-1 (as a git blob)", hex(of_blob, file)?),
                    // Some mirrors give the file's own.
                    ("SHA-1", hex(Sha1::new(), file)?),
                ]
            }
            Self::Unknown => vec![],
        };
        let fits = digests.iter().any(|(_, d)| d.eq_ignore_ascii_case(etag));
        Ok(digests.into_iter().next().filter(|_| !fits))
    }
}

/// The digest of a whole file, in hexadecimal digits.
fn hex<D: Digest>(mut digest: D, file: &mut File) -> std::io::Result<String> {
    let mut buffer = vec![0; CHUNK];
    file.seek(SeekFrom::Start(0))?;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => digest.update(&buffer[..n]),
        }
    }
    let hex = digest.finalize();
    Ok(hex.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Fetches `file` from `url` unless its blob is there, and links it into the snapshot of its
/// commit.
pub(super) fn download(
    client: &Client,
    place: &Place,
    url: &Uri,
    file: &str,
) -> Result<(PathBuf, About), HubError> {
    if !is_below(file) {
        return Err(HubError::Name {
            found: quoted(Some(file)),
        });
    }
    let answer = client.get_patiently(url, None)?;
    let about = About::of(&answer.told, url)?;
    let folder = place.cache.join(place.folder);
    let blob = folder.join("blobs").join(&about.etag);
    let is_there = || {
        let found = std::fs::metadata(&blob);
        found.is_ok_and(|m| m.is_file() && about.bytes.is_none_or(|bytes| bytes == m.len()))
    };
    if !is_there() {
        let lock = place.cache.join(".locks").join(place.folder);
        let lock = lock.join(format!("{}.lock", about.etag));
        make_folder_of(&blob)?;
        make_folder_of(&lock)?;
        // The answer does not wait while another process works.
        let (held, waited) = hold(&lock, &blob)?;
        if !is_there() {
            let mut part = Part::open(client, place, (url, file), &about, &blob)?;
            let filled = part.fill((!waited).then_some(answer));
            part.finish(filled, &blob)?;
        }
        drop(held);
    }
    let link = folder.join("snapshots").join(&about.commit).join(file);
    point(&blob, &link, file)?;
    Ok((link, about))
}

/// A blob that is being fetched, in a file beside it.
struct Part<'a> {
    client: &'a Client,
    place: &'a Place<'a>,
    /// Of the file, on the endpoint.
    url: &'a Uri,
    name: &'a str,
    about: &'a About,
    content: Content,
    path: PathBuf,
    file: File,
    /// Bytes that are there.
    have: u64,
}

impl<'a> Part<'a> {
    fn open(
        client: &'a Client,
        place: &'a Place<'a>,
        (url, name): (&'a Uri, &'a str),
        about: &'a About,
        blob: &Path,
    ) -> Result<Self, HubError> {
        let mut path = blob.as_os_str().to_owned();
        path.push(INCOMPLETE);
        let path = PathBuf::from(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(cannot_write(&path))?;
        let left = file.metadata().map_err(cannot_write(&path))?.len();
        let content = Content::of(&about.etag);
        // Only what can be checked in the end is gone on with.
        let have = match about.bytes {
            Some(bytes) if content.can_be_checked() && left <= bytes => left,
            _ => 0,
        };
        Ok(Self {
            client,
            place,
            url,
            name,
            about,
            content,
            path,
            file,
            have,
        })
    }

    /// Fetches the whole file, in several requests where connections break.
    fn fill(&mut self, mut first: Option<Answer>) -> Result<(), HubError> {
        let (mut waits, mut furthest) = (WAITS.iter(), self.have);
        // What an earlier run left may be at fault.
        let mut is_leftover = self.have > 0;
        loop {
            if !self.content.can_be_checked() {
                self.have = 0;
            }
            let answer = match first.take().filter(|_| self.have == 0) {
                Some(answer) => Ok(answer),
                None => self
                    .client
                    .get(self.url, (self.have > 0).then_some(self.have)),
            };
            let received = answer.and_then(|answer| self.receive(answer));
            let error = match received.and_then(|()| self.verify()) {
                Ok(()) => return Ok(()),
                Err(HubError::Digest { .. } | HubError::Status { status: 416, .. })
                    if is_leftover =>
                {
                    (self.have, is_leftover) = (0, false);
                    continue;
                }
                Err(error) => error,
            };
            if self.have >= furthest + PROGRESS {
                (waits, furthest) = (WAITS.iter(), self.have);
            }
            match waits.next() {
                Some(wait) if error.is_transient() => std::thread::sleep(*wait),
                _ => return Err(error),
            }
        }
    }

    /// Appends a body to what is there.
    fn receive(&mut self, answer: Answer) -> Result<(), HubError> {
        let now = About::of(&answer.told, self.url)?;
        if now != *self.about {
            return Err(HubError::Changed {
                before: self.about.commit.clone(),
                after: now.commit,
            });
        }
        let url = answer.url;
        let length = |found: u64, expected: String| HubError::Length {
            url: shown(&url),
            found,
            expected,
        };
        let mut lengths = vec![];
        lengths.extend(self.about.bytes);
        if answer.status.as_u16() == 206 {
            let range = text(&answer.headers, "content-range");
            let (_, whole) = range
                .and_then(content_range)
                .filter(|(first, _)| *first == self.have)
                .ok_or_else(|| HubError::Header {
                    url: shown(&url),
                    header: "Content-Range",
                    found: quoted(range),
                    expected: "the rest of the file",
                })?;
            lengths.push(whole);
        } else {
            self.have = 0; // From the beginning, whatever was asked for.
        }
        let declared = answer.body.content_length();
        lengths.extend(declared.map(|n| n.saturating_add(self.have)));
        let total = lengths.first().copied();
        if let Some(other) = lengths.iter().find(|n| Some(**n) != total) {
            return Err(length(
                *other,
                format!("{}, as was said before", lengths[0]),
            ));
        }
        if total.is_none() && !self.content.can_be_checked() {
            let expected = "a length in the headers, or an ETag that is a digest";
            return Err(length(0, expected.into()));
        }
        total.map_or(Ok(()), |n| believable(n, &url))?;
        self.cut()?;
        let mut body = answer.body.into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; CHUNK];
        let (mut minute, mut in_minute) = (Instant::now(), 0);
        let broken = |reason: String| HubError::Broken {
            url: shown(&url),
            reason,
        };
        loop {
            self.report(total, false);
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.client.broken(error, &url, self.have, total)),
            };
            self.have += n as u64;
            if let Some(total) = total.filter(|total| self.have > *total) {
                return Err(length(self.have, format!("{total}, as was said before")));
            }
            believable(self.have, &url)?;
            let written = self.file.write_all(&buffer[..n]);
            written.map_err(cannot_write(&self.path))?;
            in_minute += n;
            if minute.elapsed() >= Duration::from_secs(60) {
                if in_minute < SLOWEST {
                    return Err(broken(format!("{in_minute} bytes came in a minute")));
                }
                (minute, in_minute) = (Instant::now(), 0);
            }
        }
        match total {
            Some(total) if self.have < total => Err(broken(format!(
                "found {} bytes, expected {total}",
                self.have
            ))),
            _ => Ok(()),
        }
    }

    /// Leaves the bytes that are there, and writes behind them.
    fn cut(&mut self) -> Result<(), HubError> {
        let cut = self.file.set_len(self.have);
        let cut = cut.and_then(|()| self.file.seek(SeekFrom::Start(self.have)));
        cut.map(|_| ()).map_err(cannot_write(&self.path))
    }

    /// Refuses a file that is not what its ETag says.
    fn verify(&mut self) -> Result<(), HubError> {
        let etag = &self.about.etag;
        let difference = self.content.difference(&mut self.file, self.have, etag);
        match difference.map_err(cannot_write(&self.path))? {
            None => Ok(()),
            Some((algorithm, found)) => Err(HubError::Digest {
                url: shown(self.url),
                algorithm,
                found,
                expected: etag.clone(),
            }),
        }
    }

    /// Gives the file its name, or takes it away.
    fn finish(self, result: Result<(), HubError>, blob: &Path) -> Result<(), HubError> {
        self.report(self.about.bytes, true);
        match result {
            Ok(()) => {
                let synced = self.file.sync_all();
                let renamed = synced.and_then(|()| std::fs::rename(&self.path, blob));
                renamed.map_err(cannot_write(&self.path))
            }
            Err(error) => {
                // What can be gone on with stays for the next run.
                let can_resume = self.content.can_be_checked() && self.have > 0;
                if !error.is_unreachable() || !can_resume {
                    drop(std::fs::remove_file(&self.path));
                }
                Err(error)
            }
        }
    }

    fn report(&self, total: Option<u64>, finished: bool) {
        report(&Download {
            repository: self.place.repository,
            file: self.name,
            bytes: self.have,
            total,
            finished,
        });
    }
}

/// The lock of a blob, and whether it had to be waited for. The lock's file is the one that Python
/// takes.
fn hold(lock: &Path, blob: &Path) -> Result<(File, bool), HubError> {
    let failed = cannot_write(lock);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(lock)
        .map_err(&failed)?;
    let (mut since, mut size, mut waited) = (Instant::now(), 0, false);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok((file, waited)),
            Err(TryLockError::WouldBlock) => waited = true,
            // Some file systems have no locks.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {
                return Ok((file, waited));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let now = size_beside(blob);
        if now != size {
            (since, size) = (Instant::now(), now);
        }
        if since.elapsed() > LOCK_PATIENCE {
            return Err(HubError::Locked { path: lock.into() });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What has come so far of a blob that any process fetches: Python's have a random word in their
/// names.
fn size_beside(blob: &Path) -> u64 {
    let name = blob.file_name().unwrap_or_default().to_string_lossy();
    let entries = blob.parent().and_then(|folder| folder.read_dir().ok());
    let entries = entries.into_iter().flatten().flatten();
    let of_blob = entries.filter(|e| e.file_name().to_string_lossy().starts_with(&*name));
    of_blob
        .filter_map(|e| e.metadata().ok())
        .map(|m| m.len())
        .sum()
}

/// Makes a snapshot's file a link to its blob, or a copy where there are no links.
fn point(blob: &Path, link: &Path, file: &str) -> Result<(), HubError> {
    make_folder_of(link)?;
    let same = |link: &Path| {
        let there = std::fs::canonicalize(link).ok();
        there.is_some() && there == std::fs::canonicalize(blob).ok()
    };
    if same(link) {
        return Ok(());
    }
    let failed = cannot_write(link);
    match std::fs::remove_file(link) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    // Out of the file's own folders, the commit's and `snapshots`.
    let up = "../".repeat(1 + Path::new(file).components().count());
    let name = blob.file_name().unwrap_or_default();
    let target = Path::new(&up).join("blobs").join(name);
    match symlink(&target, link) {
        Ok(()) => Ok(()),
        // Another process was as fast.
        Err(_) if same(link) => Ok(()),
        Err(_) => std::fs::copy(blob, link).map(|_| ()).map_err(failed),
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// Writes a file of a few bytes unless it says the same already.
pub(super) fn note(path: &Path, text: &str) -> Result<(), HubError> {
    if std::fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    make_folder_of(path)?;
    let failed = cannot_write(path);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(&failed)?;
    file.write_all(text.as_bytes()).map_err(&failed)?;
    file.as_file().sync_all().map_err(&failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

fn make_folder_of(path: &Path) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(cannot_write(folder))
}

fn cannot_write(path: &Path) -> impl Fn(std::io::Error) -> HubError + '_ {
    move |source| HubError::Cache {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_that_is_a_digest_is_that_of_the_content() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello\n").unwrap();
        let mut difference = |etag: &str| {
            let content = Content::of(etag);
            content.difference(&mut file, 6, etag).unwrap()
        };
        // `printf 'hello\n' | git hash-object --stdin`, sha1sum, sha256sum
        let blob = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha1 = "f572d396fae9206628714fb2ce00f72e94f2258f";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        for etag in [blob, sha1, sha256, &sha256.to_uppercase(), "no-digest"] {
            assert_eq!(difference(etag), None, "{etag}");
        }
        assert_eq!(
            difference(&"0".repeat(64)),
            Some(("SHA-256", sha256.into()))
        );
        let expected = Some(("SHA-1 (as a git blob)", blob.into()));
        assert_eq!(difference(&"0".repeat(40)), expected);
    }
}
