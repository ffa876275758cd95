//! The finished requests of a labelling job in a file of JSON lines, so that a job that broke off
//! asks for nothing twice.

use super::super::endpoint::Reply;
use crate::FeaturesError;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// Most bytes of a line. A reply is at most 1 MiB with its escapes.
const MAX_LINE_BYTES: u64 = 2 << 20;
/// What every line begins with.
const START: &[u8] = b"{\"latent\":";

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestKind {
    /// An explanation of a latent.
    Explain,
    /// In which windows the latent fires.
    Detect,
    /// In which windows the marks are right.
    Fuzz,
}

/// Which request it is. The digest is that of all that was sent: a request of another job, of
/// another model say, is another request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) latent: usize,
    pub(super) kind: RequestKind,
    pub(super) batch: usize,
    pub(super) digest: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    key: Key,
    reply: Option<String>,
    prompt_tokens: u64,
    completion_tokens: u64,
}

/// The finished requests of one or more jobs.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    finished: HashMap<Key, Reply>,
    /// Whether a write failed, and so may have left a part of a line.
    is_broken: bool,
}

impl Journal {
    /// Opens a journal, or begins one, and holds it against other processes.
    ///
    /// A last line that does not end, of a process that broke off while it wrote, is cut off.
    ///
    /// # Errors
    /// When the file cannot be read or written, another process holds it, or a line is damaged. The
    /// file is left as it is then.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FeaturesError> {
        let path = path.into();
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|error| failed(&path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(FeaturesError::Input {
                    field: "journal",
                    found: format!("{}, which another job is writing", path.display()),
                    expected: "a journal of its own for each job that runs".into(),
                });
            }
            // Some file systems have no locks.
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(failed(&path, &error)),
        }
        let (finished, whole) = read(&file, &path)?;
        let len = file
            .metadata()
            .map_err(|error| failed(&path, &error))?
            .len();
        if whole < len {
            file.set_len(whole).map_err(|error| failed(&path, &error))?;
        }
        Ok(Journal {
            path,
            file,
            finished,
            is_broken: false,
        })
    }

    /// Number of finished requests, of whatever job.
    pub fn len(&self) -> usize {
        self.finished.len()
    }

    /// Whether no request has finished.
    pub fn is_empty(&self) -> bool {
        self.finished.is_empty()
    }

    /// The reply to a request that has finished.
    pub(super) fn reply(&self, key: &Key) -> Option<&Reply> {
        self.finished.get(key)
    }

    /// Writes down that a request has finished.
    pub(super) fn append(&mut self, key: Key, reply: &Reply) -> Result<(), FeaturesError> {
        let line = Line {
            key,
            reply: reply.text.clone(),
            prompt_tokens: reply.prompt_tokens,
            completion_tokens: reply.completion_tokens,
        };
        let mut bytes = serde_json::to_vec(&line).map_err(|error| failed(&self.path, &error))?;
        bytes.push(b'\n');
        if self.is_broken {
            return Err(failed(&self.path, &"an earlier write failed"));
        }
        // One write for the whole line, and no buffer that a crash could lose.
        self.file.write_all(&bytes).map_err(|error| {
            self.is_broken = true;
            failed(&self.path, &error)
        })?;
        self.finished.insert(line.key, reply.clone());
        Ok(())
    }
}

/// The finished requests, and the length of all whole lines in bytes.
fn read(file: &File, path: &Path) -> Result<(HashMap<Key, Reply>, u64), FeaturesError> {
    let mut reader = BufReader::new(file);
    let mut finished = HashMap::new();
    let mut whole = 0;
    let mut bytes = Vec::new();
    for number in 1_u64.. {
        bytes.clear();
        let n = (&mut reader)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut bytes)
            .map_err(|error| failed(path, &error))?;
        let damaged = |reason: &str| FeaturesError::Input {
            field: "journal",
            found: format!("{}, line {number}: {reason}", path.display()),
            expected: "a line as a labelling job writes it; remove this one or the file".into(),
        };
        if !bytes.ends_with(b"\n") {
            // Only what begins like a line was one: another file is not to be cut.
            let common = n.min(START.len());
            if n as u64 == MAX_LINE_BYTES {
                return Err(damaged("it is too long"));
            }
            if bytes[..common] != START[..common] {
                return Err(damaged("it is no finished request"));
            }
            break;
        }
        let line: Line =
            serde_json::from_slice(&bytes).map_err(|_| damaged("it is no finished request"))?;
        let reply = Reply {
            text: line.reply,
            prompt_tokens: line.prompt_tokens,
            completion_tokens: line.completion_tokens,
        };
        finished.entry(line.key).or_insert(reply);
        whole += n as u64;
    }
    Ok((finished, whole))
}

