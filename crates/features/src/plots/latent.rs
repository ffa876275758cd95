//! One latent's activations: how often each size of activation occurs, on a log scale.

use super::axis::{drawable, range};
use super::chart::Chart;
use super::density::bar;
use super::frame::AxisSpec;
use super::{Figure, FigureOptions, Scale, nothing, thousands};
use crate::FeaturesError;

/// Bins whose widths differ by less, as a share, count as equally wide.
const SAME_WIDTH: f64 = 1e-3;

/// A bin of a histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActivationBin {
    /// Lower edge.
    pub lower: f64,
    /// Upper edge.
    pub upper: f64,
    /// Activations in the bin.
    pub count: u64,
}

/// A histogram of one latent's activations. `name` says which latent, in a note.
///
/// Bars of equally wide bins show counts. If the widths differ, bars show counts per unit of
/// activation, or per doubling on a log axis: else wider bins would look like more activations.
/// [`Scale::Auto`] is linear.
///
/// # Errors
///
/// [`FeaturesError::Input`] without a bin that has a count, for edges that are not finite or not
/// increasing, and for an edge of 0 or below on a log scale.
pub fn latent(
    name: &str,
    bins: &[ActivationBin],
    x_scale: Scale,
    options: &FigureOptions,
) -> Result<Figure, FeaturesError> {
    let log = x_scale == Scale::Log;
    for bin in bins {
        let drawn = drawable(bin.lower, log) && drawable(bin.upper, log);
        if !drawn || bin.lower >= bin.upper {
            let positive = if log { "positive, " } else { "" };
            return Err(FeaturesError::Input {
                field: "bins",
                found: format!("the edges {} and {}", bin.lower, bin.upper),
                expected: format!("{positive}finite edges, lower before upper"),
            });
        }
    }
    let filled: Vec<_> = bins.iter().filter(|bin| bin.count > 0).collect();
    let Some(x_range) = range(filled.iter().flat_map(|bin| [bin.lower, bin.upper]), log) else {
        return Err(nothing(
            "bins",
            "no activation",
            "at least one bin with a count",
        ));
    };
    let width = |bin: &ActivationBin| {
        if log {
            (bin.upper / bin.lower).log2()
        } else {
            bin.upper - bin.lower
        }
    };
    let widths = range(filled.iter().map(|bin| width(bin)), false).unwrap_or((1.0, 1.0));
    let equal = widths.1 - widths.0 <= SAME_WIDTH * widths.1;
    let height = |bin: &ActivationBin| bin.count as f64 / if equal { 1.0 } else { width(bin) };
    // Half of the lowest bar is below the axis, so that a bar of one activation is seen.
    let heights = range(filled.iter().map(|bin| height(bin)), true);
    let total = filled
        .iter()
        .fold(0u64, |sum, bin| sum.saturating_add(bin.count));
    let activations = if total == 1 {
        "activation"
    } else {
        "activations"
    };
    let mut notes = vec![format!("{} {activations}", thousands(total))];
    if !name.trim().is_empty() {
        notes.insert(0, name.to_owned());
    }
    let mut chart = Chart::new(options, (640, 400), "Activations of a latent", &notes, &[])?;
    let x = AxisSpec {
        label: "Activation",
        range: Some(x_range),
        log,
        counts: false,
    };
    let y = AxisSpec {
        label: match (equal, log) {
            (true, _) => "Tokens",
            (false, false) => "Tokens per unit of activation",
            (false, true) => "Tokens per doubling of activation",
        },
        range: heights.map(|(low, high)| (low / 2.0, high)),
        log: true,
        counts: equal,
    };
    let frame = chart.plot(&x, &y)?;
    for bin in filled {
        let (left, right) = (frame.x(bin.lower), frame.x(bin.upper));
        let (top, base) = (frame.y(height(bin)), frame.area.bottom);
        chart
            .scene
            .add("bars", bar(left, right, top, base, chart.theme.color(0)));
    }
    Ok(Figure { scene: chart.scene })
}
