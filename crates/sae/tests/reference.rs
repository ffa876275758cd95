//! docs/reference/recipe.md has the keys of recipes as the program declares them.

use std::path::Path;

const BEGIN: &str = "<!-- recipe keys: begin -->\n";
const END: &str = "<!-- recipe keys: end -->";

#[test]
fn the_reference_page_has_the_keys_as_they_are() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/recipe.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let expected = format!("\n{}\n", lapidary_sae::recipe::reference());
    if std::env::var_os("LAPIDARY_WRITE_DOCS").is_some() {
        let text = format!("{before}{BEGIN}{expected}{END}{after}");
        std::fs::write(&page, text).unwrap();
        return;
    }
    assert!(
        found == expected,
        "docs/reference/recipe.md is not what the keys say: LAPIDARY_WRITE_DOCS=1 cargo test --workspace --test reference rewrites it"
    );
}
