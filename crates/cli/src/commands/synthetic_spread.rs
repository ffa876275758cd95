//! Means of the metrics of several seeds, with their standard errors.

use std::fmt::Write;

use anyhow::Result;
use lapidary_evaluation::Metric;
use lapidary_evaluation::synthetic::Recovery;
use serde_json::{Map, Value, json};

use super::figures::number;

/// The mean of some values and its standard error, the standard deviation (n − 1) over √n; n is at
/// least 2.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

/// Each metric that all seeds have, with its mean and standard error.
fn means(seeds: &[Recovery]) -> Vec<(&'static Metric, f64, f64)> {
    let of_each: Vec<Vec<(&'static Metric, Option<f64>)>> =
        seeds.iter().map(|seed| seed.values().collect()).collect();
    let metrics = of_each[0].iter().enumerate();
    metrics
        .filter_map(|(at, (metric, _))| {
            let values = of_each.iter().map(|seed| seed[at].1);
            let values: Vec<f64> = values.collect::<Option<_>>()?;
            let (mean, error) = mean_and_error(&values);
            Some((*metric, mean, error))
        })
        .collect()
}

/// One metric a line, as `mean ± standard error`.
pub fn table(seeds: &[Recovery]) -> String {
    let mut text = format!("{} seeds: mean ± standard error\n", seeds.len());
    for (metric, mean, error) in means(seeds) {
        if metric.printed {
            let (mean, error) = (number(mean), number(error));
            let line = format!(
                "  {:<32} {mean:>11} ± {error:<9}  {}",
                metric.name, metric.label
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

/// What goes into `recovery.json`: the metrics of each seed, their means and standard errors.
pub fn json(seeds: &[Recovery]) -> Result<Value> {
    let (mut of_mean, mut of_error) = (Map::new(), Map::new());
    for (metric, mean, error) in means(seeds) {
        of_mean.insert(metric.name.to_owned(), json!(mean));
        of_error.insert(metric.name.to_owned(), json!(error));
    }
    Ok(json!({ "seeds": seeds, "mean": of_mean, "standard_error": of_error }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_have_the_standard_error_of_the_mean() {
        // 1, 2, 3, 4: standard deviation √(5/3), over √4.
        let (mean, error) = mean_and_error(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(mean, 2.5);
        assert!((error - (5.0_f64 / 3.0).sqrt() / 2.0).abs() < 1e-12);
        let one: Recovery = serde_json::from_str(include_str!(
            "../../../../tests/fixtures/metrics/recovery.json"
        ))
        .unwrap();
        let mut other = one.clone();
        other.mcc = one.mcc - 0.1;
        other.parent_child_cosine = None;
        let all = json(&[one.clone(), other.clone()]).unwrap();
        let found = all["mean"]["mcc"].as_f64().unwrap();
        assert!((found - one.mcc + 0.05).abs() < 1e-12);
        let found = all["standard_error"]["mcc"].as_f64().unwrap();
        assert!((found - 0.05).abs() < 1e-12);
        assert_eq!(all["seeds"].as_array().unwrap().len(), 2);
        assert!(all["mean"].get("parent_child_cosine").is_none());
        let text = table(&[one, other]);
        assert!(text.starts_with("2 seeds"));
        assert!(
            text.lines()
                .any(|l| l.contains("mcc") && l.contains("± 0.0500")),
            "{text}"
        );
    }
}
