//! One plot's axes: margins that fit the tick labels, grid lines, ticks and axis labels.

use super::axis::Axis;
use super::font;
use super::legend::SLACK;
use super::scene::{Anchor, Mark, Scene, Stroke};
use super::theme::Theme;
use crate::FeaturesError;

/// Size of tick labels and of axis labels.
pub(crate) const TICK: f64 = 12.0;
pub(crate) const LABEL: f64 = 13.0;
const TICK_LENGTH: f64 = 4.0;
/// From a tick to its label, and from there to the axis label.
const GAP: f64 = 4.0;
/// Room for one tick label along x and along y.
const X_ROOM: f64 = 85.0;
const Y_ROOM: f64 = 46.0;
/// Least width and height of a plot without its labels.
const SMALLEST: (f64, f64) = (60.0, 40.0);

/// A rectangle of the figure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Area {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Area {
    /// Cell number `index` of a grid of `columns` and `rows`, with space between cells.
    pub(crate) fn cell(self, index: usize, columns: usize, rows: usize) -> Self {
        const BETWEEN: f64 = 16.0;
        let width = (self.right - self.left + BETWEEN) / columns as f64;
        let height = (self.bottom - self.top + BETWEEN) / rows as f64;
        let left = self.left + width * (index % columns) as f64;
        let top = self.top + height * (index / columns) as f64;
        Self {
            left,
            top,
            right: left + width - BETWEEN,
            bottom: top + height - BETWEEN,
        }
    }
}

/// What an axis shows.
pub(crate) struct AxisSpec<'a> {
    pub label: &'a str,
    pub range: Option<(f64, f64)>,
    pub log: bool,
    /// Whether the values are counts, which need no ticks at fractions.
    pub counts: bool,
}

impl AxisSpec<'_> {
    /// The axis, if it is the y axis of a plot in `area`.
    fn y_axis(&self, area: Area) -> Axis {
        let room = (plot_bottom(area) - area.top) / Y_ROOM;
        let mut axis = Axis::new(self.range, self.log, room.clamp(2.0, 8.0));
        if self.counts {
            axis.ticks.retain(|(value, _)| value.fract() == 0.0);
            axis.minor.retain(|value| value.fract() == 0.0);
        }
        axis
    }

    /// Width of the widest tick label, if it is the y axis of a plot in `area`.
    pub(crate) fn y_label_width(&self, area: Area) -> f64 {
        let widths = self.y_axis(area).ticks.into_iter();
        widths
            .map(|(_, label)| font::label_width(&label, TICK))
            .fold(0.0, f64::max)
            * SLACK
    }
}

/// The lower edge of a plot, with its labels below.
fn plot_bottom(area: Area) -> f64 {
    area.bottom - LABEL - GAP - TICK - GAP - TICK_LENGTH
}

/// A plot with its axes.
pub(crate) struct Frame {
    pub area: Area,
    pub x: Axis,
    pub y: Axis,
}

impl Frame {
    /// Fits a plot into `area` and draws its grid, axes, ticks and labels. Tick labels along y get
    /// `y_room`, so that plots above each other can be aligned.
    ///
    /// Fails if that leaves no room for the plot.
    pub(crate) fn draw(
        scene: &mut Scene,
        theme: Theme,
        area: Area,
        x: &AxisSpec<'_>,
        y: &AxisSpec<'_>,
        y_room: f64,
    ) -> Result<Self, FeaturesError> {
        let (bottom, y_axis) = (plot_bottom(area), y.y_axis(area));
        let left = area.left + LABEL + 2.0 * GAP + y_room + GAP + TICK_LENGTH;
        let x_axis = Axis::new(
            x.range,
            x.log,
            ((area.right - left) / X_ROOM).clamp(2.0, 10.0),
        );
        // The last label may stick out by half its width.
        let last = x_axis
            .ticks
            .last()
            .map_or(0.0, |(_, label)| font::label_width(label, TICK));
        let right = area.right - last * SLACK / 2.0;
        let area = Area {
            left,
            top: area.top + TICK / 2.0,
            right,
            bottom,
        };
        let (width, height) = (right - left, bottom - area.top);
        if width < SMALLEST.0 || height < SMALLEST.1 {
            let (field, size, needed) = if width < SMALLEST.0 {
                ("width", width, SMALLEST.0)
            } else {
                ("height", height, SMALLEST.1)
            };
            return Err(FeaturesError::Input {
                field,
                found: format!("room for a plot of {:.0}", size.max(0.0)),
                expected: format!("{needed} at least: a larger figure, or fewer panels or notes"),
            });
        }
        let frame = Self {
            area,
            x: x_axis,
            y: y_axis,
        };
        frame.draw_axes(scene, theme);
        frame.draw_labels(scene, theme, x.label);
        frame.draw_y_label(
            scene,
            theme,
            y.label,
            left - y_room - 3.0 * GAP - TICK_LENGTH,
        );
        Ok(frame)
    }

