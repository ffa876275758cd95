//! Figures for papers: firing density, training curves, sparsity frontier, one latent's activations
//! and a scatter of latents, each as SVG and as PNG.
//!
//! Every kind has one function. It takes plain slices, and returns a [`Figure`]:
//!
//! ```
//! # use lapidary_features::plots::{DensityRun, FigureOptions, density};
//! let densities = [0.0, 1e-4, 2e-3, 2e-3, 0.4];
//! let run = DensityRun { name: "topk", densities: &densities };
//! let figure = density(&[run], &FigureOptions::default())?;
//! let svg = figure.svg();
//! let png = figure.png(2.0)?; // 2 pixels per SVG unit
//! # assert!(svg.starts_with("<svg") && png.starts_with(b"\x89PNG"));
//! # Ok::<(), lapidary_features::FeaturesError>(())
//! ```
//!
//! The same input gives the same bytes. Both formats draw the same shapes. The SVG asks the viewer
//! for a font like Helvetica; the PNG uses the font in `font/`, which has the same widths.

mod axis;
mod chart;
mod density;
mod font;
mod frame;
mod frontier;
mod labels;
mod latent;
mod legend;
mod png;
mod scatter;
mod scene;
mod svg;
mod theme;
mod training;

#[cfg(test)]
mod tests;

pub use density::{DensityRun, density};
pub use frontier::{FrontierPoint, frontier};
pub use latent::{ActivationBin, latent};
pub use scatter::{Scatter, scatter};
pub use theme::Theme;
pub use training::{Curve, Panel, training};

use crate::FeaturesError;
use scene::Scene;

/// Smallest and largest width and height of a figure.
const SIZES: (u32, u32) = (240, 8192);
/// Largest number of pixels of a PNG.
const MAX_PIXELS: f64 = 64e6;

/// Which scale an axis has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Logarithmic if all values are positive and the largest is at least 10 times the smallest.
    #[default]
    Auto,
    /// Linear.
    Linear,
    /// Logarithmic. Values that are not positive are left out, and the figure says how many.
    Log,
}

/// What all kinds of figures have in common. A figure that is too small for its text and plots is
/// refused, with [`FeaturesError::Input`].
#[derive(Debug, Clone, Default)]
pub struct FigureOptions {
    /// A title above the figure. None by default, since papers have captions.
    pub title: Option<String>,
    /// Width in SVG units (CSS pixels), from 240 to 8192. Each kind has its own default.
    pub width: Option<u32>,
    /// Height in SVG units (CSS pixels), from 240 to 8192. Each kind has its own default.
    pub height: Option<u32>,
    /// Colours.
    pub theme: Theme,
}

impl FigureOptions {
    /// The size, checked, with a kind's default for what is not given.
    fn size(&self, default: (u32, u32)) -> Result<(f64, f64), FeaturesError> {
        let check = |field, given: Option<u32>, default| {
            let value = given.unwrap_or(default);
            if (SIZES.0..=SIZES.1).contains(&value) {
                Ok(f64::from(value))
            } else {
                let (smallest, largest) = SIZES;
                let expected = format!("a size from {smallest} to {largest}");
                Err(FeaturesError::Input {
                    field,
                    found: value.to_string(),
                    expected,
                })
            }
        };
        Ok((
            check("width", self.width, default.0)?,
            check("height", self.height, default.1)?,
        ))
    }
}

/// A figure that is laid out and can be written as SVG or PNG.
#[derive(Debug, Clone)]
pub struct Figure {
    scene: Scene,
}

impl Figure {
    /// The figure as an SVG document.
    pub fn svg(&self) -> String {
        svg::write(&self.scene)
    }

    /// The figure as a PNG file with `scale` pixels per SVG unit: `width · scale` pixels wide,
    /// rounded.
    ///
    /// Text outside Latin and Greek is drawn as boxes, since the font of the PNG has no more.
    ///
    /// # Errors
    ///
    /// [`FeaturesError::Input`] if `scale` is not positive, or the PNG has over 64 million pixels.
    pub fn png(&self, scale: f64) -> Result<Vec<u8>, FeaturesError> {
        let (width, height) = (
            (self.scene.width * scale).round(),
            (self.scene.height * scale).round(),
        );
        if !(width >= 1.0 && height >= 1.0 && width * height <= MAX_PIXELS) {
            return Err(FeaturesError::Input {
                field: "scale",
                found: scale.to_string(),
                expected: "a positive number that gives at most 64 million pixels".into(),
            });
        }
        png::encode(&self.scene, scale, width as u32, height as u32)
    }
}

/// An error for input without anything to draw.
fn nothing(field: &'static str, found: &str, expected: &str) -> FeaturesError {
    FeaturesError::Input {
        field,
        found: found.into(),
        expected: expected.into(),
    }
}

/// `value` with commas between thousands.
fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
