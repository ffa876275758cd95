//! Odd text and odd numbers, both formats, the font, and the same bytes every time.

use super::*;

#[test]
fn text_with_markup_and_control_characters_stays_text() {
    let name = "a<b> & \"c\" ]]> \u{1}\u{7f}\u{ffff}\n日本 $x$";
    let options = FigureOptions {
        title: Some(name.into()),
        ..PLAIN
    };
    let figure = latent(
        name,
        &[ActivationBin {
            lower: 0.0,
            upper: 1.0,
            count: 5,
        }],
        Scale::Auto,
        &options,
    );
    let figure = figure.unwrap();
    let svg = figure.svg();
    let svg = Document::parse(&svg).unwrap();
    let shown = "a<b> & \"c\" ]]> \u{fffd}\u{fffd}\u{fffd} 日本 $x$";
    assert_eq!(text(marks(&svg, "title", "text")[0]), shown);
    assert_eq!(
        svg.descendants()
            .find(|n| n.has_tag_name("title"))
            .map(text)
            .unwrap(),
        shown
    );
    figure.png(1.0).unwrap();
}

/// Every kind, with `values` for all numbers.
fn every_kind(
    values: &[f64],
    name: &str,
    options: &FigureOptions,
) -> Vec<Result<Figure, FeaturesError>> {
    let half = values.len() / 2;
    let (x, y) = (&values[..half], &values[half..2 * half]);
    let points: Vec<_> = x
        .iter()
        .zip(y)
        .map(|(&l0, &metric)| FrontierPoint {
            run: name,
            architecture: name,
            l0,
            metric,
        })
        .collect();
    let bins: Vec<_> = x
        .iter()
        .zip(y)
        .map(|(&lower, &upper)| ActivationBin {
            lower,
            upper,
            count: upper as u64,
        })
        .collect();
    let curves = [
        Curve { run: name, x, y },
        Curve {
            run: "other",
            x: y,
            y: x,
        },
    ];
    let mut figures = vec![
        density(
            &[DensityRun {
                name,
                densities: values,
            }],
            options,
        ),
        density(
            &[
                DensityRun { name, densities: x },
                DensityRun { name, densities: y },
            ],
            options,
        ),
    ];
    for scale in [Scale::Auto, Scale::Linear, Scale::Log] {
        let panel = Panel {
            metric: name,
            scale,
            curves: &curves,
        };
        figures.push(training(&[panel], name, scale == Scale::Log, options));
        figures.push(training(&[panel; 5], name, false, options));
        figures.push(frontier(&points, name, (scale, scale), options));
        figures.push(latent(name, &bins, scale, options));
        let data = Scatter {
            x_label: name,
            x,
            x_scale: scale,
            y_label: name,
            y,
            y_scale: scale,
        };
        figures.push(scatter(&data, options));
    }
    figures
}

#[test]
fn any_numbers_give_a_figure_or_an_error() {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.0 + 1e-15,
        1e-5,
        3.0,
        1e15,
        1e20,
        1e-20,
        1e99,
        1e101,
        1e-101,
        f64::MAX,
        f64::MIN_POSITIVE,
        5e-324,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1e300,
        -1e300,
    ];
    let (mut seed, mut drawn) = (11, 0);
    for round in 0..400 {
        let length = [0, 1, 2, 3, 8, 40][round % 6];
        let kinds = [2.0, 6.0, 11.0, special.len() as f64][round % 4];
        let values: Vec<f64> = (0..length)
            .map(|_| special[(random(&mut seed) * kinds) as usize])
            .collect();
        let (width, height) = [(240, 240), (640, 400), (2000, 300)][round % 3];
        let name = [
            "",
            "run",
            "a rather long name of a run, which says all about its settings",
        ][round % 3];
        let options = FigureOptions {
            title: Some(name.into()),
            width: Some(width),
            height: Some(height),
            theme: Theme::Dark,
        };
        for figure in every_kind(&values, name, &options).into_iter().flatten() {
            drawn += 1;
            let svg = figure.svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{values:?}");
            check_inside(&svg);
            if round % 16 == 0 {
                figure.png(0.5).unwrap();
            }
        }
    }
    assert!(drawn > 2000, "{drawn}");
}

