//! Requests to the hub. The token goes to the endpoint and to no other host; redirects are followed
//! here, ten at most.

use super::answer::{origin, quoted, redirect, text};
use super::environment::Environment;
use super::error::{HubError, shown};
use std::time::Duration;
use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, LOCATION, RANGE, USER_AGENT};
use ureq::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use ureq::{Agent, Body};

/// Redirects in a row.
const MAX_REDIRECTS: usize = 10;
/// Waits before another try of a request that failed for the moment.
pub(super) const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// The longest answer that is read whole: 64 MiB.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

pub(super) struct Client {
    agent: Agent,
    endpoint: Uri,
    token: Option<HeaderValue>,
    silence: u64,
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Where the body comes from, after redirects.
    pub(super) url: Uri,
    /// What the endpoint itself said on the way here.
    pub(super) told: HeaderMap,
    /// What the host of the body says.
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Client {
    pub(super) fn new(environment: &Environment) -> Result<Self, HubError> {
        let wrong = |expected| HubError::Setting {
            name: "HF_ENDPOINT",
            found: format!("{:?}", environment.endpoint),
            expected,
        };
        let expected = "an address such as https://huggingface.co";
        let endpoint: Uri = environment.endpoint.parse().map_err(|_| wrong(expected))?;
        if !matches!(endpoint.scheme_str(), Some("http" | "https")) {
            return Err(wrong(expected));
        }
        let token = environment.token.as_ref().map(|token| {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            value.map_err(|_| HubError::Setting {
                name: "HF_TOKEN",
                // The token itself is nobody's to read.
                found: "characters that no header may have".into(),
                expected: "the token as the hub shows it",
            })
        });
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(environment.answer_within))
            .timeout_connect(Some(environment.answer_within))
            .timeout_recv_response(Some(environment.answer_within))
            .timeout_per_read(Some(environment.silence))
            // A connection that brought more than it should is not used again.
            .max_idle_connections(0)
            .build()
            .into();
        Ok(Self {
            agent,
            endpoint,
            token: token.transpose()?,
            silence: environment.silence.max(environment.answer_within).as_secs(),
        })
    }

    /// The address of a path below the endpoint; parts of the path are escaped.
    pub(super) fn address(&self, path: &str) -> Result<Uri, HubError> {
        let base = self.endpoint.to_string();
        let whole = format!("{}/{}", base.trim_end_matches('/'), escaped(path));
        whole.parse().map_err(|_| HubError::Name {
            found: quoted(Some(path)),
        })
    }

    /// Whether requests to the endpoint carry a token.
    fn sends_token(&self, url: &Uri) -> bool {
        self.token.is_some() && origin(url) == origin(&self.endpoint)
    }

    /// Asks once, from byte `from` on where there is one, and follows redirects.
    pub(super) fn get(&self, url: &Uri, from: Option<u64>) -> Result<Answer, HubError> {
        let mut url = url.clone();
        let mut seen = vec![];
        let mut told = HeaderMap::new();
        loop {
            let mut request = self
                .agent
                .get(&url)
                .header(USER_AGENT, concat!("lapidary/", env!("CARGO_PKG_VERSION")))
                .header(ACCEPT_ENCODING, "identity");
            if let Some(token) = self.token.as_ref().filter(|_| self.sends_token(&url)) {
                request = request.header(AUTHORIZATION, token);
            }
            if let Some(from) = from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let answer = request
                .call()
                .map_err(|error| HubError::of(error, &url, self.silence))?;
            let (parts, body) = answer.into_parts();
            let (status, headers) = (parts.status, parts.headers);
            if origin(&url) == origin(&self.endpoint) {
                for (name, value) in &headers {
                    told.insert(name, value.clone());
                }
            }
            if status.is_success() {
                return Ok(Answer {
                    status,
                    url,
                    told,
                    headers,
                    body,
                });
            }
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Err(HubError::Status {
                    absent_from: absent_from(&told),
                    with_token: self.sends_token(&url),
                    url: shown(&url),
                    status: status.as_u16(),
                });
            }
            let next = redirect(&url, headers.get(LOCATION).map(HeaderValue::as_bytes))?;
            seen.push(url.clone());
            let problem = match seen.len() {
                _ if seen.contains(&next) => Some("in a circle".to_owned()),
                hops if hops > MAX_REDIRECTS => {
                    Some(format!("too many: found more than {MAX_REDIRECTS}"))
                }
                _ => None,
            };
            if let Some(problem) = problem {
                return Err(HubError::Redirect {
                    url: shown(&url),
                    problem,
                });
            }
            url = next;
        }
    }

    /// Asks, and asks again where that may help.
    pub(super) fn get_patiently(&self, url: &Uri, from: Option<u64>) -> Result<Answer, HubError> {
        let mut waits = WAITS.iter();
        loop {
            match self.get(url, from) {
                Err(error) if error.is_transient() => match waits.next() {
                    Some(wait) => std::thread::sleep(*wait),
                    None => return Err(error),
                },
                answer => return answer,
            }
        }
    }

    /// A short answer, whole.
    pub(super) fn read(&self, url: &Uri) -> Result<Vec<u8>, HubError> {
        let answer = self.get_patiently(url, None)?;
        let body = answer.body.into_with_config().limit(MAX_ANSWER_BYTES);
        body.read_to_vec().map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => HubError::Length {
                url: shown(url),
                found: MAX_ANSWER_BYTES + 1,
                expected: format!("at most {MAX_ANSWER_BYTES}"),
            },
            error => HubError::of(error, url, self.silence),
        })
    }

    /// Why the rest of a body did not come after `have` bytes of it.
    pub(super) fn broken(
        &self,
        error: std::io::Error,
        url: &Uri,
        have: u64,
        total: Option<u64>,
    ) -> HubError {
        let expected = total.map_or("more".into(), |total| total.to_string());
        match HubError::of(error.into(), url, self.silence) {
            // The connection stood already, so there is a network.
            HubError::NoNetwork { reason, .. } | HubError::Broken { reason, .. } => {
                HubError::Broken {
                    url: shown(url),
                    reason: format!("{reason}; found {have} bytes, expected {expected}"),
                }
            }
            error => error,
        }
    }
}

/// The commit that has no such file, as the hub says with a 404.
fn absent_from(headers: &HeaderMap) -> Option<String> {
    let is_entry = text(headers, "x-error-code") == Some("EntryNotFound");
    let commit = text(headers, "x-repo-commit").filter(|c| super::answer::is_plain(c));
    commit.filter(|_| is_entry).map(str::to_owned)
}

/// A path for an address: everything but letters, digits, `/` and a few marks in percent signs.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            true => out.push(byte.into()),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped("a/b c?#ü.txt"), "a/b%20c%3F%23%C3%BC.txt");
        assert_eq!(escaped("a/b-c_d.e~f"), "a/b-c_d.e~f");
    }
}
