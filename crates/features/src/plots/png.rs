//! Draws a scene as pixels with tiny-skia, and encodes them as PNG.

use super::font::{self, Segment};
use super::scene::{Anchor, Color, Label, Mark, SUPERSCRIPT, Scene, Stroke};
use crate::FeaturesError;
use tiny_skia::{
    FillRule, LineJoin, Paint, Path, PathBuilder, Pixmap, Rect, StrokeDash, Transform,
};

pub(crate) fn encode(
    scene: &Scene,
    scale: f64,
    width: u32,
    height: u32,
) -> Result<Vec<u8>, FeaturesError> {
    let failed = |found: String| FeaturesError::Input {
        field: "scale",
        found,
        expected: "a size that can be drawn".into(),
    };
    let mut canvas = Canvas {
        pixels: Pixmap::new(width, height).ok_or_else(|| failed(format!("{width} x {height}")))?,
        view: Transform::from_scale(scale as f32, scale as f32),
    };
    let Color(r, g, b) = scene.background;
    canvas
        .pixels
        .fill(tiny_skia::Color::from_rgba8(r, g, b, 255));
    for mark in scene.layers.iter().flat_map(|layer| &layer.marks) {
        canvas.draw(mark);
    }
    canvas
        .pixels
        .encode_png()
        .map_err(|error| failed(error.to_string()))
}

struct Canvas {
    pixels: Pixmap,
    view: Transform,
}

// A shape without area, or too large for f32, has no path and is not drawn.
impl Canvas {
    fn draw(&mut self, mark: &Mark) {
        match mark {
            Mark::Rect {
                x,
                y,
                width,
                height,
                fill,
                opacity,
            } => {
                let [x, y, width, height] = [*x, *y, *width, *height].map(|value| value as f32);
                if let Some(rect) = Rect::from_xywh(x, y, width, height) {
                    self.fill(&PathBuilder::from_rect(rect), *fill, *opacity, self.view);
                }
            }
            Mark::Line { points, stroke } => {
                if let Some(path) = polygon(points, false) {
                    self.stroke(&path, stroke);
                }
            }
            Mark::Point {
                x,
                y,
                radius,
                shape,
                fill,
                edge,
            } => {
                let corners = shape.corners(*radius);
                let path = if corners.is_empty() {
                    PathBuilder::from_circle(*x as f32, *y as f32, *radius as f32)
                } else {
                    let corners: Vec<_> = corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
                    polygon(&corners, true)
                };
                if let Some(path) = path {
                    self.fill(&path, *fill, 1.0, self.view);
                    self.stroke(
                        &path,
                        &Stroke {
                            color: *edge,
                            width: 1.0,
                            dash: &[],
                        },
                    );
                }
            }
            Mark::Dots {
                points,
                radius,
                fill,
                opacity,
            } => {
                if let Some(dot) = PathBuilder::from_circle(0.0, 0.0, *radius as f32) {
                    for (x, y) in points {
                        let place = self.view.pre_translate(*x as f32, *y as f32);
                        self.fill(&dot, *fill, *opacity, place);
                    }
                }
            }
            Mark::Text {
                x,
                y,
                size,
                anchor,
                upwards,
                fill,
                label,
            } => {
                let turn = if *upwards { -90.0 } else { 0.0 };
                let place = self
                    .view
                    .pre_translate(*x as f32, *y as f32)
                    .pre_rotate(turn);
                self.text(label, *size, *anchor, *fill, place);
            }
        }
    }

    fn text(&mut self, label: &Label, size: f64, anchor: Anchor, fill: Color, place: Transform) {
        let length = font::label_width(label, size);
        let start = match anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => -length / 2.0,
            Anchor::End => -length,
        };
        let mut path = PathBuilder::new();
        add_text(&mut path, &label.text, start, 0.0, size);
        let raised = start + font::width(&label.text, size);
        let small = size * SUPERSCRIPT.0;
        add_text(
            &mut path,
            &label.superscript,
            raised,
            -SUPERSCRIPT.1 * size,
            small,
        );
        if let Some(path) = path.finish() {
            self.fill(&path, fill, 1.0, place);
        }
    }

    fn fill(&mut self, path: &Path, color: Color, opacity: f64, place: Transform) {
        self.pixels
            .fill_path(path, &paint(color, opacity), FillRule::Winding, place, None);
    }

    fn stroke(&mut self, path: &Path, stroke: &Stroke) {
        let dash = stroke
            .dash
            .iter()
            .map(|length| *length as f32)
            .collect::<Vec<_>>();
        let look = tiny_skia::Stroke {
            width: stroke.width as f32,
            line_join: LineJoin::Round,
            dash: if dash.is_empty() {
                None
            } else {
                StrokeDash::new(dash, 0.0)
            },
            ..Default::default()
        };
        self.pixels
            .stroke_path(path, &paint(stroke.color, 1.0), &look, self.view, None);
    }
}

fn paint(Color(r, g, b): Color, opacity: f64) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(r, g, b, (opacity * 255.0).round() as u8);
    paint
}

fn polygon(points: &[(f64, f64)], closed: bool) -> Option<Path> {
    let mut path = PathBuilder::new();
    for (i, &(x, y)) in points.iter().enumerate() {
        match i {
            0 => path.move_to(x as f32, y as f32),
            _ => path.line_to(x as f32, y as f32),
        }
    }
    if closed {
        path.close();
    }
    path.finish()
}

fn add_text(path: &mut PathBuilder, text: &str, x: f64, y: f64, size: f64) {
    let place = |px: f64, py: f64| ((x + px * size) as f32, (y + py * size) as f32);
    font::outline(text, |segment| match segment {
        Segment::Move(px, py) => {
            let (px, py) = place(px, py);
            path.move_to(px, py);
        }
        Segment::Line(px, py) => {
            let (px, py) = place(px, py);
            path.line_to(px, py);
        }
        Segment::Quad(cx, cy, px, py) => {
            let ((cx, cy), (px, py)) = (place(cx, cy), place(px, py));
            path.quad_to(cx, cy, px, py);
        }
        Segment::Close => path.close(),
    });
}
