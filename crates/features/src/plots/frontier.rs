//! The sparsity–fidelity frontier: one point per run, connected per architecture, as SAE papers
//! compare architectures (Gao et al. 2024, "Scaling and evaluating sparse autoencoders").

use super::axis::{drawable, range};
use super::chart::Chart;
use super::frame::AxisSpec;
use super::legend::Sample;
use super::scene::{Anchor, Mark, Stroke};
use super::{Figure, FigureOptions, Scale, font, labels, nothing, theme, thousands};
use crate::FeaturesError;

const RADIUS: f64 = 4.5;
const SIZE: f64 = 11.0;
/// Names longer than this are shortened.
const LONGEST: f64 = 170.0;

/// A run's place in the figure.
#[derive(Debug, Clone, Copy)]
pub struct FrontierPoint<'a> {
    /// Name beside the point; empty for none.
    pub run: &'a str,
    /// Points of one architecture share colour and marker, and are connected.
    pub architecture: &'a str,
    /// Mean number of active latents per token.
    pub l0: f64,
    /// The metric: FVU or the CE loss score, say.
    pub metric: f64,
}

/// Runs by L0 and a metric. Points of an architecture are connected in order of L0.
///
/// A label that finds no free place is left out, and a note says how many are.
///
/// # Errors
///
/// [`FeaturesError::Input`] if no run has finite values.
pub fn frontier(
    points: &[FrontierPoint<'_>],
    metric: &str,
    scales: (Scale, Scale),
    options: &FigureOptions,
) -> Result<Figure, FeaturesError> {
    let log_x = scales.0.is_log(points.iter().map(|point| point.l0));
    let log_y = scales.1.is_log(points.iter().map(|point| point.metric));
    let drawn: Vec<&FrontierPoint<'_>> = points
        .iter()
        .filter(|point| drawable(point.l0, log_x) && drawable(point.metric, log_y))
        .collect();
    if drawn.is_empty() {
        return Err(nothing(
            "points",
            "no run that can be drawn",
            "at least one with finite values",
        ));
    }
    let mut architectures: Vec<&str> = Vec::new();
    for point in &drawn {
        if !architectures.contains(&point.architecture) {
            architectures.push(point.architecture);
        }
    }
    let legend: Vec<_> = architectures
        .iter()
        .enumerate()
        .map(|(i, name)| {
            (
                Sample::Point(theme::shape(i), options.theme.color(i)),
                *name,
            )
        })
        .collect();
    let mut notes = Vec::new();
    if drawn.len() < points.len() {
        let lost = thousands((points.len() - drawn.len()) as u64);
        notes.push(format!(
            "{lost} runs left out, without values on these axes"
        ));
    }
    let x = AxisSpec {
        label: "L0 (active latents per token)",
        range: roomy(drawn.iter().map(|point| point.l0), log_x),
        log: log_x,
        counts: false,
    };
    let y = AxisSpec {
        label: metric,
        range: roomy(drawn.iter().map(|point| point.metric), log_y),
        log: log_y,
        counts: false,
    };
    let mut chart = Chart::new(
        options,
        (720, 460),
        "Sparsity and fidelity of runs",
        &notes,
        &legend,
    )?;
    let frame = chart.plot(&x, &y)?;
    let mut connections = Vec::new();
    for (i, architecture) in architectures.iter().enumerate() {
        let mut line: Vec<_> = drawn
            .iter()
            .filter(|point| point.architecture == *architecture)
            .map(|point| (frame.x(point.l0), frame.y(point.metric)))
            .collect();
        line.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        if line.len() > 1 {
            let stroke = Stroke {
                color: chart.theme.color(i),
                width: 1.4,
                dash: theme::dash(i),
            };
            connections.extend(line.windows(2).map(|ends| [ends[0], ends[1]]));
            chart.scene.line("connections", line, stroke);
        }
    }
    let places: Vec<_> = drawn
        .iter()
        .map(|point| (frame.x(point.l0), frame.y(point.metric)))
        .collect();
    let names: Vec<_> = drawn
        .iter()
        .map(|point| font::shorten(point.run, SIZE, LONGEST))
        .collect();
    let labels = labels::place(&names, SIZE, &places, &connections, frame.area);
    let (ink, muted) = (chart.theme.ink(), chart.theme.muted());
    for leader in labels.iter().flatten().filter_map(|label| label.leader) {
        let stroke = Stroke {
            color: muted,
            width: 0.7,
            dash: &[],
        };
        chart.scene.line("leaders", leader.to_vec(), stroke);
    }
    for (point, &(x, y)) in drawn.iter().zip(&places) {
        let kind = architectures
            .iter()
            .position(|name| *name == point.architecture)
            .unwrap_or(0);
        let (shape, fill) = (theme::shape(kind), chart.theme.color(kind));
        let edge = chart.theme.background();
        chart.scene.add(
            "points",
            Mark::Point {
                x,
                y,
                radius: RADIUS,
                shape,
                fill,
                edge,
            },
        );
    }
    for (label, name) in labels.iter().zip(&names) {
        if let Some(label) = label {
            chart
                .scene
                .text("labels", label.at, SIZE, label.anchor, ink, name.clone());
        }
    }
    let unlabelled = names
        .iter()
        .zip(&labels)
        .filter(|(name, label)| label.is_none() && !name.trim().is_empty())
        .count();
    if unlabelled > 0 {
        let text = match unlabelled {
            1 => "1 label left out".to_owned(),
            _ => format!("{} labels left out", thousands(unlabelled as u64)),
        };
        let at = (frame.area.right, frame.area.top - 3.0);
        chart.scene.text("note", at, SIZE, Anchor::End, muted, text);
    }
    Ok(Figure { scene: chart.scene })
}

/// The range of values, with room for names around the outermost points.
fn roomy(values: impl Iterator<Item = f64>, log: bool) -> Option<(f64, f64)> {
    const ROOM: f64 = 0.08;
    range(values, log).map(|(low, high)| {
        if log {
            let room = (high / low).powf(ROOM);
            (low / room, high * room)
        } else {
            let room = (high - low) * ROOM;
            // Values that cannot be negative get no axis below 0, and scores none above 1.
            let least = if low >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
            let most = if low >= 0.0 && high <= 1.0 {
                1.0
            } else {
                f64::INFINITY
            };
            ((low - room).max(least), (high + room).min(most))
        }
    })
}