/// All text and all marks are within the figure.
fn check_inside(svg: &str) {
    let svg = Document::parse(svg).unwrap();
    let (width, height) = (
        attribute(svg.root_element(), "width"),
        attribute(svg.root_element(), "height"),
    );
    for node in svg.descendants().filter(|node| node.has_tag_name("text")) {
        let (x, y, size) = (
            attribute(node, "x"),
            attribute(node, "y"),
            attribute(node, "font-size"),
        );
        let length = font::width(&text(node), size);
        let (before, after) = match node.attribute("text-anchor").unwrap() {
            "start" => (0.0, length),
            "middle" => (length / 2.0, length / 2.0),
            _ => (length, 0.0),
        };
        let inside = if node.attribute("transform").is_some() {
            x >= 0.7 * size && y - after >= -1.0 && y + before <= height + 1.0
        } else {
            x - before >= -1.0 && x + after <= width + 1.0 && y >= 0.7 * size && y <= height
        };
        assert!(
            inside,
            "{} of {width} x {height}: {:?}",
            svg.input_text()[node.range()].to_owned(),
            length
        );
    }
    for node in svg.descendants().filter(|node| node.has_tag_name("path")) {
        for (x, y) in numbers(node) {
            assert!(
                x >= -2.0 && x <= width + 2.0 && y >= -2.0 && y <= height + 2.0,
                "{x} {y}"
            );
        }
    }
}

#[test]
fn hopeless_input_is_refused_with_the_reason() {
    let message = |figure: Result<Figure, FeaturesError>| figure.unwrap_err().to_string();
    assert_eq!(
        message(density(&[], &PLAIN)),
        "runs: found no run, expected at least one"
    );
    let bad = DensityRun {
        name: "run",
        densities: &[0.1, 1.5],
    };
    assert_eq!(
        message(density(&[bad], &PLAIN)),
        "densities: found 1.5 for latent 1, expected a share from 0 to 1"
    );
    assert!(message(training(&[], "Tokens", false, &PLAIN)).starts_with("panels: "));
    let curves = [Curve {
        run: "run",
        x: &[1.0],
        y: &[],
    }];
    let panel = Panel {
        metric: "FVU",
        scale: Scale::Auto,
        curves: &curves,
    };
    assert!(message(training(&[panel], "Tokens", false, &PLAIN)).starts_with("curves: "));
    assert!(message(latent("", &[], Scale::Auto, &PLAIN)).starts_with("bins: "));
    let small = FigureOptions {
        width: Some(10),
        ..PLAIN
    };
    let run = DensityRun {
        name: "run",
        densities: &[0.1],
    };
    assert_eq!(
        message(density(&[run], &small)),
        "width: found 10, expected a size from 240 to 8192"
    );
    for scale in [0.0, -1.0, f64::NAN, 1e9] {
        assert!(one_density(&[0.1]).png(scale).is_err());
    }
}

#[test]
fn a_figure_too_small_for_its_panels_is_refused() {
    let curves = [Curve {
        run: "run",
        x: &[1.0, 2.0],
        y: &[1.0, 2.0],
    }];
    let panel = Panel {
        metric: "FVU",
        scale: Scale::Auto,
        curves: &curves,
    };
    let small = FigureOptions {
        height: Some(240),
        ..PLAIN
    };
    let error = training(&[panel; 6], "Tokens", false, &small)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("height: found room for a plot of "),
        "{error}"
    );
    training(&[panel; 6], "Tokens", false, &PLAIN).unwrap();
}

#[test]
fn counts_have_no_ticks_at_fractions() {
    let svg = one_density(&[0.1, 0.2, 0.0]).svg();
    let svg = Document::parse(&svg).unwrap();
    assert!(
        ticks(&svg, "y-ticks")
            .iter()
            .all(|(value, _)| value.fract() == 0.0)
    );
}

#[test]
fn dead_dictionaries_and_single_points_have_a_figure() {
    let svg = one_density(&[0.0; 8]).svg();
    let svg = Document::parse(&svg).unwrap();
    assert_eq!(
        text(marks(&svg, "note", "text")[0]),
        "8 latents, 8 dead (100.0%)"
    );
    assert!(marks(&svg, "bars", "rect").is_empty() && marks(&svg, "median", "path").is_empty());
    let point = FrontierPoint {
        run: "only",
        architecture: "topk",
        l0: 32.0,
        metric: 0.1,
    };
    let svg = frontier(&[point], "FVU", (Scale::Auto, Scale::Auto), &PLAIN)
        .unwrap()
        .svg();
    assert_eq!(
        marks(&Document::parse(&svg).unwrap(), "points", "circle").len(),
        1
    );
}

