//! What the first batch of activations tells about the rest: sizes, a mean that outweighs the
//! spread, dimensions that dominate, tokens with outsized norms, and what to do about it.

use crate::harvest::harvest_all;
use crate::{ActivationsError, BlockStream, DEFAULT_NORM_MULTIPLE, Exclusion, TokenBlock};
use lapidary_model::HookPoint;
use serde::Serialize;

/// Dimensions and outliers listed.
const LISTED: usize = 5;

/// Activations at one hook point, on one batch of text. Special tokens (BOS, EOS) count among the
/// outliers only.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FirstBatch {
    /// The hook point.
    pub hook_point: String,
    /// Activations that the figures are of.
    pub tokens: usize,
    /// Width.
    pub d_in: usize,
    /// Mean, population standard deviation, median and highest of the norms.
    pub mean_norm: f64,
    /// See [`Self::mean_norm`].
    pub std_norm: f64,
    /// See [`Self::mean_norm`].
    pub median_norm: f64,
    /// See [`Self::mean_norm`].
    pub max_norm: f64,
    /// Norm of the mean activation over the root of the mean squared norm, 0 to 1.
    pub mean_over_rms: f64,
    /// Norm of the mean activation over the root of the mean squared distance from it.
    pub mean_over_std: f64,
    /// The dimensions with the largest share of the variance, largest first.
    pub dominant_dimensions: Vec<Dimension>,
    /// Tokens whose norm is above so many times the median as the rule leaves out, or
    /// [`DEFAULT_NORM_MULTIPLE`] times; special ones included.
    pub outliers: usize,
    /// How many of them are special tokens.
    pub special_outliers: usize,
    /// The largest of them.
    pub largest_outliers: Vec<Outlier>,
    /// What to do, in words.
    pub advice: Vec<String>,
}

/// A dimension's share of the variance of all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dimension {
    /// Its index.
    pub dimension: usize,
    /// Its share, 0 to 1.
    pub share_of_variance: f64,
}

/// A token with an outsized norm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outlier {
    /// The token.
    pub token: u32,
    /// Its text.
    pub text: String,
    /// Its place in its sequence, from 0.
    pub position: usize,
    /// Its norm over the median norm.
    pub times_median: f64,
}

/// One token of the batch.
struct Row<'a> {
    values: &'a [f32],
    token: u32,
    position: usize,
    special: bool,
}

impl FirstBatch {
    /// Reports on the next `n` blocks of a stream, which it still gives later: one report a hook
    /// point, by one forward pass. `rule` says what will be left out.
    ///
    /// # Errors
    /// When the corpus holds no block, or the model fails.
    pub fn of(
        stream: &mut BlockStream,
        hooks: &[HookPoint],
        n: usize,
        rule: &Exclusion,
    ) -> Result<Vec<Self>, ActivationsError> {
        let model = stream.model().clone();
        let blocks = stream.read_ahead(n)?;
        if blocks.is_empty() {
            return Err(ActivationsError::TooShort {
                corpus: stream.config().corpus.clone(),
                found: 0,
                context: stream.config().context,
                needed: 1,
            });
        }
        let tokenizer = model.tokenizer()?;
        let tokens: Vec<u32> = blocks.iter().flat_map(|b| &b.tokens).copied().collect();
        let positions: Vec<usize> = blocks.iter().flat_map(TokenBlock::positions).collect();
        let values = harvest_all(&model, hooks, blocks)?;
        let report = |(hook, value): (&HookPoint, burn::tensor::Tensor<2>)| {
            let d = value.dims()[1];
            let values: Vec<f32> = value.into_data().try_to_vec().expect("activations are f32");
            let rows: Vec<Row<'_>> = values
                .chunks_exact(d)
                .zip(&tokens)
                .enumerate()
                .map(|(i, (values, token))| Row {
                    values,
                    token: *token,
                    position: positions[i],
                    special: model.is_special(*token),
                })
                .collect();
            Self::of_rows(&hook.to_string(), &rows, rule, &|token| {
                tokenizer.token_text(token)
            })
        };
        Ok(hooks.iter().zip(values).map(report).collect())
    }

