//! What `report.html` and the served page have in common: the style and parts of the script, put
//! into their templates.

const STYLE: &str = include_str!("../report/shared.css");
const SCRIPT: &str = include_str!("../report/shared.js");

/// A template with the shared style and script in the places that it has for them.
pub(crate) fn with_shared_parts(template: &str) -> String {
    template
        .replacen("{{shared.css}}\n", STYLE, 1)
        .replacen("{{shared.js}}\n", SCRIPT, 1)
}
