//! Downloads from the hub as progress bars on standard error, where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use lapidary_model::{Download, on_download};
use std::sync::Mutex;

/// Shows every download of this process.
pub fn show() {
    let current: Mutex<Option<ProgressBar>> = Mutex::new(None);
    on_download(move |download| {
        // A bar that cannot be drawn is no reason to stop.
        let Ok(mut current) = current.lock() else {
            return;
        };
        match download.finished {
            true => drop(current.take().map(|bar| bar.finish_and_clear())),
            false => current
                .get_or_insert_with(|| bar(download))
                .set_position(download.bytes),
        }
    });
}

fn bar(download: &Download) -> ProgressBar {
    let (bar, template) = match download.total {
        Some(total) => (
            ProgressBar::new(total),
            "{prefix:>10} {bar:30} {percent:>3}%  {msg}  {bytes} of {total_bytes}  ({eta} left)",
        ),
        None => (ProgressBar::no_length(), "{prefix:>10}  {msg}  {bytes}"),
    };
    let style = ProgressStyle::with_template(template).expect("the template is fixed");
    bar.set_style(style.progress_chars("━╸─"));
    bar.set_prefix("fetch");
    bar.set_message(format!("{} {}", download.repository, download.file));
    bar
}
