//! Legends: entries that flow in rows above the plot, so that long run names fit.

use super::font;
use super::scene::{Anchor, Color, Mark, Scene, Shape, Stroke};
use super::theme::Theme;

const SIZE: f64 = 12.0;
/// Height of a row.
const ROW: f64 = 18.0;
/// Length of a line's sample, and the distance from it to its name.
const SAMPLE: f64 = 20.0;
const GAP: f64 = 6.0;
/// Distance to the next entry.
const BETWEEN: f64 = 14.0;
/// Viewers without a font like Helvetica draw wider text.
pub(crate) const SLACK: f64 = 1.12;

/// What an entry shows before its name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sample {
    Line(Stroke),
    Point(Shape, Color),
}

/// Entries, each with its place.
pub(crate) struct Legend {
    entries: Vec<(f64, f64, Option<Sample>, String)>,
    pub height: f64,
}

impl Legend {
    /// Lays entries out in columns of equal width, in at most `most` of height. What does not fit
    /// is counted in a last entry. A single entry needs no legend.
    pub(crate) fn new(entries: &[(Sample, &str)], width: f64, most: f64) -> Self {
        if entries.len() < 2 {
            return Self {
                entries: Vec::new(),
                height: 0.0,
            };
        }
        let room = (width / 2.0 - SAMPLE - GAP - BETWEEN) / SLACK;
        let names: Vec<String> = entries
            .iter()
            .map(|(_, name)| font::shorten(name, SIZE, room))
            .collect();
        let widest = names
            .iter()
            .map(|name| font::width(name, SIZE))
            .fold(0.0, f64::max);
        let column = SAMPLE + GAP + widest * SLACK + BETWEEN;
        let columns = (((width + BETWEEN) / column) as usize).clamp(1, entries.len());
        // As many rows as needed, of about the same length.
        let columns = entries.len().div_ceil(entries.len().div_ceil(columns));
        let rows = entries
            .len()
            .div_ceil(columns)
            .min(((most / ROW) as usize).max(1));
        let shown = if rows * columns < entries.len() {
            rows * columns - 1
        } else {
            entries.len()
        };
        let place = |i: usize| ((i % columns) as f64 * column, (i / columns) as f64 * ROW);
        let mut placed: Vec<_> = entries[..shown]
            .iter()
            .zip(names)
            .enumerate()
            .map(|(i, ((sample, _), name))| (place(i).0, place(i).1, Some(*sample), name))
            .collect();
        if shown < entries.len() {
            let (x, y) = place(shown);
            placed.push((x, y, None, format!("and {} more", entries.len() - shown)));
        }
        Self {
            entries: placed,
            height: rows as f64 * ROW,
        }
    }

    /// Draws the legend with its upper left corner at (`left`, `top`).
    pub(crate) fn draw(&self, scene: &mut Scene, left: f64, top: f64, theme: Theme) {
        for (x, y, sample, name) in &self.entries {
            let (x, y) = (left + x, top + y + ROW / 2.0);
            match *sample {
                Some(Sample::Line(stroke)) => {
                    scene.line("legend", vec![(x, y), (x + SAMPLE, y)], stroke);
                }
                Some(Sample::Point(shape, fill)) => {
                    let edge = theme.background();
                    let x = x + SAMPLE / 2.0;
                    scene.add(
                        "legend",
                        Mark::Point {
                            x,
                            y,
                            radius: 4.5,
                            shape,
                            fill,
                            edge,
                        },
                    );
                }
                None => {}
            }
            let at = (x + SAMPLE + GAP, y + 0.35 * SIZE);
            scene.text("legend", at, SIZE, Anchor::Start, theme.ink(), name.clone());
        }
    }
}
