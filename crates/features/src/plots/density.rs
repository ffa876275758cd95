//! Firing density: how many latents fire on which share of tokens, on a log scale, as the
//! feature-density histogram of Bricken et al. (2023), "Towards Monosemanticity".

use super::chart::Chart;
use super::frame::{AxisSpec, Frame};
use super::legend::Sample;
use super::scene::{Anchor, Label, Mark, Stroke};
use super::{Figure, FigureOptions, nothing, theme, thousands};
use crate::FeaturesError;

/// Densities below this are counted as this.
const SMALLEST: f64 = 1e-30;
/// From this many active latents on, bins are a tenth of a decade wide, else a fifth.
const MANY: usize = 500;

/// The latents of one dictionary.
#[derive(Debug, Clone, Copy)]
pub struct DensityRun<'a> {
    /// Name in the legend, which a figure of several runs has.
    pub name: &'a str,
    /// For each latent, the share of tokens on which it fires, from 0 (a dead latent) to 1.
    pub densities: &'a [f64],
}

/// A run's histogram.
struct Counts {
    /// Latents per bin; bin 0 is `Histogram::first`.
    bins: Vec<u64>,
    dead: u64,
    total: u64,
    /// Median density of active latents.
    median: Option<f64>,
}

/// A histogram of firing densities, with the median of active latents and the number of dead ones.
///
/// One run is drawn as bars, several as outlines: of counts, or of shares of latents if the runs
/// differ in their number of latents.
///
/// # Errors
///
/// [`FeaturesError::Input`] without runs, for a run without latents, and for a density outside 0
/// to 1.
pub fn density(runs: &[DensityRun<'_>], options: &FigureOptions) -> Result<Figure, FeaturesError> {
    if runs.is_empty() {
        return Err(nothing("runs", "no run", "at least one"));
    }
    let alive = runs
        .iter()
        .map(|run| run.densities.iter().filter(|d| **d > 0.0).count());
    let per_decade = if alive.max().unwrap_or(0) >= MANY {
        10.0
    } else {
        5.0
    };
    let counted = runs
        .iter()
        .map(|run| count(run.densities, per_decade))
        .collect::<Result<Vec<_>, _>>()?;
    let shared = counted.iter().all(|run| run.total == counted[0].total);
    let as_share = runs.len() > 1 && !shared;
    // The height of a bar: a count or a share.
    let height = |run: &Counts, count: u64| {
        if as_share {
            count as f64 / run.total as f64
        } else {
            count as f64
        }
    };
    let edge = |bin: usize| 10f64.powf(-(bin as f64) / per_decade);
    let highest = counted
        .iter()
        .flat_map(|run| run.bins.iter().map(|count| height(run, *count)))
        .fold(0.0, f64::max);
    let last = counted.iter().map(|run| run.bins.len()).max().unwrap_or(0);
    let first = (0..last)
        .find(|bin| {
            counted
                .iter()
                .any(|run| run.bins.get(*bin).is_some_and(|count| *count > 0))
        })
        .unwrap_or(0);

    let notes = if runs.len() == 1 {
        vec![note(&counted[0])]
    } else {
        Vec::new()
    };
    let names: Vec<String> = runs
        .iter()
        .zip(&counted)
        .map(|(run, counts)| format!("{} ({} dead)", run.name, thousands(counts.dead)))
        .collect();
    let legend: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(i, name)| (Sample::Line(line(options, i)), name.as_str()))
        .collect();
    let mut chart = Chart::new(
        options,
        (640, 400),
        "Firing density of latents",
        &notes,
        &legend,
    )?;
    let x = AxisSpec {
        label: "Firing density (share of tokens)",
        range: if last > 0 {
            Some((edge(last), edge(first)))
        } else {
            Some((1e-5, 1.0))
        },
        log: true,
        counts: false,
    };
    // The median's label goes above the bars.
    let headroom = if runs.len() == 1 { 1.08 } else { 1.0 };
    let y = AxisSpec {
        label: if as_share {
            "Share of latents"
        } else {
            "Latents"
        },
        range: Some((
            0.0,
            if highest > 0.0 {
                highest * headroom
            } else {
                1.0
            },
        )),
        log: false,
        counts: !as_share,
    };
    let frame = chart.plot(&x, &y)?;
    for (i, run) in counted.iter().enumerate() {
        if runs.len() == 1 {
            bars(&mut chart, &frame, run, edge);
        } else {
            let stroke = line(options, i);
            chart
                .scene
                .line("outlines", outline(&frame, run, edge, height), stroke);
        }
    }
    if let ([_], Some(median)) = (counted.as_slice(), counted[0].median) {
        mark_median(&mut chart, &frame, median);
    }
    Ok(Figure { scene: chart.scene })
}

fn line(options: &FigureOptions, index: usize) -> Stroke {
    Stroke {
        color: options.theme.color(index),
        width: 1.6,
        dash: theme::dash(index),
    }
}

