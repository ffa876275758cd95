//! What the hub says of a file, checked before any of it becomes a path or a size.

use super::error::{HubError, shown};
use serde::Deserialize;
use std::path::{Component, Path};
use ureq::http::{HeaderMap, Uri};

/// The largest file that is believed: 4 TiB. The hub's own limit is 500 GB.
const MAX_FILE_BYTES: u64 = 1 << 42;
/// The longest name of a file that all file systems take.
const MAX_NAME_BYTES: usize = 255;
/// Behind an ETag while its file is not whole yet, as in Python.
pub(super) const INCOMPLETE: &str = ".incomplete";

/// What the endpoint said of a file in its headers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) commit: String,
    /// The file's name among the cache's blobs.
    pub(super) etag: String,
    pub(super) bytes: Option<u64>,
}

impl About {
    /// Reads the headers as `huggingface_hub` does: those of large files come before those of the
    /// answer itself.
    pub(super) fn of(headers: &HeaderMap, url: &Uri) -> Result<Self, HubError> {
        let wrong = |header, found: Option<&str>, expected| HubError::Header {
            url: shown(url),
            header,
            found: quoted(found),
            expected,
        };
        let (linked, own) = (text(headers, "x-linked-etag"), text(headers, "etag"));
        let (header, etag) = match linked {
            Some(_) => ("X-Linked-Etag", linked),
            None => ("ETag", own),
        };
        let expected = "a plain name, such as the file's SHA-256";
        let found = etag.map(|e| e.strip_prefix("W/").unwrap_or(e).trim_matches('"'));
        let is_name = |name: &&str| {
            is_plain(name)
                && name.len() + INCOMPLETE.len() <= MAX_NAME_BYTES
                && !name.ends_with(INCOMPLETE)
        };
        let etag = found
            .filter(is_name)
            .ok_or_else(|| wrong(header, etag, expected))?;
        let header = "X-Repo-Commit";
        let commit = text(headers, "x-repo-commit");
        let is_commit = |name: &&str| is_plain(name) && name.len() <= MAX_NAME_BYTES;
        let commit = commit
            .filter(is_commit)
            .ok_or_else(|| wrong(header, commit, "a commit"))?;
        let bytes = text(headers, "x-linked-size");
        let bytes = bytes.map(|found| {
            let expected = "a number of bytes";
            number(found).ok_or_else(|| wrong("X-Linked-Size", Some(found), expected))
        });
        let about = Self {
            commit: commit.into(),
            etag: etag.into(),
            bytes: bytes.transpose()?,
        };
        about.bytes.map_or(Ok(()), |n| believable(n, url))?;
        Ok(about)
    }
}

/// Refuses a size that no file of the hub has.
pub(super) fn believable(bytes: u64, url: &Uri) -> Result<(), HubError> {
    match bytes <= MAX_FILE_BYTES {
        true => Ok(()),
        false => Err(HubError::Length {
            url: shown(url),
            found: bytes,
            expected: format!("at most {MAX_FILE_BYTES}"),
        }),
    }
}

/// A header's text, if it is there and is text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// What was found, in quotation marks, escaped and not longer than a line.
pub(super) fn quoted(found: Option<&str>) -> String {
    let Some(found) = found else {
        return "none".into();
    };
    match found.char_indices().nth(80) {
        Some((end, _)) => format!("{:?}…", &found[..end]),
        None => format!("{found:?}"),
    }
}

/// Digits alone: a sign or a space is no length.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// First byte and length of the whole file in `bytes 5-9/10`.
pub(super) fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, whole) = (number(first)?, number(last)?, number(whole)?);
    (first <= last && last < whole).then_some((first, whole))
}

/// The repository's commit and its files.
pub(super) struct Listing {
    pub(super) commit: Option<String>,
    pub(super) files: Vec<String>,
}

