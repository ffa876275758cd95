//! Widths and outlines of the font that PNG figures are drawn with: a small reader for the one
//! TrueType file beside it, which is part of this program and so is not checked as input would be.
//!
//! It reads the tables `head`, `hhea`, `hmtx`, `cmap` (format 4), `loca` (short) and `glyf`, as the
//! OpenType specification 1.9 describes them. A glyph that cannot be read has no outline.

use super::scene::{Label, SUPERSCRIPT, printable};

/// Made by `font/make_subset.sh` from Arimo Regular 1.33; licence in `font/OFL.txt`.
static DATA: &[u8] = include_bytes!("font/plot_sans.ttf");

/// Composite glyphs may hold others, but in this font no deeper than this.
const MAX_DEPTH: usize = 4;

/// One step of an outline, in units of the text's size, y downwards from the baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Segment {
    Move(f64, f64),
    Line(f64, f64),
    /// Control point, end.
    Quad(f64, f64, f64, f64),
    Close,
}

/// Width of `text`, as a share of its size.
fn units(text: &str) -> f64 {
    printable(text)
        .chars()
        .map(|c| advance(glyph_of(c)).unwrap_or(0.0))
        .sum()
}

/// Width of `text` drawn at `size`, without kerning.
pub(crate) fn width(text: &str, size: f64) -> f64 {
    units(text) * size
}

/// Width of a label drawn at `size`.
pub(crate) fn label_width(label: &Label, size: f64) -> f64 {
    width(&label.text, size) + width(&label.superscript, size * SUPERSCRIPT.0)
}

/// `text`, with its middle replaced by an ellipsis if it is wider than `most`: run names often
/// differ at both ends.
pub(crate) fn shorten(text: &str, size: f64, most: f64) -> String {
    let text = printable(text);
    if width(&text, size) <= most {
        return text;
    }
    let chars: Vec<char> = text.chars().collect();
    // The share that fits is a good first guess; then one character less until it does.
    let guess = chars.len() as f64 * most / width(&text, size);
    for kept in (1..=(guess as usize).min(chars.len())).rev() {
        let (head, tail) = (kept.div_ceil(2), kept / 2);
        let short: String = chars[..head]
            .iter()
            .chain(['…'].iter())
            .chain(&chars[chars.len() - tail..])
            .collect();
        if width(&short, size) <= most {
            return short;
        }
    }
    "…".into()
}

/// Calls `draw` for every step of `text` at size 1, from left to right.
pub(crate) fn outline(text: &str, mut draw: impl FnMut(Segment)) {
    let mut x = 0.0;
    for c in printable(text).chars() {
        let glyph = glyph_of(c);
        let mut contours = Vec::new();
        if read_glyph(glyph, 0, &mut contours).is_some() {
            for contour in &contours {
                trace(contour, x, &mut draw);
            }
        }
        x += advance(glyph).unwrap_or(0.0);
    }
}

/// A point of a contour in font units, and whether the contour passes through it.
#[derive(Debug, Clone, Copy)]
struct Point {
    x: f64,
    y: f64,
    on: bool,
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn i16_at(data: &[u8], at: usize) -> Option<i16> {
    u16_at(data, at).map(|value| value as i16)
}

fn u32_at(data: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?) as usize)
}

fn table(tag: &[u8; 4]) -> Option<&'static [u8]> {
    let count = usize::from(u16_at(DATA, 4)?);
    let entry = (0..count)
        .map(|i| 12 + 16 * i)
        .find(|&at| DATA.get(at..at + 4) == Some(tag))?;
    let (start, length) = (u32_at(DATA, entry + 8)?, u32_at(DATA, entry + 12)?);
    DATA.get(start..start + length)
}

fn units_per_em() -> Option<f64> {
    u16_at(table(b"head")?, 18).map(f64::from)
}

/// The glyph of `c`; glyph 0, a box, if the font has none.
fn glyph_of(c: char) -> u16 {
    find_glyph(c).unwrap_or(0)
}

fn find_glyph(c: char) -> Option<u16> {
    let code = u16::try_from(u32::from(c)).ok()?;
    let cmap = table(b"cmap")?;
    let data = cmap.get(u32_at(cmap, 8)?..)?;
    let segments = usize::from(u16_at(data, 6)? / 2);
    let (ends, starts) = (14, 16 + 2 * segments);
    let (deltas, offsets) = (starts + 2 * segments, starts + 4 * segments);
    let segment = (0..segments).find(|i| u16_at(data, ends + 2 * i).is_some_and(|e| e >= code))?;
    let start = u16_at(data, starts + 2 * segment)?;
    let delta = u16_at(data, deltas + 2 * segment)?;
    let offset = u16_at(data, offsets + 2 * segment)?;
    if start > code {
        None
    } else if offset == 0 {
        Some(code.wrapping_add(delta))
    } else {
        // The offset counts from its own place, as the specification has it.
        let at = offsets + 2 * segment + usize::from(offset) + 2 * usize::from(code - start);
        u16_at(data, at)
            .filter(|&glyph| glyph != 0)
            .map(|glyph| glyph.wrapping_add(delta))
    }
}

/// Width of a glyph, as a share of the text's size.
fn advance(glyph: u16) -> Option<f64> {
    let with_width = u16_at(table(b"hhea")?, 34)?;
    let row = usize::from(glyph.min(with_width.checked_sub(1)?));
    Some(f64::from(u16_at(table(b"hmtx")?, 4 * row)?) / units_per_em()?)
}

