//! Metrics as tables for people.

use lapidary_evaluation::{Metric, Metrics};
use std::fmt::Write;

/// Width of the longest bar of the histogram.
const BAR: u64 = 40;

/// The metrics that are shown first.
pub const HEADLINE: [&str; 6] = Metrics::HEADLINE;

/// The metrics that are shown first, one a line.
pub fn headline(m: &Metrics) -> String {
    let shown = m.named(&HEADLINE);
    shown
        .filter_map(|(metric, value)| Some(line(metric.name, value?, metric.label)))
        .collect()
}

/// Metrics with their values, one a line, each section under its title.
pub fn sections(values: impl Iterator<Item = (&'static Metric, Option<f64>)>) -> String {
    let mut text = String::new();
    let mut section = "";
    for (metric, value) in values.filter(|(metric, _)| metric.printed) {
        if metric.section != section {
            section = metric.section;
            let _ = writeln!(text, "{section}");
        }
        if let Some(value) = value {
            text += &line(metric.name, value, metric.label);
        }
    }
    text
}

/// All metrics, one a line, in sections.
pub fn table(m: &Metrics) -> String {
    let mut text = sections(m.values());
    if let Some(d) = &m.decoder {
        let at = |babel: &[f64], r: usize| babel.get(r - 1).copied().unwrap_or(f64::NAN);
        text += &sections(d.values());
        let _ = writeln!(
            text,
            "  Babel function: sum of |cosine| with r others, {:>18} {:>14} {:>14}",
            "all rows", "token mean", "token max"
        );
        for r in [1, 2, 4, 8, 16, 32, 64] {
            if r <= d.babel.len() {
                let _ = writeln!(
                    text,
                    "  {:<32} {:>31} {:>14} {:>14}",
                    format!("r = {r}"),
                    number(at(&d.babel, r)),
                    number(at(&d.co_selected.babel_mean, r)),
                    number(at(&d.co_selected.babel_max, r)),
                );
            }
        }
    }
    if let Some(h) = &m.feature_density_histogram {
        let _ = writeln!(text, "Latents by the share of tokens on which they fire");
        let most = h
            .latents
            .iter()
            .chain([&h.never])
            .max()
            .copied()
            .unwrap_or(0)
            .max(1);
        let mut line = |label: String, n: u64| {
            let bar = "█".repeat((n * BAR).div_ceil(most) as usize);
            let _ = writeln!(text, "  {label:<22} {n:>9} {bar}");
        };
        line("never".to_owned(), h.never);
        let first = h.latents.iter().position(|n| *n > 0).unwrap_or(0);
        let last = h.latents.iter().rposition(|n| *n > 0).unwrap_or(0);
        for i in first..=last {
            let edge = |i: usize| format!("{:.1e}", 10f64.powf(h.log10_edges[i]));
            line(format!("{} to {}", edge(i), edge(i + 1)), h.latents[i]);
        }
    }
    let _ = writeln!(text, "{} tokens", m.tokens);
    text
}

/// A figure, and what it means.
pub fn line(name: &str, value: f64, meaning: &str) -> String {
    let line = format!("  {name:<32} {:>11}  {meaning}", number(value));
    format!("{}\n", line.trim_end())
}

/// Five digits, in a form that fits the size.
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".to_owned(),
        0.0 => "0".to_owned(),
        1e-3..1e5 => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_table_is_what_it_was() {
        let metrics: Metrics = serde_json::from_str(include_str!(
            "../../../../tests/fixtures/metrics/metrics.json"
        ))
        .unwrap();
        let expected = include_str!("../../../../tests/fixtures/metrics/table.txt");
        assert_eq!(
            headline(&metrics) + "\n" + &table(&metrics),
            expected,
            "the text of `lapidary eval`"
        );
    }
}