/// Reads the list of files of a repository. Names become paths in the cache: one that leads out of
/// it is refused.
pub(super) fn listing(bytes: &[u8], url: &Uri) -> Result<Listing, HubError> {
    #[derive(Deserialize)]
    struct Info {
        sha: Option<String>,
        #[serde(default)]
        siblings: Vec<File>,
    }
    #[derive(Deserialize)]
    struct File {
        rfilename: String,
    }
    let info: Info = serde_json::from_slice(bytes).map_err(|source| HubError::Listing {
        url: shown(url),
        source,
    })?;
    if let Some(found) = info.sha.as_deref().filter(|sha| !is_plain(sha)) {
        return Err(HubError::Header {
            url: shown(url),
            header: "sha",
            found: quoted(Some(found)),
            expected: "a commit",
        });
    }
    let files: Vec<String> = info.siblings.into_iter().map(|f| f.rfilename).collect();
    match files.iter().find(|file| !is_below(file)) {
        Some(found) => Err(HubError::Name {
            found: quoted(Some(found)),
        }),
        None => Ok(Listing {
            commit: info.sha,
            files,
        }),
    }
}

/// Where a redirect from `base` leads.
pub(super) fn redirect(base: &Uri, location: Option<&[u8]>) -> Result<Uri, HubError> {
    let wrong = |problem: String| HubError::Redirect {
        url: shown(base),
        problem,
    };
    let location = location.ok_or_else(|| wrong("without a Location".into()))?;
    let unreadable = || {
        let found = String::from_utf8_lossy(location);
        let found = quoted(Some(&found));
        wrong(format!("to {found}, which is no address"))
    };
    let text = std::str::from_utf8(location).map_err(|_| unreadable())?;
    let text = text.split('#').next().unwrap_or("").trim();
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |a| a.as_str());
    let path = base.path();
    let before_path = text.split(['/', '?']).next().unwrap_or("");
    let whole = match text {
        "" => return Err(unreadable()),
        _ if before_path.contains(':') => text.to_owned(),
        _ if text.starts_with("//") => format!("{scheme}:{text}"),
        _ if text.starts_with('/') => format!("{scheme}://{authority}{text}"),
        _ if text.starts_with('?') => format!("{scheme}://{authority}{path}{text}"),
        _ => {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{text}")
        }
    };
    let url: Uri = whole.parse().map_err(|_| unreadable())?;
    let host = url.host().is_some_and(|host| !host.is_empty());
    match url.scheme_str() {
        Some("http" | "https") if host => Ok(url),
        _ => Err(unreadable()),
    }
}

/// Scheme, host and port: who is asked.
pub(super) fn origin(url: &Uri) -> (String, String, u16) {
    let scheme = url.scheme_str().unwrap_or("").to_ascii_lowercase();
    let port = url.port_u16();
    let port = port.unwrap_or(if scheme == "https" { 443 } else { 80 });
    let host = url.host().unwrap_or("").to_ascii_lowercase();
    (scheme, host, port)
}

/// Whether this is a single name in the hub's alphabet, so that it leads nowhere as part of a path.
pub(super) fn is_plain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(fits)
}

