//! What the pages have in common: the style and parts of the script, put into their templates with
//! the data.

use std::io::Write;
use std::path::Path;

use lapidary_io::write_file;
use serde::Serialize;

use crate::FeaturesError;

const STYLE: &str = include_str!("../report/shared.css");
const SCRIPT: &str = include_str!("../report/shared.js");

/// A template with the shared style and script in the places that it has for them.
pub(crate) fn with_shared_parts(template: &str) -> String {
    template
        .replacen("{{shared.css}}\n", STYLE, 1)
        .replacen("{{shared.js}}\n", SCRIPT, 1)
}

/// Writes a page that has its data in it as JSON; the file appears whole or not at all.
pub(crate) fn write_page(
    path: &Path,
    template: &str,
    title: &str,
    data: &impl Serialize,
) -> Result<(), FeaturesError> {
    let io_error = |source| FeaturesError::Write {
        path: path.into(),
        source,
    };
    let data = serde_json::to_string(data)
        .map_err(|error| io_error(error.into()))?
        // Inside JSON `<` stands only in strings. Without it no text can end the script element or
        // open a comment.
        .replace('<', "\\u003c");
    // Split before anything is put in, so that a title `{{data}}` stays a title.
    let template = with_shared_parts(template);
    let (head, body, end) = parts(&template);
    let title = escape_html(title);
    write_file(path, |file| {
        let mut page = std::io::BufWriter::new(file);
        let parts = [head, "<title>", &title, "</title>", body, &data, end];
        parts
            .iter()
            .try_for_each(|part| page.write_all(part.as_bytes()))
            .map_err(io_error)?;
        page.flush().map_err(io_error)
    })
}

/// The template before the title, between title and data, and after the data.
fn parts(template: &str) -> (&str, &str, &str) {
    let (head, rest) = template
        .split_once("<title>{{title}}</title>")
        .expect("the template has a title");
    let (body, end) = rest
        .split_once("{{data}}")
        .expect("the template has a place for the data");
    (head, body, end)
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