    fn of_rows(
        hook: &str,
        rows: &[Row<'_>],
        rule: &Exclusion,
        text: &dyn Fn(u32) -> String,
    ) -> Self {
        let limit = f64::from(rule.norm_multiple.unwrap_or(DEFAULT_NORM_MULTIPLE));
        let norm = |row: &Row<'_>| {
            row.values
                .iter()
                .map(|x| f64::from(*x).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        // A batch of nothing but special tokens is better described than not.
        let only_special = rows.iter().all(|row| row.special);
        let kept: Vec<&Row<'_>> = rows
            .iter()
            .filter(|row| only_special || !row.special)
            .collect();
        let (n, d) = (
            kept.len().max(1) as f64,
            rows.first().map_or(0, |row| row.values.len()),
        );
        let mut norms: Vec<f64> = kept.iter().map(|row| norm(row)).collect();
        norms.sort_by(f64::total_cmp);
        let mean_norm = norms.iter().sum::<f64>() / n;
        let std_norm = (norms.iter().map(|x| (x - mean_norm).powi(2)).sum::<f64>() / n).sqrt();
        let median_norm = norms.get(norms.len() / 2).copied().unwrap_or(0.0);
        let (mut mean, mut variance) = (vec![0.0; d], vec![0.0; d]);
        for row in &kept {
            for (m, x) in mean.iter_mut().zip(row.values) {
                *m += f64::from(*x) / n;
            }
        }
        for row in &kept {
            for ((v, m), x) in variance.iter_mut().zip(&mean).zip(row.values) {
                *v += (f64::from(*x) - m).powi(2) / n;
            }
        }
        let total: f64 = variance.iter().sum();
        let mean_vector = mean.iter().map(|m| m * m).sum::<f64>().sqrt();
        let rms = norms.iter().map(|x| x * x / n).sum::<f64>().sqrt();
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let mut dominant: Vec<Dimension> = variance
            .iter()
            .enumerate()
            .map(|(dimension, v)| Dimension {
                dimension,
                share_of_variance: ratio(*v, total),
            })
            .collect();
        dominant.sort_by(|a, b| b.share_of_variance.total_cmp(&a.share_of_variance));
        dominant.truncate(LISTED);
        let mut outliers: Vec<(f64, &Row<'_>)> = rows
            .iter()
            .map(|row| (ratio(norm(row), median_norm), row))
            .filter(|(times, _)| *times > limit)
            .collect();
        outliers.sort_by(|a, b| b.0.total_cmp(&a.0));
        let special_outliers = outliers.iter().filter(|(_, row)| row.special).count();
        let first = outliers
            .iter()
            .filter(|(_, row)| !row.special && row.position < 2)
            .count();
        let others = outliers.len() - special_outliers - first;
        let largest_outliers = outliers
            .iter()
            .take(LISTED)
            .map(|(times, row)| Outlier {
                token: row.token,
                text: text(row.token),
                position: row.position,
                times_median: *times,
            })
            .collect();
        let mut report = Self {
            hook_point: hook.into(),
            tokens: kept.len(),
            d_in: d,
            mean_norm,
            std_norm,
            median_norm,
            max_norm: norms.last().copied().unwrap_or(0.0),
            mean_over_rms: ratio(mean_vector, rms),
            mean_over_std: ratio(mean_vector, total.sqrt()),
            dominant_dimensions: dominant,
            outliers: outliers.len(),
            special_outliers,
            largest_outliers,
            advice: vec![],
        };
        report.advice = report.advise(first, others, rule);
        report
    }

    fn advise(&self, first: usize, others: usize, rule: &Exclusion) -> Vec<String> {
        let mut advice = vec![];
        if self.mean_over_std > 1.0 {
            advice.push(format!(
                "the mean activation is {:.1} times the spread around it: centre (activations.normalization = \"mean_centred\"), or let b_dec start at the mean",
                self.mean_over_std
            ));
        }
        // Nothing about special tokens and norms: to leave out the first and to normalize are
        // defaults.
        let tokens = |n: usize| match n {
            1 => "1 token".to_owned(),
            n => format!("{n} tokens"),
        };
        let have = |n: usize| if n == 1 { "has" } else { "have" };
        match rule.norm_multiple {
            Some(multiple) if first + others > 0 => advice.push(format!(
                "{} {} more than {multiple} times the median norm, as attention sinks do, and will be left out (activations.exclude.norm_multiple)",
                tokens(first + others),
                have(first + others)
            )),
            Some(_) => {}
            None => {
                if first > 0 {
                    advice.push(format!(
                        "{} at the beginning of a sequence {} more than {DEFAULT_NORM_MULTIPLE} times the median norm, as attention sinks do: leave the first out (activations.exclude.first_positions, harvest --skip-first)",
                        tokens(first), have(first)
                    ));
                }
                if others > 0 {
                    advice.push(format!(
                        "{} elsewhere {} more than {DEFAULT_NORM_MULTIPLE} times the median norm: leave such out (activations.exclude.norm_multiple = {DEFAULT_NORM_MULTIPLE}, harvest --max-norm {DEFAULT_NORM_MULTIPLE})",
                        tokens(others), have(others)
                    ));
                }
            }
        }
        let share: f64 = self
            .dominant_dimensions
            .iter()
            .map(|d| d.share_of_variance)
            .sum();
        if share > 0.5 && self.d_in > 4 * LISTED {
            advice.push(format!(
                "{} dimensions have {:.0} % of the variance: explained variance will mostly tell how well those are rebuilt",
                self.dominant_dimensions.len(),
                100.0 * share
            ));
        }
        advice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_planted_batch_are_those_of_the_closed_form() {
        // d 30: the mean (3, 4, 0, ..), and ±1 in dimension 2; a BOS and a sink.
        let row = |sign: f32, scale: f32| {
            let mut values = vec![0.0; 30];
            (values[0], values[1], values[2]) = (3.0 * scale, 4.0 * scale, sign * scale);
            values
        };
        let values: Vec<Vec<f32>> = (0..40)
            .map(|i| row(if i % 2 == 0 { 1.0 } else { -1.0 }, 1.0))
            .collect();
        let (bos, sink) = (row(1.0, 100.0), row(1.0, 20.0));
        let all = Exclusion {
            norm_multiple: None,
            ..Exclusion::default()
        };
        let ordinary = values.iter().enumerate().map(|(i, values)| Row {
            values,
            token: 7,
            position: 2 + i,
            special: false,
        });
        let bos = Row {
            values: &bos,
            token: 0,
            position: 0,
            special: true,
        };
        let rows: Vec<Row<'_>> = std::iter::once(bos).chain(ordinary).collect();
        let report = FirstBatch::of_rows("h", &rows, &all, &|t| format!("<{t}>"));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
        assert_eq!(
            (
                report.tokens,
                report.d_in,
                report.outliers,
                report.special_outliers
            ),
            (40, 30, 1, 1)
        );
        close(report.mean_norm, 26.0_f64.sqrt());
        close(report.std_norm, 0.0);
        close(report.mean_over_std, 5.0);
        close(report.mean_over_rms, 5.0 / 26.0_f64.sqrt());
        assert_eq!(report.dominant_dimensions[0].dimension, 2);
        close(report.dominant_dimensions[0].share_of_variance, 1.0);
        assert_eq!(report.largest_outliers[0].text, "<0>");
        close(report.largest_outliers[0].times_median, 100.0);
        let advice = report.advice.join("\n");
        for word in ["centre", "dimensions have 100 %"] {
            assert!(advice.contains(word), "{word}: {advice}");
        }
        // Nor does it advise what is done anyway.
        for word in ["--max-norm", "special tokens", "unit_norm"] {
            assert!(!advice.contains(word), "{word}: {advice}");
        }

        let rows: Vec<Row<'_>> = rows
            .into_iter()
            .chain([1, 50].map(|position| Row {
                values: &sink,
                token: 9,
                position,
                special: false,
            }))
            .collect();
        let advice = |rule: Exclusion| {
            FirstBatch::of_rows("h", &rows, &rule, &|_| String::new())
                .advice
                .join("\n")
        };
        let of_all = advice(all);
        assert!(
            of_all.contains("1 token at the beginning of a sequence has")
                && of_all.contains("--max-norm 10"),
            "{of_all}"
        );
        let by_default = advice(Exclusion::default());
        assert!(
            by_default.contains("2 tokens have more than 10 times the median norm")
                && by_default.contains("will be left out")
                && !by_default.contains("--max-norm"),
            "{by_default}"
        );
    }

    #[test]
    fn nothing_gives_no_nonsense() {
        let zero = [0.0; 3];
        let rows = [Row {
            values: &zero,
            token: 1,
            position: 0,
            special: true,
        }];
        let report = FirstBatch::of_rows("h", &rows, &Exclusion::default(), &|_| String::new());
        assert!(report.mean_over_std == 0.0 && report.outliers == 0 && report.mean_norm == 0.0);
    }
}
