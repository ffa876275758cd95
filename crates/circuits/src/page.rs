//! Self-contained pages.

/// A template with a title and data in JSON in the places `{{title}}` and `{{data}}`.
pub(crate) fn page(template: &str, title: &str, json: &str) -> String {
    // Inside JSON `<` stands only in strings. Without it no text can end the script element.
    let json = json.replace('<', "\\u003c");
    let title = title
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    // Split before anything is put in, so that a title `{{data}}` stays a title.
    let (head, rest) = template
        .split_once("{{title}}")
        .expect("the template has a title");
    let (body, end) = rest
        .split_once("{{data}}")
        .expect("the template has a place for the data");
    [head, &title, body, &json, end].concat()
}