    /// Where `value` lies along x.
    pub(crate) fn x(&self, value: f64) -> f64 {
        self.area.left + self.x.place(value) * (self.area.right - self.area.left)
    }

    /// Where `value` lies along y.
    pub(crate) fn y(&self, value: f64) -> f64 {
        self.area.bottom - self.y.place(value) * (self.area.bottom - self.area.top)
    }

    fn draw_axes(&self, scene: &mut Scene, theme: Theme) {
        let Area {
            left,
            top,
            right,
            bottom,
        } = self.area;
        let line = |color, width| Stroke {
            color,
            width,
            dash: &[],
        };
        for (value, _) in &self.y.ticks {
            let y = self.y(*value);
            scene.line("grid", vec![(left, y), (right, y)], line(theme.grid(), 1.0));
        }
        for (value, _) in &self.x.ticks {
            let x = self.x(*value);
            scene.line("grid", vec![(x, top), (x, bottom)], line(theme.grid(), 1.0));
        }
        let ink = line(theme.ink(), 1.0);
        scene.line(
            "axes",
            vec![(left, top), (left, bottom), (right, bottom)],
            ink,
        );
        let ticks = |axis: &Axis| {
            let major: Vec<_> = axis
                .ticks
                .iter()
                .map(|(value, _)| (*value, TICK_LENGTH))
                .collect();
            major
                .into_iter()
                .chain(axis.minor.iter().map(|v| (*v, TICK_LENGTH / 2.0)))
                .collect()
        };
        let x_ticks: Vec<(f64, f64)> = ticks(&self.x);
        for (value, length) in x_ticks {
            let x = self.x(value);
            scene.line("axes", vec![(x, bottom), (x, bottom + length)], ink);
        }
        let y_ticks: Vec<(f64, f64)> = ticks(&self.y);
        for (value, length) in y_ticks {
            let y = self.y(value);
            scene.line("axes", vec![(left, y), (left - length, y)], ink);
        }
    }

    fn draw_labels(&self, scene: &mut Scene, theme: Theme, x_label: &str) {
        let Area {
            left,
            right,
            bottom,
            ..
        } = self.area;
        let base = bottom + TICK_LENGTH + GAP + TICK * 0.8;
        // A label that would touch the one before it is left out.
        let mut free = f64::NEG_INFINITY;
        for (value, label) in &self.x.ticks {
            let half = font::label_width(label, TICK) * SLACK / 2.0;
            let at = self.x(*value);
            if at - half > free {
                let label = label.clone();
                scene.text(
                    "x-ticks",
                    (at, base),
                    TICK,
                    Anchor::Middle,
                    theme.ink(),
                    label,
                );
                free = at + half + GAP;
            }
        }
        let edge = left - TICK_LENGTH - GAP;
        let mut free = f64::INFINITY;
        for (value, label) in &self.y.ticks {
            let at = self.y(*value);
            if at + TICK / 2.0 < free {
                let (at, label) = ((edge, at + 0.35 * TICK), label.clone());
                scene.text("y-ticks", at, TICK, Anchor::End, theme.ink(), label);
                free = self.y(*value) - TICK / 2.0 - 1.0;
            }
        }
        let text = font::shorten(x_label, LABEL, (right - left) / SLACK);
        let at = ((left + right) / 2.0, base + GAP + LABEL);
        scene.text("x-label", at, LABEL, Anchor::Middle, theme.ink(), text);
    }

    fn draw_y_label(&self, scene: &mut Scene, theme: Theme, text: &str, x: f64) {
        let Area { top, bottom, .. } = self.area;
        let label = font::shorten(text, LABEL, (bottom - top) / SLACK).into();
        let (y, size, fill) = ((top + bottom) / 2.0, LABEL, theme.ink());
        let mark = Mark::Text {
            x,
            y,
            size,
            anchor: Anchor::Middle,
            upwards: true,
            fill,
            label,
        };
        scene.add("y-label", mark);
    }
}