fn failed(path: &Path, reason: &dyn std::fmt::Display) -> FeaturesError {
    FeaturesError::Input {
        field: "journal",
        found: format!("{}: {reason}", path.display()),
        expected: "a file that can be read and written".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(latent: usize) -> Key {
        Key {
            latent,
            kind: RequestKind::Detect,
            batch: 1,
            digest: "0f".into(),
        }
    }

    fn reply(text: Option<&str>) -> Reply {
        Reply {
            text: text.map(str::to_owned),
            prompt_tokens: 7,
            completion_tokens: 2,
        }
    }

    /// A journal of three replies in a new folder.
    fn written() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        journal
            .append(key(0), &reply(Some("[1]\n\"é\u{0}")))
            .unwrap();
        journal.append(key(1), &reply(None)).unwrap();
        journal.append(key(2), &reply(Some(""))).unwrap();
        (dir, path)
    }

    fn found(path: &Path) -> Vec<Option<Reply>> {
        let journal = Journal::open(path).unwrap();
        (0..4).map(|at| journal.reply(&key(at)).cloned()).collect()
    }

    #[test]
    fn replies_are_lines_of_json_and_come_back() {
        let (_dir, path) = written();
        let expected = [
            Some(reply(Some("[1]\n\"é\u{0}"))),
            Some(reply(None)),
            Some(reply(Some(""))),
            None,
        ];
        assert_eq!(found(&path), expected);
        let text = std::fs::read_to_string(&path).unwrap();
        let line = "{\"latent\":1,\"kind\":\"detect\",\"batch\":1,\"digest\":\"0f\",\
                    \"reply\":null,\"prompt_tokens\":7,\"completion_tokens\":2}";
        assert_eq!(text.lines().nth(1), Some(line));
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn a_torn_last_line_is_cut_off_wherever_it_was_torn() {
        let (_dir, path) = written();
        let whole = std::fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .unwrap()
            + 1;
        for end in last..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            assert_eq!(journal.len(), 2, "{end}");
            journal.append(key(2), &reply(Some(""))).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole, "{end}");
        }
    }

    #[test]
    fn a_damaged_line_is_named_and_the_file_is_left_alone() {
        let (_dir, path) = written();
        let text = std::fs::read_to_string(&path).unwrap();
        for (from, to) in [
            ("\"latent\":1,", "\"latent\":,"),
            ("\"latent\":1,", "\"latent\":-1,"),
            (
                "\"kind\":\"detect\",\"batch\":1,\"digest\":\"0f\",\"reply\":null",
                "\"a\":1",
            ),
            ("2}\n{\"latent\":1", "2}{\"latent\":1"),
            ("{\"latent\":1", "\n{\"latent\":1"),
        ] {
            let damaged = text.replacen(from, to, 1) + "{\"lat";
            assert!(!damaged.starts_with(&text));
            std::fs::write(&path, &damaged).unwrap();
            let error = Journal::open(&path).unwrap_err().to_string();
            let line = if to.starts_with("2}{") { 1 } else { 2 };
            assert!(
                error.contains(&format!("journal.jsonl, line {line}:")),
                "{error}"
            );
            assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
        }
    }

    #[test]
    fn a_file_that_is_no_journal_is_not_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        let long = "x".repeat(3 << 20);
        for text in ["a", "my notes", "{\"labels\": []}", "\0\0\0", &long] {
            std::fs::write(&path, text).unwrap();
            assert!(Journal::open(&path).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn two_jobs_cannot_write_the_same_journal() {
        let (_dir, path) = written();
        let held = Journal::open(&path).unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("another job"), "{error}");
        drop(held);
        assert_eq!(Journal::open(&path).unwrap().len(), 3);
    }
}
