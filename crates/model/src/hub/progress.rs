//! How far a download is, told to whoever asked.

use std::sync::OnceLock;

/// A file that is being fetched from the hub.
#[derive(Debug, Clone, Copy)]
pub struct Download<'a> {
    /// `owner/name`.
    pub repository: &'a str,
    /// Its path in the repository.
    pub file: &'a str,
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes of the whole file, where the hub says so.
    pub total: Option<u64>,
    /// Whether nothing more will come, be it that the file is whole or that it failed.
    pub finished: bool,
}

type Hook = Box<dyn Fn(&Download) + Send + Sync>;

static HOOK: OnceLock<Hook> = OnceLock::new();

/// Calls `hook` whenever some of a file has come from the hub, about once a mebibyte. This library
/// prints nothing itself. The first hook of a process stays.
pub fn on_download(hook: impl Fn(&Download) + Send + Sync + 'static) {
    drop(HOOK.set(Box::new(hook)));
}

pub(super) fn report(download: &Download) {
    if let Some(hook) = HOOK.get() {
        hook(download);
    }
}
