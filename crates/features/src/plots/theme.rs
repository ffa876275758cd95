//! Colours, dashes and markers of series: the palette of Okabe & Ito (2008), which readers with
//! colour-vision deficiency can tell apart.

use super::scene::{Color, Shape};

/// Light figures for papers, or dark ones for slides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Theme {
    /// Dark ink on white.
    #[default]
    Light,
    /// Light ink on near black.
    Dark,
}

// Yellow is left out of the light palette, and black and blue out of the dark one: too faint there.
const LIGHT: [Color; 6] = [
    Color(0x00, 0x72, 0xb2),
    Color(0xd5, 0x5e, 0x00),
    Color(0x00, 0x9e, 0x73),
    Color(0xcc, 0x79, 0xa7),
    Color(0x56, 0xb4, 0xe9),
    Color(0xe6, 0x9f, 0x00),
];
const DARK: [Color; 6] = [
    Color(0x56, 0xb4, 0xe9),
    Color(0xe6, 0x9f, 0x00),
    Color(0x1f, 0xc0, 0x90),
    Color(0xf0, 0xe4, 0x42),
    Color(0xde, 0x8f, 0xbb),
    Color(0xf0, 0x7a, 0x2a),
];
const DASHES: [&[f64]; 4] = [&[], &[6.0, 3.0], &[1.5, 2.5], &[8.0, 2.5, 1.5, 2.5]];

impl Theme {
    pub(crate) fn background(self) -> Color {
        match self {
            Self::Light => Color(0xff, 0xff, 0xff),
            Self::Dark => Color(0x16, 0x18, 0x1d),
        }
    }

    /// Text and axes.
    pub(crate) fn ink(self) -> Color {
        match self {
            Self::Light => Color(0x22, 0x22, 0x22),
            Self::Dark => Color(0xe4, 0xe6, 0xea),
        }
    }

    /// Notes.
    pub(crate) fn muted(self) -> Color {
        match self {
            Self::Light => Color(0x5c, 0x5c, 0x5c),
            Self::Dark => Color(0xa6, 0xab, 0xb5),
        }
    }

    pub(crate) fn grid(self) -> Color {
        match self {
            Self::Light => Color(0xe8, 0xe8, 0xe8),
            Self::Dark => Color(0x2d, 0x31, 0x39),
        }
    }

    /// Colour of series `index`. Repeats after six, with another dash or marker.
    pub(crate) fn color(self, index: usize) -> Color {
        let palette = match self {
            Self::Light => &LIGHT,
            Self::Dark => &DARK,
        };
        palette[index % palette.len()]
    }
}

/// Dashes of series `index`: solid for the first six.
pub(crate) fn dash(index: usize) -> &'static [f64] {
    DASHES[(index / LIGHT.len()) % DASHES.len()]
}

/// Marker of series `index`. Neighbours differ in shape and in colour.
pub(crate) fn shape(index: usize) -> Shape {
    const SHAPES: [Shape; 5] = [
        Shape::Circle,
        Shape::Square,
        Shape::Triangle,
        Shape::Diamond,
        Shape::TriangleDown,
    ];
    SHAPES[index % SHAPES.len()]
}
