//! A client for chat completions of an OpenAI-compatible HTTP endpoint, which asks again where that
//! may help.
//!
//! The key goes into the header `Authorization` and nowhere else. Redirects are not followed.

use super::prompts::Message;
use crate::FeaturesError;
use answer::{Completion, completion, digest, printable, request_body, server_message};
use exchange::{Answer, Call, post};
use pace::{Pace, sleep_until};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::http::{HeaderValue, Uri};

mod answer;
mod exchange;
mod pace;
#[cfg(test)]
pub(super) mod stub;
#[cfg(test)]
mod tests;

/// How often a wait looks at its stop flag.
pub(super) const POLL: Duration = Duration::from_millis(100);
/// The longest wait before another attempt, unless the server asks for a longer one.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);
/// The longest wait that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(86_400);
const PATH: &str = "/chat/completions";

/// Where chat completions come from and how they are asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointConfig {
    /// Address, `http` or `https`: a base such as `https://api.openai.com/v1`, or all of it up to
    /// `/chat/completions`.
    pub url: String,
    /// Name of the model.
    pub model: String,
    /// Environment variable that holds the key. No key is sent if it is unset or empty, or with
    /// `None`.
    pub key_variable: Option<String>,
    /// Allows a key to go unencrypted (`http`) to another machine.
    pub allow_plain_http: bool,
    /// Longest time per attempt, from the connection to the end of the reply.
    pub timeout: Duration,
    /// Attempts after the first that fails.
    pub retries: u32,
    /// Wait before the second attempt; it doubles with each further one, up to 30 s.
    pub first_wait: Duration,
    /// Most attempts per minute, all threads together, evenly spaced; `None` for no limit.
    pub max_requests_per_minute: Option<u32>,
    /// Sampling temperature.
    pub temperature: f64,
    /// Most tokens of a reply.
    pub max_tokens: u32,
}

impl EndpointConfig {
    /// Defaults: the key in `OPENAI_API_KEY`, 120 s per attempt, 5 retries from 0.5 s on, no limit
    /// per minute, temperature 0 and 500 tokens.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        EndpointConfig {
            url: url.into(),
            model: model.into(),
            key_variable: Some("OPENAI_API_KEY".into()),
            allow_plain_http: false,
            timeout: Duration::from_secs(120),
            retries: 5,
            first_wait: Duration::from_millis(500),
            max_requests_per_minute: None,
            temperature: 0.0,
            max_tokens: 500,
        }
    }
}

/// What the model replied to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The text. `None` if the last attempt, too, gave no text: a body that is no JSON or longer
    /// than 1 MiB, no choices, no content.
    pub text: Option<String>,
    /// Tokens read, as the server counts them; 0 if it does not say. Includes earlier attempts
    /// that gave no text.
    pub prompt_tokens: u64,
    /// Tokens written, counted likewise.
    pub completion_tokens: u64,
}

