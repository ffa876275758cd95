//! The tables of `docs/reference/metrics.md` are those of the registry.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use lapidary_evaluation::{Metric, REGISTRY};

const PAGE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/reference/metrics.md"
);

const REWRITE: &str = "LAPIDARY_WRITE_DOCS=1 cargo test --workspace --test registry";

#[test]
fn the_reference_page_has_the_metrics_of_the_registry() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let mut expected = page.clone();
    for (of, metrics) in REGISTRY {
        let begin = format!("<!-- {of}: written by {REWRITE} -->");
        let end = format!("<!-- end of {of} -->");
        let halves = expected.split_once(&begin).and_then(|(head, rest)| {
            let (_, tail) = rest.split_once(&end)?;
            Some((head, tail))
        });
        let Some((head, tail)) = halves else {
            panic!("docs/reference/metrics.md lacks `{begin}` or `{end}` after it");
        };
        expected = format!("{head}{begin}\n{}\n{end}{tail}", tables(metrics));
    }
    if std::env::var_os("LAPIDARY_WRITE_DOCS").is_some() {
        std::fs::write(PAGE, expected).unwrap();
        return;
    }
    assert!(
        page == expected,
        "docs/reference/metrics.md differs from the registry of metrics; to rewrite it: {REWRITE}"
    );
}

/// One Markdown table per section.
fn tables(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for section in metrics.chunk_by(|a, b| a.section == b.section) {
        if !section[0].section.is_empty() && section.len() < metrics.len() {
            let _ = writeln!(text, "\n### {}", section[0].section);
        }
        text += "\n| metric | definition | unit | the same elsewhere |\n|---|---|---|---|\n";
        for metric in section {
            let cells = [metric.definition, metric.unit, metric.source];
            let cells = cells.map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(text, "| `{}` | {} |", metric.name, cells.join(" | "));
        }
    }
    text
}
