//! The environment variables of Python's `huggingface_hub`, with its precedence and its defaults.

use super::error::HubError;
use std::path::PathBuf;
use std::time::Duration;

/// Where the hub and its cache are, and what is sent along.
pub(super) struct Environment {
    /// Without a slash at its end.
    pub(super) endpoint: String,
    /// The folder of `models--owner--name` and the like.
    pub(super) cache: PathBuf,
    pub(super) token: Option<String>,
    pub(super) offline: bool,
    /// How long a server may take to begin its answer.
    pub(super) answer_within: Duration,
    /// How long a server may send nothing in the middle of its answer.
    pub(super) silence: Duration,
}

impl Environment {
    pub(super) fn read() -> Result<Self, HubError> {
        let home = std::env::home_dir();
        Self::of(|name| std::env::var(name).ok(), home)
    }

    /// `home` is the user's folder. Variables that are empty count as unset.
    fn of(get: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Self, HubError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let path = |text: &str| expanded(text, get, home.as_deref());
        let hf_home = match (get("HF_HOME"), get("XDG_CACHE_HOME")) {
            (Some(folder), _) => Some(path(&folder)),
            (None, Some(caches)) => Some(path(&caches).join("huggingface")),
            (None, None) => home.as_ref().map(|home| home.join(".cache/huggingface")),
        };
        let cache = get("HF_HUB_CACHE").or_else(|| get("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.map(|folder| path(&folder));
        let cache = cache.or_else(|| hf_home.as_ref().map(|home| home.join("hub")));
        let cache = cache.ok_or(HubError::Setting {
            name: "HF_HOME",
            found: "nothing, and no home folder".into(),
            expected: "the folder for the hub's cache",
        })?;
        let token_file = get("HF_TOKEN_PATH").map(|file| path(&file));
        let token_file = token_file.or_else(|| hf_home.map(|home| home.join("token")));
        let token = match is_true(get("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
            true => None,
            false => {
                let named = get("HF_TOKEN").or_else(|| get("HUGGING_FACE_HUB_TOKEN"));
                let stored = || std::fs::read_to_string(token_file?).ok();
                named.and_then(clean).or_else(|| stored().and_then(clean))
            }
        };
        let seconds = |name: &'static str| match get(name) {
            None => Ok(Duration::from_secs(10)),
            Some(text) => match text.trim().parse() {
                Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
                _ => Err(HubError::Setting {
                    name,
                    found: format!("{text:?}"),
                    expected: "a number of seconds, 1 or more",
                }),
            },
        };
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            token,
            offline: is_true(get("HF_HUB_OFFLINE").or_else(|| get("TRANSFORMERS_OFFLINE"))),
            answer_within: seconds("HF_HUB_ETAG_TIMEOUT")?,
            silence: seconds("HF_HUB_DOWNLOAD_TIMEOUT")?,
        })
    }
}

fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|v| matches!(v.to_uppercase().as_str(), "1" | "TRUE" | "YES" | "ON"))
}

/// A token as it was meant: without the ends of lines that come with files and shells.
fn clean(token: String) -> Option<String> {
    let token = token.replace(['\r', '\n'], "");
    let token = token.trim();
    (!token.is_empty()).then(|| token.to_owned())
}

/// A path with `~`, `$NAME` and `${NAME}` filled in; names that are not set stay as they are.
fn expanded(
    text: &str,
    get: impl Fn(&str) -> Option<String>,
    home: Option<&std::path::Path>,
) -> PathBuf {
    let text = match (text.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            format!("{}{rest}", home.display())
        }
        _ => text.to_owned(),
    };
    let (mut out, mut rest) = (String::new(), text.as_str());
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (name, whole) = match rest[1..].strip_prefix('{') {
            Some(braced) => match braced.find('}') {
                Some(end) => (&braced[..end], end + 3),
                None => ("", 1),
            },
            None => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = rest[1..].find(|c| !is_name(c)).unwrap_or(rest.len() - 1);
                (&rest[1..=end], end + 1)
            }
        };
        match get(name) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[..whole]),
        }
        rest = &rest[whole..];
    }
    out.push_str(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Environment {
        let get = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Environment::of(get, Some("/home/ada".into())).unwrap()
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables: &[(&str, &str)]| of(variables).cache.display().to_string();
        let home = ("HF_HOME", "/data/hf");
        assert_eq!(cache(&[]), "/home/ada/.cache/huggingface/hub");
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/c")]), "/c/huggingface/hub");
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/c")]), "/data/hf/hub");
        assert_eq!(cache(&[home, ("HUGGINGFACE_HUB_CACHE", "/old")]), "/old");
        let newer = ("HF_HUB_CACHE", "/new");
        assert_eq!(
            cache(&[home, ("HUGGINGFACE_HUB_CACHE", "/old"), newer]),
            "/new"
        );
        assert_eq!(cache(&[home, ("HF_HUB_CACHE", "")]), "/data/hf/hub");
        assert_eq!(cache(&[("HF_HUB_CACHE", "~/hub")]), "/home/ada/hub");
        assert_eq!(
            cache(&[("HF_HUB_CACHE", "$S/${T}x/$none"), ("S", "/s"), ("T", "t")]),
            "/s/tx/$none"
        );
        assert_eq!(cache(&[("HF_HUB_CACHE", "/a$")]), "/a$");
        assert_eq!(cache(&[("HF_HUB_CACHE", "/a${b")]), "/a${b");
    }

    #[test]
    fn the_token_is_the_one_that_python_sends() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "stored\n").unwrap();
        std::fs::write(dir.path().join("elsewhere"), " other \r\n").unwrap();
        let home = dir.path().display().to_string();
        let elsewhere = dir.path().join("elsewhere").display().to_string();
        let home = ("HF_HOME", home.as_str());
        let token = |variables: &[(&str, &str)]| of(variables).token;
        let (new, old) = (("HF_TOKEN", "new\n"), ("HUGGING_FACE_HUB_TOKEN", "old"));
        assert_eq!(token(&[home]).as_deref(), Some("stored"));
        assert_eq!(
            token(&[home, ("HF_TOKEN_PATH", &elsewhere)]).as_deref(),
            Some("other")
        );
        assert_eq!(token(&[home, old]).as_deref(), Some("old"));
        assert_eq!(token(&[home, old, new]).as_deref(), Some("new"));
        assert_eq!(
            token(&[home, old, ("HF_TOKEN", "")]).as_deref(),
            Some("old")
        );
        assert_eq!(
            token(&[home, new, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes")]),
            None
        );
        assert_eq!(token(&[("HF_HOME", "/nowhere")]), None);
    }

    #[test]
    fn offline_is_what_python_takes_as_true() {
        for (name, value, expected) in [
            ("HF_HUB_OFFLINE", "1", true),
            ("HF_HUB_OFFLINE", "True", true),
            ("HF_HUB_OFFLINE", "0", false),
            ("TRANSFORMERS_OFFLINE", "on", true),
            ("OTHER", "1", false),
        ] {
            assert_eq!(of(&[(name, value)]).offline, expected, "{name}={value}");
        }
    }
}
