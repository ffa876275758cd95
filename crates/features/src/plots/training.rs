//! Training curves: one panel per metric, one line per run, with the same look in every panel.

use super::axis::{drawable, range};
use super::chart::Chart;
use super::frame::{AxisSpec, Frame};
use super::legend::Sample;
use super::scene::Stroke;
use super::{Figure, FigureOptions, Scale, nothing, theme, thousands};
use crate::FeaturesError;

/// One run's values of one metric.
#[derive(Debug, Clone, Copy)]
pub struct Curve<'a> {
    /// The run. Curves of the same run share colour and dashes, and one entry in the legend.
    pub run: &'a str,
    /// Steps or tokens, in any unit.
    pub x: &'a [f64],
    /// The metric at each `x`. A value that is not finite interrupts the line.
    pub y: &'a [f64],
}

/// A plot of one metric.
#[derive(Debug, Clone, Copy)]
pub struct Panel<'a> {
    /// Label of the y axis.
    pub metric: &'a str,
    /// Scale of the y axis.
    pub scale: Scale,
    /// The runs.
    pub curves: &'a [Curve<'a>],
}

/// Panels in up to two columns, with a common x axis and one legend. `log_x` draws x on a log
/// scale, without what is not positive.
///
/// # Errors
///
/// [`FeaturesError::Input`] without panels, for a curve whose x and y differ in length, and if no
/// panel has a point that can be drawn.
pub fn training(
    panels: &[Panel<'_>],
    x_label: &str,
    log_x: bool,
    options: &FigureOptions,
) -> Result<Figure, FeaturesError> {
    for curve in panels.iter().flat_map(|panel| panel.curves) {
        if curve.x.len() != curve.y.len() {
            return Err(FeaturesError::Input {
                field: "curves",
                found: format!("{} values for {} of x", curve.y.len(), curve.x.len()),
                expected: "one value of y for each of x".into(),
            });
        }
    }
    let mut runs: Vec<&str> = Vec::new();
    for curve in panels.iter().flat_map(|panel| panel.curves) {
        if !runs.contains(&curve.run) {
            runs.push(curve.run);
        }
    }
    // All panels have the same x axis.
    let all = || panels.iter().flat_map(|panel| panel.curves);
    let x_range = range(all().flat_map(|curve| curve.x.iter().copied()), log_x);
    let log_y: Vec<bool> = panels.iter().map(is_log).collect();
    let (mut points, mut lost) = (0, 0);
    for (panel, log) in panels.iter().zip(&log_y) {
        for curve in panel.curves {
            let kept = curve.x.iter().zip(curve.y);
            let kept = kept
                .filter(|(x, y)| drawable(**x, log_x) && drawable(**y, *log))
                .count();
            points += kept;
            lost += curve.x.len() - kept;
        }
    }
    if points == 0 {
        return Err(nothing(
            "panels",
            "no point that can be drawn",
            "at least one finite value",
        ));
    }
    let notes = match lost {
        0 => Vec::new(),
        1 => vec!["1 value that is not finite, or not positive on a log axis, is left out".into()],
        _ => vec![format!(
            "{} values that are not finite, or not positive on a log axis, are left out",
            thousands(lost as u64)
        )],
    };
    let legend: Vec<_> = runs
        .iter()
        .enumerate()
        .map(|(i, run)| (Sample::Line(line(options, i)), *run))
        .collect();
    let (columns, rows) = (panels.len().clamp(1, 2), panels.len().div_ceil(2).max(1));
    let default = if panels.len() == 1 {
        (640, 400)
    } else {
        (820, 80 + 240 * rows.min(30) as u32)
    };
    let mut chart = Chart::new(options, default, "Training curves", &notes, &legend)?;
    let area = chart.area;
    let x = AxisSpec {
        label: x_label,
        range: x_range,
        log: log_x,
        counts: false,
    };
    let y: Vec<_> = panels
        .iter()
        .zip(log_y)
        .map(|(panel, log)| {
            let values = panel
                .curves
                .iter()
                .flat_map(|curve| curve.y.iter().copied());
            AxisSpec {
                label: panel.metric,
                range: from_zero(range(values, log), log),
                log,
                counts: false,
            }
        })
        .collect();
    for (index, (panel, axis)) in panels.iter().zip(&y).enumerate() {
        let cell = |index| area.cell(index, columns, rows);
        let column = y.iter().enumerate().skip(index % columns).step_by(columns);
        let room = column
            .map(|(place, axis)| axis.y_label_width(cell(place)))
            .fold(0.0, f64::max);
        let frame = Frame::draw(&mut chart.scene, chart.theme, cell(index), &x, axis, room)?;
        for curve in panel.curves {
            let run = runs.iter().position(|run| *run == curve.run).unwrap_or(0);
            for piece in pieces(curve, &frame) {
                chart.scene.line("curves", piece, line(options, run));
            }
        }
    }
    Ok(Figure { scene: chart.scene })
}

fn line(options: &FigureOptions, run: usize) -> Stroke {
    Stroke {
        color: options.theme.color(run),
        width: 1.6,
        dash: theme::dash(run),
    }
}

/// A log scale needs a positive value.
fn is_log(panel: &Panel<'_>) -> bool {
    let values = || {
        panel
            .curves
            .iter()
            .flat_map(|curve| curve.y.iter().copied())
    };
    panel.scale.is_log(values()) && range(values(), true).is_some()
}

/// The range, from 0 if its values are positive and come near 0.
fn from_zero(range: Option<(f64, f64)>, log: bool) -> Option<(f64, f64)> {
    range.map(|(low, high)| {
        let near = !log && low > 0.0 && low < 0.4 * high;
        (if near { 0.0 } else { low }, high)
    })
}

/// The pieces of a curve between values that cannot be drawn, in figure coordinates.
///
/// Where many points share a pixel column, the first, lowest, highest and last of them are kept,
/// which look the same.
fn pieces(curve: &Curve<'_>, frame: &Frame) -> Vec<Vec<(f64, f64)>> {
    let mut pieces: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
    for (&x, &y) in curve.x.iter().zip(curve.y) {
        let open = pieces.last_mut();
        match (drawable(x, frame.x.log) && drawable(y, frame.y.log), open) {
            (true, Some(piece)) => piece.push((frame.x(x), frame.y(y))),
            (false, Some(piece)) if !piece.is_empty() => pieces.push(Vec::new()),
            _ => {}
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces.iter().map(|piece| thin(piece)).collect()
}

fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if let [(x, y)] = *points {
        return vec![(x - 1.0, y), (x + 1.0, y)]; // a lone point is still seen
    }
    let mut kept = Vec::new();
    for column in points.chunk_by(|a, b| a.0.floor() == b.0.floor()) {
        if column.len() <= 4 {
            kept.extend_from_slice(column);
            continue;
        }
        let by_height = |a: &usize, b: &usize| column[*a].1.total_cmp(&column[*b].1);
        let extremes = [
            (0..column.len()).min_by(by_height),
            (0..column.len()).max_by(by_height),
        ];
        let mut places = vec![0, column.len() - 1];
        places.extend(extremes.into_iter().flatten());
        places.sort_unstable();
        places.dedup();
        kept.extend(places.into_iter().map(|place| column[place]));
    }
    kept
}
