//! Writes a scene as SVG 1.1: text stays text, numbers have two decimals.

use super::scene::{Anchor, Color, Mark, SUPERSCRIPT, Scene, printable};
use std::fmt::Write;

/// Fonts with the widths that the layout counts on, then whatever the viewer has.
const FONTS: &str = "Helvetica, Arial, Arimo, 'Liberation Sans', sans-serif";

// `write!` to a `String` cannot fail, so its result is dropped throughout.
pub(crate) fn write(scene: &Scene) -> String {
    let mut out = String::new();
    let (width, height) = (number(scene.width), number(scene.height));
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" font-family=\"{FONTS}\">\n\
         <title>{}</title>\n\
         <rect class=\"background\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>\n",
        escape(&scene.name),
        hex(scene.background),
    );
    for layer in &scene.layers {
        let _ = writeln!(out, "<g class=\"{}\">", layer.class);
        for mark in &layer.marks {
            write_mark(&mut out, mark);
        }
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn write_mark(out: &mut String, mark: &Mark) {
    let _ = match mark {
        Mark::Rect {
            x,
            y,
            width,
            height,
            fill,
            opacity,
        } => writeln!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"{}/>",
            number(*x),
            number(*y),
            number(*width),
            number(*height),
            hex(*fill),
            translucent(*opacity),
        ),
        Mark::Line { points, stroke } => {
            let dash = match stroke.dash {
                [] => String::new(),
                dash => {
                    let lengths: Vec<_> = dash.iter().map(|length| number(*length)).collect();
                    format!(" stroke-dasharray=\"{}\"", lengths.join(" "))
                }
            };
            writeln!(
                out,
                "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" \
                 stroke-linejoin=\"round\"{dash}/>",
                path(points),
                hex(stroke.color),
                number(stroke.width),
            )
        }
        Mark::Point {
            x,
            y,
            radius,
            shape,
            fill,
            edge,
        } => {
            let look = format!("fill=\"{}\" stroke=\"{}\"", hex(*fill), hex(*edge));
            let corners = shape.corners(*radius);
            if corners.is_empty() {
                let (x, y, r) = (number(*x), number(*y), number(*radius));
                writeln!(out, "<circle cx=\"{x}\" cy=\"{y}\" r=\"{r}\" {look}/>")
            } else {
                let corners: Vec<_> = corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
                writeln!(out, "<path d=\"{}Z\" {look}/>", path(&corners))
            }
        }
        Mark::Dots {
            points,
            radius,
            fill,
            opacity,
        } => {
            let r = number(*radius);
            let _ = write!(out, "<g fill=\"{}\"{}>", hex(*fill), translucent(*opacity));
            for (x, y) in points {
                let _ = write!(
                    out,
                    "<circle cx=\"{}\" cy=\"{}\" r=\"{r}\"/>",
                    number(*x),
                    number(*y)
                );
            }
            writeln!(out, "</g>")
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
            let (x, y) = (number(*x), number(*y));
            let anchor = match anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            let turn = match upwards {
                true => format!(" transform=\"rotate(-90 {x} {y})\""),
                false => String::new(),
            };
            let raised = if label.superscript.is_empty() {
                String::new()
            } else {
                format!(
                    "<tspan dy=\"{}\" font-size=\"{}\">{}</tspan>",
                    number(-SUPERSCRIPT.1 * size),
                    number(SUPERSCRIPT.0 * size),
                    escape(&label.superscript),
                )
            };
            writeln!(
                out,
                "<text x=\"{x}\" y=\"{y}\" font-size=\"{}\" text-anchor=\"{anchor}\" \
                 fill=\"{}\"{turn}>{}{raised}</text>",
                number(*size),
                hex(*fill),
                escape(&label.text),
            )
        }
    };
}

fn path(points: &[(f64, f64)]) -> String {
    let mut out = String::new();
    for (i, (x, y)) in points.iter().enumerate() {
        let letter = if i == 0 { 'M' } else { 'L' };
        let _ = write!(out, "{letter}{} {}", number(*x), number(*y));
    }
    out
}

fn translucent(opacity: f64) -> String {
    if opacity < 1.0 {
        format!(" fill-opacity=\"{}\"", number(opacity))
    } else {
        String::new()
    }
}

/// Two decimals, without trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".into()
    } else {
        text.into()
    }
}

fn hex(Color(r, g, b): Color) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn escape(text: &str) -> String {
    printable(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
