//! A scatter of latents, for example firing density against encoder–decoder cosine: each latent a
//! dot, or shaded cells where dots would hide each other.

use super::axis::{drawable, range};
use super::chart::Chart;
use super::frame::{AxisSpec, Frame};
use super::scene::{Color, Mark};
use super::{Figure, FigureOptions, Scale, nothing, thousands};
use crate::FeaturesError;

/// Above this many latents, cells are shaded instead of dots drawn.
const MOST_DOTS: usize = 5_000;
/// Side of a cell, in SVG units.
const CELL: f64 = 5.0;
const DOT: f64 = 1.9;

/// Two numbers per latent.
#[derive(Debug, Clone, Copy)]
pub struct Scatter<'a> {
    /// Label of the x axis.
    pub x_label: &'a str,
    /// Per latent.
    pub x: &'a [f64],
    /// Scale of x.
    pub x_scale: Scale,
    /// Label of the y axis.
    pub y_label: &'a str,
    /// Per latent.
    pub y: &'a [f64],
    /// Scale of y.
    pub y_scale: Scale,
}

/// A scatter of latents. Those with a value that cannot be drawn, such as the density 0 of dead
/// latents on a log scale, are counted in a note.
///
/// # Errors
///
/// [`FeaturesError::Input`] if x and y differ in length, or no latent can be drawn.
pub fn scatter(data: &Scatter<'_>, options: &FigureOptions) -> Result<Figure, FeaturesError> {
    if data.x.len() != data.y.len() {
        return Err(FeaturesError::Input {
            field: "y",
            found: format!("{} values for {} of x", data.y.len(), data.x.len()),
            expected: "one value of y for each of x".into(),
        });
    }
    let log_x = data.x_scale.is_log(data.x.iter().copied());
    let log_y = data.y_scale.is_log(data.y.iter().copied());
    let points: Vec<(f64, f64)> = data
        .x
        .iter()
        .zip(data.y)
        .map(|(x, y)| (*x, *y))
        .filter(|(x, y)| drawable(*x, log_x) && drawable(*y, log_y))
        .collect();
    let ranges = (
        range(points.iter().map(|point| point.0), log_x),
        range(points.iter().map(|point| point.1), log_y),
    );
    if points.is_empty() {
        return Err(nothing(
            "x, y",
            "no latent that can be drawn",
            "at least one with finite values",
        ));
    }
    let mut notes = vec![format!("{} latents", thousands(points.len() as u64))];
    if points.len() < data.x.len() {
        let lost = thousands((data.x.len() - points.len()) as u64);
        notes.push(format!("{lost} left out, without a value on these axes"));
    }
    if points.len() > MOST_DOTS {
        notes.push("stronger colour: more latents in a cell (log scale)".into());
    }
    let mut chart = Chart::new(options, (640, 440), "Scatter of latents", &notes, &[])?;
    let x = AxisSpec {
        label: data.x_label,
        range: ranges.0,
        log: log_x,
        counts: false,
    };
    let y = AxisSpec {
        label: data.y_label,
        range: ranges.1,
        log: log_y,
        counts: false,
    };
    let frame = chart.plot(&x, &y)?;
    let places: Vec<_> = points
        .iter()
        .map(|&(x, y)| (frame.x(x), frame.y(y)))
        .collect();
    if points.len() > MOST_DOTS {
        cells(&mut chart, &frame, &places);
    } else {
        let (fill, opacity) = (
            chart.theme.color(0),
            if places.len() > 200 { 0.4 } else { 0.8 },
        );
        let dots = Mark::Dots {
            points: places,
            radius: DOT,
            fill,
            opacity,
        };
        chart.scene.add("dots", dots);
    }
    Ok(Figure { scene: chart.scene })
}

/// Shades cells by the logarithm of their number of latents.
fn cells(chart: &mut Chart, frame: &Frame, places: &[(f64, f64)]) {
    let area = frame.area;
    let columns = ((area.right - area.left) / CELL).ceil().max(1.0) as usize;
    let rows = ((area.bottom - area.top) / CELL).ceil().max(1.0) as usize;
    let mut counts = vec![0u64; columns * rows];
    for (x, y) in places {
        let column = (((x - area.left) / CELL) as usize).min(columns - 1);
        let row = (((area.bottom - y) / CELL) as usize).min(rows - 1);
        counts[row * columns + column] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(1);
    for (cell, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (column, row) = ((cell % columns) as f64, (cell / columns) as f64);
        let share = (1.0 + count as f64).ln() / (1.0 + most as f64).ln();
        // The faintest cell is still seen.
        let fill = mix(
            chart.theme.background(),
            chart.theme.color(0),
            0.15 + 0.85 * share,
        );
        let (x, y) = (area.left + column * CELL, area.bottom - (row + 1.0) * CELL);
        let mark = Mark::Rect {
            x,
            y,
            width: CELL,
            height: CELL,
            fill,
            opacity: 1.0,
        };
        chart.scene.add("cells", mark);
    }
}

fn mix(Color(r, g, b): Color, Color(to_r, to_g, to_b): Color, share: f64) -> Color {
    let mix = |from: u8, to: u8| (f64::from(from) * (1.0 - share) + f64::from(to) * share) as u8;
    Color(mix(r, to_r), mix(g, to_g), mix(b, to_b))
}