#[test]
fn the_png_shows_the_bars_of_the_svg_at_the_scaled_size() {
    let figure = one_density(&some_densities(4000));
    let text = figure.svg();
    let svg = Document::parse(&text).unwrap();
    for scale in [1.0, 1.5, 3.0] {
        let png = tiny_skia::Pixmap::decode_png(&figure.png(scale).unwrap()).unwrap();
        assert_eq!(
            (f64::from(png.width()), f64::from(png.height())),
            (640.0 * scale, 400.0 * scale)
        );
        let pixel = |x: f64, y: f64| {
            let color = png.pixel((x * scale) as u32, (y * scale) as u32).unwrap();
            (color.red(), color.green(), color.blue())
        };
        let line = numbers(marks(&svg, "median", "path")[0])[0].0;
        for bar in marks(&svg, "bars", "rect") {
            let [x, y, width, height] =
                ["x", "y", "width", "height"].map(|name| attribute(bar, name));
            let middle = x + width / 2.0;
            if height > 4.0 && (middle - line).abs() > 4.0 {
                assert_eq!(pixel(middle, y + 2.0), (0x00, 0x72, 0xb2));
                assert_ne!(pixel(middle, y - 2.0), (0x00, 0x72, 0xb2));
            }
        }
        // Ink of the text "Latents", turned upwards at the left edge.
        let label = marks(&svg, "y-label", "text")[0];
        let (x, y) = (attribute(label, "x"), attribute(label, "y"));
        let dark = (-20..20)
            .flat_map(|dy| (-9..0).map(move |dx| (dx, dy)))
            .filter(|(dx, dy)| pixel(x + f64::from(*dx), y + f64::from(*dy)).0 < 0x80)
            .count();
        assert!((60..300).contains(&dark), "{dark}");
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let values: Vec<f64> = some_densities(300)
        .into_iter()
        .map(|density| density + 1e-6)
        .collect();
    let draw = || {
        let figures = every_kind(&values, "run", &PLAIN).into_iter().flatten();
        figures
            .map(|figure| (figure.svg(), figure.png(1.0).unwrap()))
            .collect::<Vec<_>>()
    };
    let first = draw();
    assert!(first.len() >= 10);
    assert_eq!(first, draw());
}

#[test]
fn the_font_has_the_widths_and_outlines_that_fonttools_reads() {
    // Advance and bounds (x and y, least and most) in units of 1/2048, from fonttools 4.68.0.
    let glyphs = FONTTOOLS;
    for (letter, advance, bounds) in glyphs {
        let text = letter.to_string();
        assert_eq!(
            (font::width(&text, 1.0) * 2048.0).round() as i32,
            advance,
            "{letter}"
        );
        let mut found = [i32::MAX, i32::MAX, i32::MIN, i32::MIN];
        let mut add = |x: f64, y: f64| {
            let (x, y) = ((x * 2048.0).round() as i32, (-y * 2048.0).round() as i32);
            found = [
                found[0].min(x),
                found[1].min(y),
                found[2].max(x),
                found[3].max(y),
            ];
        };
        font::outline(&text, |segment| match segment {
            font::Segment::Move(x, y) | font::Segment::Line(x, y) => add(x, y),
            font::Segment::Quad(cx, cy, x, y) => {
                add(cx, cy);
                add(x, y);
            }
            font::Segment::Close => {}
        });
        assert_eq!(found, bounds, "{letter}");
    }
    let (whole, parts) = (
        font::width("10−3", 12.0),
        [font::width("10", 12.0), font::width("−3", 12.0)],
    );
    assert!((whole - parts[0] - parts[1]).abs() < 1e-12);
    let short = font::shorten("a-run-with-a-long-name", 12.0, 70.0);
    assert!(
        short.starts_with("a-r") && short.ends_with("ame") && short.contains('…'),
        "{short}"
    );
    assert!(
        (50.0..=70.0).contains(&font::width(&short, 12.0)),
        "{short}"
    );
    assert_eq!(font::shorten("fits", 12.0, 70.0), "fits");
    assert!(font::width(&font::shorten(&"x".repeat(5000), 12.0, 99.0), 12.0) <= 99.0);
}

/// Letters, some of them composite, with advance and bounds.
const FONTTOOLS: [(char, i32, [i32; 4]); 9] = [
    ('A', 1366, [4, 0, 1362, 1409]),
    ('g', 1139, [86, -425, 1007, 1099]),
    ('Å', 1366, [4, 0, 1362, 1787]),
    ('é', 1139, [87, -20, 1048, 1508]),
    ('ř', 682, [56, 0, 718, 1491]),
    ('Ω', 1531, [87, 0, 1443, 1430]),
    ('0', 1139, [80, -20, 1059, 1430]),
    ('−', 1196, [101, 608, 1096, 754]),
    ('₂', 682, [41, -367, 643, 491]),
];
