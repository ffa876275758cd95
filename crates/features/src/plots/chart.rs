//! The page around the plots of a figure: background, title, notes and legend.

use super::font;
use super::frame::{Area, AxisSpec, Frame};
use super::legend::{Legend, SLACK, Sample};
use super::scene::{Anchor, Scene};
use super::{FigureOptions, Theme};
use crate::FeaturesError;

/// Space around everything.
const MARGIN: f64 = 12.0;
const TITLE: f64 = 15.0;
const NOTE: f64 = 12.0;
/// The legend has at most this share of the height.
const LEGEND_SHARE: f64 = 0.3;

/// A figure in the making.
pub(crate) struct Chart {
    pub scene: Scene,
    pub theme: Theme,
    /// What title, notes and legend leave to the plots.
    pub area: Area,
}

impl Chart {
    /// Starts a figure with title, notes and legend. `name` describes the figure if it has no
    /// title.
    pub(crate) fn new(
        options: &FigureOptions,
        default: (u32, u32),
        name: &str,
        notes: &[String],
        legend: &[(Sample, &str)],
    ) -> Result<Self, FeaturesError> {
        let (width, height) = options.size(default)?;
        let theme = options.theme;
        let title = options
            .title
            .as_deref()
            .filter(|title| !title.trim().is_empty());
        let mut scene = Scene::new((width, height), theme.background(), title.unwrap_or(name));
        let (left, room) = (MARGIN, width - 2.0 * MARGIN);
        let mut top = MARGIN;
        if let Some(title) = title {
            let text = font::shorten(title, TITLE, room / SLACK);
            let at = (left, top + TITLE * 0.85);
            scene.text("title", at, TITLE, Anchor::Start, theme.ink(), text);
            top += TITLE + 8.0;
        }
        for note in wrap(notes, room / SLACK) {
            let at = (left, top + NOTE * 0.85);
            scene.text("note", at, NOTE, Anchor::Start, theme.muted(), note);
            top += NOTE + 5.0;
        }
        let legend = Legend::new(legend, room, height * LEGEND_SHARE);
        if legend.height > 0.0 {
            legend.draw(&mut scene, left, top, theme);
            top += legend.height + 4.0;
        }
        let area = Area {
            left,
            top: top + 4.0,
            right: width - MARGIN,
            bottom: height - MARGIN,
        };
        Ok(Self { scene, theme, area })
    }

    /// Draws the axes of the figure's only plot.
    pub(crate) fn plot(
        &mut self,
        x: &AxisSpec<'_>,
        y: &AxisSpec<'_>,
    ) -> Result<Frame, FeaturesError> {
        Frame::draw(
            &mut self.scene,
            self.theme,
            self.area,
            x,
            y,
            y.y_label_width(self.area),
        )
    }
}

/// Notes in as few lines as they fit in, with a dot between them. A note that is too wide is
/// shortened.
fn wrap(notes: &[String], room: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for note in notes {
        let joined = lines.last().map(|line| format!("{line}  ·  {note}"));
        match (joined, lines.last_mut()) {
            (Some(joined), Some(line)) if font::width(&joined, NOTE) <= room => *line = joined,
            _ => lines.push(font::shorten(note, NOTE, room)),
        }
    }
    lines
}