/// An endpoint that is ready to be asked, from any number of threads.
pub struct Endpoint {
    config: EndpointConfig,
    uri: Uri,
    /// Whether the host is this machine.
    is_loopback: bool,
    key: Option<String>,
    pace: Pace,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &shown(&self.uri))
            .field("model", &self.config.model)
            .field("has_key", &self.key.is_some())
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Checks the config and reads the key from its environment variable. Sends nothing.
    ///
    /// # Errors
    /// When the address is no `http` or `https` one or holds a password, a key would go unencrypted
    /// to another machine, the key is no text that a header can hold, or a figure of the config is
    /// out of range.
    pub fn new(config: EndpointConfig) -> Result<Self, FeaturesError> {
        let key = match &config.key_variable {
            Some(name) => match std::env::var_os(name).map(|key| key.into_string()) {
                Some(Ok(key)) => Some(key),
                Some(Err(_)) => return Err(unusable_key()),
                None => None,
            },
            None => None,
        };
        Endpoint::with_key(config, key.as_deref())
    }

    /// With a key that is given, for [`Endpoint::new`] and for tests.
    pub(super) fn with_key(
        config: EndpointConfig,
        key: Option<&str>,
    ) -> Result<Self, FeaturesError> {
        let key = key.map(str::trim).filter(|key| !key.is_empty());
        if let Some(key) = key {
            header(key)?;
        }
        let (uri, is_loopback) = address(&config.url)?;
        if config.timeout.is_zero() || config.timeout > LONGEST_TIMEOUT {
            let found = format!("{:?}", config.timeout);
            return Err(input("timeout", found, "more than 0 s and at most a day"));
        }
        if config.max_requests_per_minute == Some(0) {
            return Err(input("max_requests_per_minute", "0", "at least 1"));
        }
        if config.max_tokens == 0 {
            return Err(input("max_tokens", "0", "at least 1"));
        }
        if !(config.temperature >= 0.0 && config.temperature.is_finite()) {
            let found = config.temperature.to_string();
            return Err(input("temperature", found, "a number, 0 or more"));
        }
        let is_plain = uri.scheme_str() == Some("http");
        if key.is_some() && is_plain && !is_loopback && !config.allow_plain_http {
            return Err(input(
                "endpoint",
                format!("a key for {}, unencrypted", shown(&uri)),
                "an https address, no key, or allow_plain_http",
            ));
        }
        Ok(Endpoint {
            pace: Pace::new(config.max_requests_per_minute),
            key: key.map(str::to_owned),
            config,
            uri,
            is_loopback,
        })
    }

    /// The config from which the endpoint was made.
    pub fn config(&self) -> &EndpointConfig {
        &self.config
    }

    /// A digest of the address and of all that a request for these messages sends but the key, as
    /// 16 hexadecimal digits.
    pub fn digest(&self, messages: &[Message]) -> String {
        let body = request_body(&self.config, messages);
        digest(&[self.uri.to_string().as_bytes(), b"\n", &body])
    }

    /// Asks for a completion. `None` if `stop` says so first; it is asked every 100 ms, whatever is
    /// waited for.
    ///
    /// Asks again after the statuses 408, 429, 500, 502, 503 and 504, failures of the connection,
    /// and replies without text. The waits double from one attempt to the next, unless the server
    /// names one (`Retry-After`); that one holds for all threads.
    ///
    /// # Errors
    /// At once with any other status but success, or when the server asks for a wait of more than
    /// an hour; after the last attempt with whatever it failed. The message holds at most 300
    /// characters of the server's.
    pub fn complete(
        &self,
        messages: &[Message],
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Reply>, FeaturesError> {
        let call = Arc::new(Call {
            uri: self.uri.clone(),
            key: self.key.as_deref().map(header).transpose()?,
            body: request_body(&self.config, messages),
            timeout: self.config.timeout,
            uses_proxy: !self.is_loopback,
        });
        let (mut prompt_tokens, mut completion_tokens) = (0_u64, 0_u64);
        let mut back_off = self.config.first_wait.min(LONGEST_BACK_OFF);
        let mut retries = self.config.retries;
        loop {
            if !self.pace.wait_for_turn(stop) {
                return Ok(None);
            }
            let Some(answer) = post(&call, stop) else {
                return Ok(None);
            };
            let mut pause = None;
            let outcome = match answer {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    let Completion { text, prompt, made } = completion(&answer.body);
                    prompt_tokens = prompt_tokens.saturating_add(prompt);
                    completion_tokens = completion_tokens.saturating_add(made);
                    let reply = Reply {
                        text,
                        prompt_tokens,
                        completion_tokens,
                    };
                    if reply.text.is_some() {
                        return Ok(Some(reply));
                    }
                    Ok(Some(reply))
                }
                Ok(answer) if is_transient(answer.status) => {
                    pause = answer.retry_after;
                    Err(self.refusal(&answer))
                }
                Ok(answer) => return Err(self.refusal(&answer)),
                Err(reason) => Err(self.failure(&reason)),
            };
            if retries == 0 || pause.is_some_and(|pause| pause > LONGEST_PAUSE) {
                return outcome;
            }
            retries -= 1;
            match pause {
                Some(pause) => self.pace.pause(pause),
                None => {
                    if !sleep_until(Instant::now() + back_off, stop) {
                        return Ok(None);
                    }
                    back_off = (back_off * 2).min(LONGEST_BACK_OFF);
                }
            }
        }
    }

    /// The server answered, but not with a completion.
    fn refusal(&self, answer: &Answer) -> FeaturesError {
        let message = self.printable(&server_message(&answer.body));
        let mut found = format!("status {} from {}", answer.status, shown(&self.uri));
        if let Some(pause) = answer.retry_after.filter(|pause| !pause.is_zero()) {
            found += &format!(", to be asked again in {} s", pause.as_secs());
        }
        if !message.is_empty() {
            found += &format!(", which says \"{message}\"");
        }
        let expected = match (answer.status, &self.config.key_variable) {
            (401 | 403, Some(name)) if self.key.is_none() => {
                return input("endpoint", found, format!("a key in the variable {name}"));
            }
            (401 | 403, _) => "a key that the endpoint accepts",
            (404, _) => "an address and a model that the server has",
            (429, _) => "no more requests than the server allows (max_requests_per_minute)",
            (300..=399, _) => "an address that does not redirect",
            _ => "a completion",
        };
        input("endpoint", found, expected)
    }

    /// No answer came.
    fn failure(&self, reason: &str) -> FeaturesError {
        let reason = self.printable(reason);
        let found = format!("no answer from {} ({reason})", shown(&self.uri));
        input("endpoint", found, "a completion")
    }

    /// Text of others for an error: one line without the key.
    fn printable(&self, text: &str) -> String {
        printable(text, self.key.as_deref())
    }
}

fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

fn input(
    field: &'static str,
    found: impl Into<String>,
    expected: impl Into<String>,
) -> FeaturesError {
    FeaturesError::Input {
        field,
        found: found.into(),
        expected: expected.into(),
    }
}

fn unusable_key() -> FeaturesError {
    input(
        "key",
        "characters that no header can have",
        "the key as its owner shows it",
    )
}

fn header(key: &str) -> Result<HeaderValue, FeaturesError> {
    let is_text = key.bytes().all(|byte| byte.is_ascii_graphic());
    let value = HeaderValue::from_str(&format!("Bearer {key}")).ok();
    let mut value = value.filter(|_| is_text).ok_or_else(unusable_key)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The address to ask, and whether it is on this machine.
fn address(url: &str) -> Result<(Uri, bool), FeaturesError> {
    // What is wrong with the address may be a password in it: only a good one is repeated.
    let wrong = |found: &str| {
        let expected = "an address such as https://api.openai.com/v1";
        input("url", found, expected)
    };
    let uri: Uri = url.trim().parse().map_err(|_| wrong("no address"))?;
    let mut parts = uri.into_parts();
    let scheme = parts.scheme.as_ref().map(|scheme| scheme.as_str());
    if !matches!(scheme, Some("http" | "https")) {
        return Err(wrong("an address that is neither http nor https"));
    }
    let host = match &parts.authority {
        Some(authority) if authority.as_str().contains('@') => {
            return Err(wrong("an address with a user or a password"));
        }
        Some(authority) if !authority.host().is_empty() => authority.host().to_owned(),
        _ => return Err(wrong("an address without a host")),
    };
    let given = parts.path_and_query.take();
    let (path, query) = given
        .as_ref()
        .map_or(("", None), |given| (given.path(), given.query()));
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix(PATH).unwrap_or(path);
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    let whole = format!("{path}{PATH}{query}");
    parts.path_and_query = Some(whole.parse().map_err(|_| wrong("no address"))?);
    let uri = Uri::from_parts(parts).map_err(|_| wrong("no address"))?;
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host.eq_ignore_ascii_case("localhost")
        || ip.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    Ok((uri, is_loopback))
}

/// An address without its query, which may hold a key.
fn shown(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let whole = format!("{scheme}://{authority}{}", uri.path());
    whole.chars().take(200).collect()
}
