//! One request and its answer over HTTP, which can be broken off while it waits.

use super::POLL;
use super::answer::retry_after;
use std::io::Read;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};
use ureq::Agent;
use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use ureq::http::{HeaderValue, Uri};

/// Most bytes of an answer that are read: 1 MiB.
pub(super) const MAX_ANSWER_BYTES: usize = 1 << 20;
/// The longest wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A request.
pub(super) struct Call {
    pub(super) uri: Uri,
    /// The whole header.
    pub(super) key: Option<HeaderValue>,
    pub(super) body: Vec<u8>,
    pub(super) timeout: Duration,
    /// Whether the environment may name a proxy.
    pub(super) uses_proxy: bool,
}

/// The server's answer, of any status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    /// Empty if it is longer than [`MAX_ANSWER_BYTES`].
    pub(super) body: Vec<u8>,
}

/// Sends a request and waits for the answer. `None` if `stop` says so first, `Err` with the reason
/// if none came.
///
/// A thread of its own waits, since neither the lookup of a host's name nor the set-up of a
/// connection can be broken off. Such a thread ends by itself after at most 10 s for each.
pub(super) fn post(call: &Arc<Call>, stop: &dyn Fn() -> bool) -> Option<Result<Answer, String>> {
    let connect_within = call.timeout.min(CONNECT_WITHIN);
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(call.timeout))
        .timeout_resolve(Some(connect_within))
        .timeout_connect(Some(connect_within))
        // A connection that brought more than it should is not used again.
        .max_idle_connections(0);
    if !call.uses_proxy {
        config = config.proxy(None);
    }
    let agent: Agent = config.build().into();
    let (sender, receiver) = mpsc::sync_channel(1);
    let spawned = thread::Builder::new().name("completion".into()).spawn({
        let (agent, call) = (agent.clone(), Arc::clone(call));
        // Nobody may listen any more.
        move || drop(sender.send(send(&agent, &call).map_err(|error| reason(&error, call.timeout))))
    });
    let thread = match spawned {
        Ok(thread) => thread,
        Err(error) => return Some(Err(format!("no thread: {error}"))),
    };
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(answer) => {
                drop(thread.join());
                return Some(answer);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Some(Err("the request broke off".into()));
            }
            Err(mpsc::RecvTimeoutError::Timeout) if stop() => {
                agent.shutdown();
                if receiver.recv_timeout(POLL).is_ok() {
                    drop(thread.join());
                }
                return None;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
}

fn send(agent: &Agent, call: &Call) -> Result<Answer, ureq::Error> {
    let mut request = agent
        .post(&call.uri)
        .header(USER_AGENT, concat!("lapidary/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT_ENCODING, "identity")
        .header(CONTENT_TYPE, "application/json");
    if let Some(key) = &call.key {
        request = request.header(AUTHORIZATION, key);
    }
    let (parts, body) = request.send(&call.body[..])?.into_parts();
    let mut bytes = Vec::new();
    body.into_reader()
        .take(MAX_ANSWER_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > MAX_ANSWER_BYTES {
        bytes.clear();
    }
    let asked = parts.headers.get(RETRY_AFTER);
    Ok(Answer {
        status: parts.status.as_u16(),
        retry_after: asked
            .and_then(|value| value.to_str().ok())
            .and_then(|value| retry_after(value, SystemTime::now())),
        body: bytes,
    })
}

fn reason(error: &ureq::Error, timeout: Duration) -> String {
    match error {
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            format!("no connection within {:?}", timeout.min(CONNECT_WITHIN))
        }
        ureq::Error::Timeout(_) => format!("not whole within {timeout:?}"),
        error => error.to_string(),
    }
}
