//! What can go wrong between the hub and its cache. Nothing here holds a token, nor the query of an
//! address, which may be signed.

use std::path::PathBuf;
use ureq::http::Uri;

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum HubError {
    #[error("no network: {host} cannot be reached ({reason})")]
    NoNetwork { host: String, reason: String },
    #[error("{url} did not answer: nothing came for {seconds} s")]
    Silent { url: String, seconds: u64 },
    #[error("{url}: the connection broke: {reason}")]
    Broken { url: String, reason: String },
    #[error("{url}: the answer is not HTTP as expected: {reason}")]
    Protocol { url: String, reason: String },
    #[error("{url} answered {status}{}", advice(*.status, *.with_token))]
    Status {
        url: String,
        status: u16,
        with_token: bool,
        /// The commit that has no such file, where the hub said so.
        absent_from: Option<String>,
    },
    #[error("{url}: a redirect {problem}")]
    Redirect { url: String, problem: String },
    #[error("{url}: the header {header}: found {found}, expected {expected}")]
    Header {
        url: String,
        header: &'static str,
        found: String,
        expected: &'static str,
    },
    #[error("{url}: found {found} bytes, expected {expected}")]
    Length {
        url: String,
        found: u64,
        expected: String,
    },
    #[error("{url}: the {algorithm} of what came is {found}, expected {expected}, the file's ETag")]
    Digest {
        url: String,
        algorithm: &'static str,
        found: String,
        expected: String,
    },
    #[error("{url}: the list of files is not the hub's JSON: {source}")]
    Listing {
        url: String,
        source: serde_json::Error,
    },
    #[error("the list of files has {found}, expected a path below the repository")]
    Name { found: String },
    #[error("the commit changed from {before} to {after} while it was fetched; run this again")]
    Changed { before: String, after: String },
    #[error("the setting {name}: found {found}, expected {expected}")]
    Setting {
        name: &'static str,
        found: String,
        expected: &'static str,
    },
    #[error("another process holds {} and fetches nothing", path.display())]
    Locked { path: PathBuf },
    #[error("{}: the hub's cache cannot be written: {source}; HF_HUB_CACHE moves it", path.display())]
    Cache {
        path: PathBuf,
        source: std::io::Error,
    },
}

fn advice(status: u16, with_token: bool) -> &'static str {
    match (status, with_token) {
        (401, false) => {
            ": there is no such repository, or it is private or gated; HF_TOKEN names a token that may read it"
        }
        (401, true) => {
            ": there is no such repository, or the token (HF_TOKEN, or the token file) may not read it"
        }
        (403, false) => ": the repository is gated; accept its terms on its page and set HF_TOKEN",
        (403, true) => {
            ": the token (HF_TOKEN, or the token file) may not read it; accept the repository's terms on its page"
        }
        (404, _) => ": there is no such file",
        (429, _) => ": too many requests; wait a few minutes, or set HF_TOKEN",
        (500.., _) => ": the server has a problem; try again later",
        _ => "",
    }
}

impl HubError {
    /// Whether another try may succeed.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Silent { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Whether the hub cannot be asked at all now.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Self::NoNetwork { .. }) || self.is_transient()
    }

    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }

    /// What a request for `url` failed with.
    pub(super) fn of(error: ureq::Error, url: &Uri, seconds: u64) -> Self {
        use std::io::ErrorKind;
        let shown = shown(url);
        let host = || {
            url.authority()
                .map_or(String::new(), |a| bare(a.as_str()).into())
        };
        let broken = |reason: String| Self::Broken {
            url: shown.clone(),
            reason,
        };
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                Self::NoNetwork {
                    host: host(),
                    reason: format!("no connection within {seconds} s"),
                }
            }
            ureq::Error::Timeout(_) => Self::Silent {
                url: shown,
                seconds,
            },
            ureq::Error::HostNotFound => Self::NoNetwork {
                host: host(),
                reason: "its name is not known".into(),
            },
            ureq::Error::Io(error) => match error.kind() {
                ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Silent {
                    url: shown,
                    seconds,
                },
                ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof => broken(error.to_string()),
                ErrorKind::InvalidData | ErrorKind::InvalidInput => Self::Protocol {
                    url: shown,
                    reason: error.to_string(),
                },
                _ => Self::NoNetwork {
                    host: host(),
                    reason: error.to_string(),
                },
            },
            ureq::Error::ConnectionFailed => Self::NoNetwork {
                host: host(),
                reason: "connection failed".into(),
            },
            ureq::Error::ConnectProxyFailed(reason) => Self::NoNetwork {
                host: host(),
                reason: format!("the proxy says {reason}"),
            },
            other => Self::Protocol {
                url: shown,
                reason: other.to_string(),
            },
        }
    }
}

/// An address without its query, which may hold a signature, and without a password.
pub(super) fn shown(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or("http");
    let authority = url.authority().map_or("", |a| bare(a.as_str()));
    let whole = format!("{scheme}://{authority}{}", url.path());
    match whole.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}

fn bare(authority: &str) -> &str {
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}