/// Adds the contours of a glyph to `contours`.
fn read_glyph(glyph: u16, depth: usize, contours: &mut Vec<Vec<Point>>) -> Option<()> {
    let loca = table(b"loca")?;
    let start = 2 * usize::from(u16_at(loca, 2 * usize::from(glyph))?);
    let end = 2 * usize::from(u16_at(loca, 2 * usize::from(glyph) + 2)?);
    let data = table(b"glyf")?.get(start..end)?;
    if data.is_empty() {
        return Some(()); // a space
    }
    match i16_at(data, 0)? {
        count @ 0.. => read_contours(data, count as usize, contours),
        _ if depth < MAX_DEPTH => read_parts(data, depth, contours),
        _ => None,
    }
}

fn read_contours(data: &[u8], count: usize, contours: &mut Vec<Vec<Point>>) -> Option<()> {
    let ends: Vec<usize> = (0..count)
        .map(|i| u16_at(data, 10 + 2 * i).map(usize::from))
        .collect::<Option<_>>()?;
    let points = ends.last().map_or(0, |last| last + 1);
    let mut at = 12 + 2 * count + usize::from(u16_at(data, 10 + 2 * count)?);
    let mut flags = Vec::new();
    while flags.len() < points {
        let flag = *data.get(at)?;
        let times = if flag & 8 == 0 {
            1
        } else {
            usize::from(*data.get(at + 1)?) + 1
        };
        at += if flag & 8 == 0 { 1 } else { 2 };
        flags.extend(std::iter::repeat_n(flag, times));
    }
    // A coordinate is the step from the one before: a byte with its sign among the flags, or two
    // bytes, or nothing if it stays.
    let mut read = |short: u8, same: u8| {
        let mut value = 0.0;
        flags[..points]
            .iter()
            .map(|flag| {
                if flag & short != 0 {
                    let step = f64::from(*data.get(at)?);
                    at += 1;
                    value += if flag & same != 0 { step } else { -step };
                } else if flag & same == 0 {
                    value += f64::from(i16_at(data, at)?);
                    at += 2;
                }
                Some(value)
            })
            .collect::<Option<Vec<f64>>>()
    };
    let (xs, ys) = (read(2, 16)?, read(4, 32)?);
    let mut first = 0;
    for end in ends {
        let point = |i: usize| Point {
            x: xs[i],
            y: ys[i],
            on: flags[i] & 1 != 0,
        };
        contours.push((first..=end).map(point).collect());
        first = end + 1;
    }
    Some(())
}

/// Reads a glyph that consists of others: a letter and its accent.
fn read_parts(data: &[u8], depth: usize, contours: &mut Vec<Vec<Point>>) -> Option<()> {
    let mut at = 10;
    loop {
        let (flags, glyph) = (u16_at(data, at)?, u16_at(data, at + 2)?);
        let (dx, dy) = if flags & 1 != 0 {
            (
                f64::from(i16_at(data, at + 4)?),
                f64::from(i16_at(data, at + 6)?),
            )
        } else {
            (
                f64::from(*data.get(at + 4)? as i8),
                f64::from(*data.get(at + 5)? as i8),
            )
        };
        at += if flags & 1 != 0 { 8 } else { 6 };
        let fraction = |at| i16_at(data, at).map(|value| f64::from(value) / 16384.0);
        let (a, b, c, d) = if flags & 0x08 != 0 {
            (fraction(at)?, 0.0, 0.0, fraction(at)?)
        } else if flags & 0x40 != 0 {
            (fraction(at)?, 0.0, 0.0, fraction(at + 2)?)
        } else if flags & 0x80 != 0 {
            (
                fraction(at)?,
                fraction(at + 2)?,
                fraction(at + 4)?,
                fraction(at + 6)?,
            )
        } else {
            (1.0, 0.0, 0.0, 1.0)
        };
        at += match flags & 0xc8 {
            0x08 => 2,
            0x40 => 4,
            0x80 => 8,
            _ => 0,
        };
        let mut part = Vec::new();
        read_glyph(glyph, depth + 1, &mut part)?;
        let place = |p: &Point| Point {
            x: a * p.x + c * p.y + dx,
            y: b * p.x + d * p.y + dy,
            on: p.on,
        };
        contours.extend(
            part.iter()
                .map(|contour| contour.iter().map(place).collect()),
        );
        if flags & 0x20 == 0 {
            return Some(());
        }
    }
}

/// Draws a contour. Between two points off the contour lies one on it, halfway.
fn trace(contour: &[Point], shift: f64, draw: &mut impl FnMut(Segment)) {
    let Some(em) = units_per_em() else { return };
    let points: Vec<Point> = contour
        .iter()
        .map(|p| Point {
            x: p.x / em + shift,
            y: -p.y / em,
            on: p.on,
        })
        .collect();
    let middle = |a: Point, b: Point| Point {
        x: (a.x + b.x) / 2.0,
        y: (a.y + b.y) / 2.0,
        on: true,
    };
    let (Some(&first), Some(&last)) = (points.first(), points.last()) else {
        return;
    };
    let start = match (first.on, last.on) {
        (true, _) => first,
        (false, true) => last,
        (false, false) => middle(first, last),
    };
    draw(Segment::Move(start.x, start.y));
    let mut control: Option<Point> = None;
    for &point in points.iter().skip(usize::from(first.on)).chain([&start]) {
        match (control, point.on) {
            (None, true) => draw(Segment::Line(point.x, point.y)),
            (None, false) => control = Some(point),
            (Some(c), true) => {
                draw(Segment::Quad(c.x, c.y, point.x, point.y));
                control = None;
            }
            (Some(c), false) => {
                let end = middle(c, point);
                draw(Segment::Quad(c.x, c.y, end.x, end.y));
                control = Some(point);
            }
        }
    }
    draw(Segment::Close);
}