/// Whether a file's name stays below its repository.
pub(super) fn is_below(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    let plain = !file.is_empty() && !file.contains(['\\', '\0']) && !file.ends_with('/');
    plain && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(headers: &[(&str, &str)]) -> Result<About, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: ureq::http::HeaderName = name.parse().unwrap();
            map.insert(name, value.parse().unwrap());
        }
        About::of(&map, &"http://hub/x".parse().unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn headers_of_large_files_come_first() {
        let (commit, etag) = (("x-repo-commit", "c0ffee"), ("etag", "W/\"abc\""));
        let of = |commit: &str, etag: &str, bytes| About {
            commit: commit.into(),
            etag: etag.into(),
            bytes,
        };
        assert_eq!(about(&[commit, etag]), Ok(of("c0ffee", "abc", None)));
        let linked = [
            commit,
            etag,
            ("x-linked-etag", "\"def\""),
            ("x-linked-size", "7"),
        ];
        assert_eq!(about(&linked), Ok(of("c0ffee", "def", Some(7))));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let commit = ("x-repo-commit", "c0ffee");
        let long = "a".repeat(300);
        for etag in [
            "../x",
            "\"..\"",
            "",
            "\"\"",
            "/etc/x",
            "a b",
            "x.incomplete",
            &long,
        ] {
            let error = about(&[commit, ("etag", etag)]).unwrap_err();
            assert!(error.contains("the header ETag: found"), "{error}");
        }
        for commit in ["..", "../x", "a/b", "", &long] {
            let error = about(&[("etag", "x"), ("x-repo-commit", commit)]).unwrap_err();
            assert!(error.contains("the header X-Repo-Commit: found"), "{error}");
        }
        assert!(about(&[commit]).unwrap_err().contains("ETag: found none"));
        for size in ["-1", "+1", "1e3", " 5", "99999999999999999999999"] {
            let error = about(&[commit, ("etag", "x"), ("x-linked-size", size)]).unwrap_err();
            assert!(error.contains("X-Linked-Size"), "{error}");
        }
        let huge = u64::MAX.to_string();
        let error = about(&[commit, ("etag", "x"), ("x-linked-size", &huge)]).unwrap_err();
        assert!(error.contains("at most 4398046511104"), "{error}");
        for file in ["../x", "/x", "", "a/../x", "..", "a/./../b", "a\\b", "a/"] {
            assert!(!is_below(file), "{file}");
        }
        assert!(is_below("a/b..c/.d"));
    }

    #[test]
    fn ranges_are_those_of_http() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 10)));
        for wrong in [
            "bytes 5-10/10",
            "bytes 9-5/10",
            "bytes */10",
            "5-9/10",
            "bytes 5-9/*",
        ] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn redirects_lead_where_browsers_go() {
        let base: Uri = "https://hub:8443/a/b?x=1".parse().unwrap();
        let to =
            |location: &str| redirect(&base, Some(location.as_bytes())).map(|url| url.to_string());
        for (location, expected) in [
            ("/c", "https://hub:8443/c"),
            ("c", "https://hub:8443/a/c"),
            ("?y", "https://hub:8443/a/b?y"),
            ("//cdn/c#part", "https://cdn/c"),
            ("http://cdn/c?s=a:b/c", "http://cdn/c?s=a:b/c"),
        ] {
            assert_eq!(to(location).unwrap(), expected);
        }
        for wrong in [
            "file:///etc/passwd",
            "ftp://x/y",
            "",
            "http://",
            "mailto:x",
            "http://[/",
        ] {
            let error = to(wrong).unwrap_err().to_string();
            assert!(error.contains("which is no address"), "{error}");
        }
        let error = redirect(&base, None).unwrap_err().to_string();
        assert_eq!(error, "https://hub:8443/a/b: a redirect without a Location");
        assert!(redirect(&base, Some(b"/\xff\xfe")).is_err());
    }

    #[test]
    fn another_port_or_scheme_is_another_origin() {
        let of = |url: &str| origin(&url.parse().unwrap());
        assert_eq!(of("https://HUB.co/x"), of("https://hub.co:443/y"));
        assert_ne!(of("https://hub.co"), of("http://hub.co"));
        assert_ne!(of("https://hub.co"), of("https://hub.co:8443"));
        assert_ne!(of("https://hub.co"), of("https://hub.co.evil"));
        assert_ne!(of("https://hub.co"), of("https://hub.co@evil/"));
    }

    #[test]
    fn a_signed_address_is_shown_without_its_signature() {
        let url = "https://me:secret@cdn/file?X-Amz-Signature=secret"
            .parse()
            .unwrap();
        assert_eq!(shown(&url), "https://cdn/file");
    }
}
