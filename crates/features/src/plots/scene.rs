//! What a figure consists of: a few kinds of marks in layers, which `svg` and `png` both draw.

/// Red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Color(pub u8, pub u8, pub u8);

/// Marker of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Circle,
    Square,
    Triangle,
    Diamond,
    TriangleDown,
}

impl Shape {
    /// Corners around (0, 0) of a marker of about the area of a circle of radius `r`; none for the
    /// circle itself.
    pub(crate) fn corners(self, r: f64) -> Vec<(f64, f64)> {
        match self {
            Self::Circle => Vec::new(),
            Self::Square => {
                let s = 0.89 * r;
                vec![(-s, -s), (s, -s), (s, s), (-s, s)]
            }
            Self::Triangle => vec![(0.0, -1.35 * r), (1.2 * r, 0.85 * r), (-1.2 * r, 0.85 * r)],
            Self::TriangleDown => {
                vec![(0.0, 1.35 * r), (-1.2 * r, -0.85 * r), (1.2 * r, -0.85 * r)]
            }
            Self::Diamond => {
                let s = 1.3 * r;
                vec![(0.0, -s), (s, 0.0), (0.0, s), (-s, 0.0)]
            }
        }
    }
}

/// Which part of a text is at its x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// Text of an axis: `10` with the superscript `−3`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Label {
    pub text: String,
    pub superscript: String,
}

impl From<String> for Label {
    fn from(text: String) -> Self {
        Self {
            text,
            superscript: String::new(),
        }
    }
}

/// Size of a superscript, as a share of its text's size, and how far it is raised, in the same
/// unit.
pub(crate) const SUPERSCRIPT: (f64, f64) = (0.72, 0.42);

/// A line's look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stroke {
    pub color: Color,
    pub width: f64,
    pub dash: &'static [f64],
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mark {
    Rect {
        x: f64,
        y: f64,
        width: f64,
        height: f64,
        fill: Color,
        opacity: f64,
    },
    Line {
        points: Vec<(f64, f64)>,
        stroke: Stroke,
    },
    Point {
        x: f64,
        y: f64,
        radius: f64,
        shape: Shape,
        fill: Color,
        edge: Color,
    },
    Dots {
        points: Vec<(f64, f64)>,
        radius: f64,
        fill: Color,
        opacity: f64,
    },
    Text {
        x: f64,
        y: f64,
        size: f64,
        anchor: Anchor,
        upwards: bool,
        fill: Color,
        label: Label,
    },
}

/// Marks with the same role.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// The `class` of the layer's SVG group.
    pub class: &'static str,
    pub marks: Vec<Mark>,
}

/// A figure, back to front.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub width: f64,
    pub height: f64,
    pub background: Color,
    /// What a screen reader reads.
    pub name: String,
    pub layers: Vec<Layer>,
}

impl Scene {
    pub(crate) fn new((width, height): (f64, f64), background: Color, name: &str) -> Self {
        Self {
            width,
            height,
            background,
            name: name.to_owned(),
            layers: Vec::new(),
        }
    }

    /// Adds `mark` to the layer on top if it has that class, else to a new layer.
    pub(crate) fn add(&mut self, class: &'static str, mark: Mark) {
        match self.layers.last_mut() {
            Some(layer) if layer.class == class => layer.marks.push(mark),
            _ => self.layers.push(Layer {
                class,
                marks: vec![mark],
            }),
        }
    }

    pub(crate) fn line(&mut self, class: &'static str, points: Vec<(f64, f64)>, stroke: Stroke) {
        self.add(class, Mark::Line { points, stroke });
    }

    /// Adds upright text with its baseline at `y`.
    pub(crate) fn text(
        &mut self,
        class: &'static str,
        (x, y): (f64, f64),
        size: f64,
        anchor: Anchor,
        fill: Color,
        label: impl Into<Label>,
    ) {
        let label = label.into();
        self.add(
            class,
            Mark::Text {
                x,
                y,
                size,
                anchor,
                upwards: false,
                fill,
                label,
            },
        );
    }
}

/// `text` without what XML cannot hold and no font draws: each control character becomes a space if
/// it is white space, else U+FFFD.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_whitespace() => ' ',
            c if c.is_control() || c == '\u{fffe}' || c == '\u{ffff}' => '\u{fffd}',
            c => c,
        })
        .collect()
}