/// Counts densities in bins of 1 / `per_decade` decades, from 1 downwards.
fn count(densities: &[f64], per_decade: f64) -> Result<Counts, FeaturesError> {
    if densities.is_empty() {
        return Err(nothing("densities", "no latent", "at least one"));
    }
    let mut bins: Vec<u64> = Vec::new();
    let mut alive = Vec::new();
    for (latent, &density) in densities.iter().enumerate() {
        if !(0.0..=1.0).contains(&density) {
            return Err(FeaturesError::Input {
                field: "densities",
                found: format!("{density} for latent {latent}"),
                expected: "a share from 0 to 1".into(),
            });
        }
        if density > 0.0 {
            // The tolerance puts 10^-0.3, whose logarithm is not exact, above its own edge.
            let bin = (-density.max(SMALLEST).log10() * per_decade - 1e-9)
                .floor()
                .max(0.0) as usize;
            if bins.len() <= bin {
                bins.resize(bin + 1, 0);
            }
            bins[bin] += 1;
            alive.push(density);
        }
    }
    alive.sort_by(f64::total_cmp);
    let median = match (
        alive.get(alive.len().saturating_sub(1) / 2),
        alive.get(alive.len() / 2),
    ) {
        (Some(low), Some(high)) => Some((low + high) / 2.0),
        _ => None,
    };
    let total = densities.len() as u64;
    Ok(Counts {
        bins,
        dead: total - alive.len() as u64,
        total,
        median,
    })
}

fn note(run: &Counts) -> String {
    let share = 100.0 * run.dead as f64 / run.total as f64;
    let (total, dead) = (thousands(run.total), thousands(run.dead));
    let latents = if run.total == 1 { "latent" } else { "latents" };
    let decimals = if share > 0.0 && share < 1.0 { 2 } else { 1 };
    format!("{total} {latents}, {dead} dead ({share:.decimals$}%)")
}

fn bars(chart: &mut Chart, frame: &Frame, run: &Counts, edge: impl Fn(usize) -> f64) {
    for (bin, &count) in run.bins.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (left, right) = (frame.x(edge(bin + 1)), frame.x(edge(bin)));
        let top = frame.y(count as f64);
        chart.scene.add(
            "bars",
            bar(left, right, top, frame.area.bottom, chart.theme.color(0)),
        );
    }
}

/// A bar, with a thin gap to its neighbours if it is wide enough.
pub(crate) fn bar(left: f64, right: f64, top: f64, bottom: f64, fill: super::scene::Color) -> Mark {
    let gap = if right - left > 4.0 { 0.5 } else { 0.0 };
    let width = (right - left - 2.0 * gap).max(0.5);
    Mark::Rect {
        x: left + gap,
        y: top,
        width,
        height: bottom - top,
        fill,
        opacity: 1.0,
    }
}

/// The upper edges of a run's bars, from left to right.
fn outline(
    frame: &Frame,
    run: &Counts,
    edge: impl Fn(usize) -> f64,
    height: impl Fn(&Counts, u64) -> f64,
) -> Vec<(f64, f64)> {
    let base = frame.area.bottom;
    let Some(first) = run.bins.iter().position(|count| *count > 0) else {
        return Vec::new();
    };
    let mut points = vec![(frame.x(edge(run.bins.len())), base)];
    for bin in (first..run.bins.len()).rev() {
        let y = frame.y(height(run, run.bins[bin]));
        points.extend([(frame.x(edge(bin + 1)), y), (frame.x(edge(bin)), y)]);
    }
    points.push((frame.x(edge(first)), base));
    points
}

fn mark_median(chart: &mut Chart, frame: &Frame, median: f64) {
    const SIZE: f64 = 12.0;
    let area = frame.area;
    let ink = chart.theme.ink();
    let x = frame.x(median.max(SMALLEST));
    let stroke = Stroke {
        color: ink,
        width: 1.2,
        dash: &[4.0, 3.0],
    };
    chart
        .scene
        .line("median", vec![(x, area.top), (x, area.bottom)], stroke);
    let label = scientific("median ", median);
    // The label stands on the side with more room.
    let right = x - area.left < area.right - x;
    let (at, anchor) = if right {
        (x + 6.0, Anchor::Start)
    } else {
        (x - 6.0, Anchor::End)
    };
    chart
        .scene
        .text("median", (at, area.top + SIZE), SIZE, anchor, ink, label);
}

/// `prefix` and `value` with two digits: `1.7×10` and the superscript `−3`.
fn scientific(prefix: &str, value: f64) -> Label {
    if value >= 0.01 {
        return format!("{prefix}{value:.3}").into();
    }
    let text = format!("{value:.1e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    Label {
        text: format!("{prefix}{digits}×10"),
        superscript: exponent.replace('-', "−"),
    }
}
