//! The figures of merit as a table for people.

use lapidary_evaluation::Metrics;
use std::fmt::Write;

/// Width of the longest bar of the histogram.
const BAR: u64 = 40;

/// The figures that are shown first.
pub const HEADLINE: [&str; 6] = [
    "ce_loss_score",
    "kl_div_score",
    "fvu",
    "cossim",
    "l0",
    "frac_alive",
];

/// The figures that are shown first, one a line.
pub fn headline(m: &Metrics) -> String {
    let rows = [
        (m.ce_loss_score, "share of the loss recovered"),
        (m.kl_div_score, "share of the divergence avoided"),
        (m.fvu, "fraction of variance unexplained"),
        (m.cossim, "cosine of activation and reconstruction"),
        (m.l0, "active a token"),
        (m.frac_alive, "share that fired at all"),
    ];
    let named = HEADLINE.into_iter().zip(rows);
    let lines = named.map(|(name, (value, meaning))| line(name, value, meaning));
    lines.collect()
}

/// All figures, one a line, in groups.
pub fn table(m: &Metrics) -> String {
    let mut text = String::new();
    let mut group = |title: &str, rows: &[(&str, f64, &str)]| {
        let _ = writeln!(text, "{title}");
        for (name, value, meaning) in rows {
            text += &line(name, *value, meaning);
        }
    };
    group(
        "Reconstruction",
        &[
            ("fvu", m.fvu, "fraction of variance unexplained"),
            ("explained_variance", m.explained_variance, "1 - fvu"),
            (
                "explained_variance_legacy",
                m.explained_variance_legacy,
                "each token's own; SAEBench's paper, Neuronpedia",
            ),
            (
                "fvu_sparsify",
                m.fvu_sparsify,
                "with each batch's mean, as sparsify",
            ),
            (
                "frac_variance_explained",
                m.frac_variance_explained,
                "without the error's mean, as dictionary_learning",
            ),
            (
                "explained_variance_saebench",
                m.explained_variance_saebench,
                "as coded there, not what it is called",
            ),
            (
                "mse",
                m.mse,
                "squared error of a token, over all dimensions",
            ),
            (
                "mse_saebench",
                m.mse_saebench,
                "as coded there: over the tokens of a batch",
            ),
            (
                "cossim",
                m.cossim,
                "cosine of activation and reconstruction",
            ),
            ("l2_norm_in", m.l2_norm_in, "norm of an activation"),
            ("l2_norm_out", m.l2_norm_out, "norm of a reconstruction"),
            ("l2_ratio", m.l2_ratio, "their ratio"),
            (
                "relative_reconstruction_bias",
                m.relative_reconstruction_bias,
                "below 1: shrinkage",
            ),
        ],
    );
    group(
        "The model with the reconstruction spliced in",
        &[
            (
                "ce_loss_score",
                m.ce_loss_score,
                "share of the loss recovered",
            ),
            (
                "ce_loss_without_sae",
                m.ce_loss_without_sae,
                "the model's own, nats",
            ),
            (
                "ce_loss_with_sae",
                m.ce_loss_with_sae,
                "with the reconstruction",
            ),
            (
                "ce_loss_with_ablation",
                m.ce_loss_with_ablation,
                "with zeros",
            ),
            (
                "kl_div_score",
                m.kl_div_score,
                "share of the divergence avoided",
            ),
            (
                "kl_div_with_sae",
                m.kl_div_with_sae,
                "with the reconstruction, nats",
            ),
            ("kl_div_with_ablation", m.kl_div_with_ablation, "with zeros"),
        ],
    );
    group(
        "Latents",
        &[
            ("l0", m.l0, "active a token"),
            ("l1", m.l1, "sum of activations a token"),
            ("frac_alive", m.frac_alive, "share that fired at all"),
            (
                "freq_over_1_percent",
                m.freq_over_1_percent,
                "share on more than 1 % of the tokens",
            ),
            (
                "freq_over_10_percent",
                m.freq_over_10_percent,
                "share on more than 10 %",
            ),
            (
                "normalized_freq_over_1_percent",
                m.normalized_freq_over_1_percent,
                "share of all firings that is theirs",
            ),
            (
                "normalized_freq_over_10_percent",
                m.normalized_freq_over_10_percent,
                "the same",
            ),
            (
                "average_max_encoder_cosine_sim",
                m.average_max_encoder_cosine_sim,
                "cosine of a latent's nearest",
            ),
            (
                "average_max_decoder_cosine_sim",
                m.average_max_decoder_cosine_sim,
                "the same of decoder rows",
            ),
        ],
    );
    if let Some(d) = &m.decoder {
        let at = |babel: &[f64], r: usize| babel.get(r - 1).copied().unwrap_or(f64::NAN);
        group(
            "Directions of the decoder",
            &[
                ("coherence", d.coherence, "largest |cosine| of two"),
                (
                    "welch_bound",
                    d.welch_bound,
                    "the least that so many can have",
                ),
                ("mean_abs_cosine", d.mean_abs_cosine, "over all pairs"),
                (
                    "max_cosine_median",
                    d.max_cosine_median,
                    "cosine of a latent's nearest: median",
                ),
                ("max_cosine_99", d.max_cosine_99, "99th percentile"),
            ],
        );
        let _ = writeln!(
            text,
            "  Babel function: sum of |cosine| with r others, {:>18} {:>14} {:>14}",
            "all", "a token's", "its largest"
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
