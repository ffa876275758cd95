//! Reads figures back: from the SVG with an XML parser, from the PNG with a decoder.

use super::*;
use roxmltree::{Document, Node};

mod any_input;
mod kinds;

const PLAIN: FigureOptions = FigureOptions {
    title: None,
    width: None,
    height: None,
    theme: Theme::Light,
};

fn attribute(node: Node<'_, '_>, name: &str) -> f64 {
    node.attribute(name)
        .unwrap_or_else(|| panic!("no {name}"))
        .parse()
        .unwrap()
}

/// Elements with a tag inside groups with a class.
fn marks<'a>(svg: &'a Document<'a>, class: &str, tag: &str) -> Vec<Node<'a, 'a>> {
    svg.descendants()
        .filter(|group| group.attribute("class") == Some(class))
        .flat_map(|group| group.descendants())
        .filter(|node| node.has_tag_name(tag))
        .collect()
}

fn text(node: Node<'_, '_>) -> String {
    node.descendants()
        .filter_map(|node| node.text().filter(|_| node.is_text()))
        .collect()
}

/// The numbers of a path's `d`.
fn numbers(node: Node<'_, '_>) -> Vec<(f64, f64)> {
    let numbers: Vec<f64> = node
        .attribute("d")
        .unwrap()
        .split(['M', 'L', 'Z', ' '])
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().unwrap())
        .collect();
    numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Values and places of labels such as `50`, `200k` and `10−3` along an axis, as the figure shows
/// them.
fn ticks(svg: &Document<'_>, class: &str) -> Vec<(f64, f64)> {
    marks(svg, class, "text")
        .into_iter()
        .map(|node| {
            let base = node.text().unwrap().replace('−', "-");
            let raised = node.descendants().find(|node| node.has_tag_name("tspan"));
            let value = match raised {
                Some(raised) => {
                    let digit: f64 = base.strip_suffix("×10").map_or(1.0, |d| d.parse().unwrap());
                    let exponent = raised.text().unwrap().replace('−', "-");
                    digit * 10f64.powi(exponent.parse().unwrap())
                }
                None => {
                    let number: f64 = base.trim_end_matches(['k', 'M']).parse().unwrap();
                    number
                        * match base.chars().last() {
                            Some('k') => 1e3,
                            Some('M') => 1e6,
                            _ => 1.0,
                        }
                }
            };
            let (x, y) = (attribute(node, "x"), attribute(node, "y"));
            // Labels along y have their baseline 0.35 of their size below the tick.
            (
                value,
                if class == "x-ticks" {
                    x
                } else {
                    y - 0.35 * 12.0
                },
            )
        })
        .collect()
}

/// Reads a value off a linear or log axis through two of its labels.
fn read_off(ticks: &[(f64, f64)], place: f64, log: bool) -> f64 {
    let value = |tick: (f64, f64)| if log { tick.0.ln() } else { tick.0 };
    let (first, last) = (ticks[0], *ticks.last().unwrap());
    let slope = (value(last) - value(first)) / (last.1 - first.1);
    let read = value(first) + slope * (place - first.1);
    if log { read.exp() } else { read }
}

fn random(seed: &mut u64) -> f64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 11) as f64 / (1u64 << 53) as f64
}

/// Densities around 10^-3, a tenth of them dead.
fn some_densities(count: usize) -> Vec<f64> {
    let mut seed = 7;
    (0..count)
        .map(|i| {
            let sum: f64 = (0..4).map(|_| random(&mut seed)).sum();
            if i % 10 == 0 {
                0.0
            } else {
                10f64.powf(-1.2 - sum)
            }
        })
        .collect()
}

fn one_density(densities: &[f64]) -> Figure {
    density(
        &[DensityRun {
            name: "run",
            densities,
        }],
        &PLAIN,
    )
    .unwrap()
}
