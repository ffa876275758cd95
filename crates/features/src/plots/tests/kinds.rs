//! Each kind of figure shows its numbers: read off the axes through their labels.

use super::*;

#[test]
fn bars_of_the_density_figure_show_the_counts_on_the_axes() {
    let densities = some_densities(4000);
    let svg = one_density(&densities).svg();
    let svg = Document::parse(&svg).unwrap();
    let (x_ticks, y_ticks) = (ticks(&svg, "x-ticks"), ticks(&svg, "y-ticks"));
    let bars = marks(&svg, "bars", "rect");
    assert!(bars.len() > 20);
    let mut total = 0;
    for bar in bars {
        let (x, width) = (attribute(bar, "x"), attribute(bar, "width"));
        // Bars have a gap of half a unit on each side.
        let low = read_off(&x_ticks, x - 0.5, true);
        let high = read_off(&x_ticks, x + width + 0.5, true);
        let shown = read_off(&y_ticks, attribute(bar, "y"), false);
        assert!((high / low).log10() > 0.098 && (high / low).log10() < 0.102);
        // The edge as it is shown has two decimals; the edge that is meant is a tenth of a decade.
        let edge = |value: f64| 10f64.powf((value.log10() * 10.0).round() / 10.0);
        let inside = |density: &&f64| **density >= edge(low) && **density < edge(high);
        let count = densities.iter().filter(inside).count();
        assert!(
            (shown - count as f64).abs() < 0.5,
            "{shown} for {count} from {low} to {high}"
        );
        let foot = attribute(bar, "y") + attribute(bar, "height");
        assert!(read_off(&y_ticks, foot, false).abs() < 0.1);
        total += count;
    }
    assert_eq!(total, 3600);
}

#[test]
fn the_density_figure_counts_dead_latents_and_marks_the_median_of_the_others() {
    let mut densities = some_densities(4001);
    let svg = one_density(&densities).svg();
    let svg = Document::parse(&svg).unwrap();
    assert_eq!(
        text(marks(&svg, "note", "text")[0]),
        "4,001 latents, 401 dead (10.0%)"
    );
    densities.retain(|density| *density > 0.0);
    densities.sort_by(f64::total_cmp);
    let median = (densities[1799] + densities[1800]) / 2.0;
    let line = numbers(marks(&svg, "median", "path")[0]);
    let shown = read_off(&ticks(&svg, "x-ticks"), line[0].0, true);
    assert!((shown / median - 1.0).abs() < 1e-3, "{shown} {median}");
    let label = text(marks(&svg, "median", "text")[0]);
    assert_eq!(label, format!("median {:.1}×10−4", median * 1e4));
}

#[test]
fn a_latent_that_always_fires_is_in_the_last_bar() {
    let svg = one_density(&[1.0, 1.0, 0.011]).svg();
    let svg = Document::parse(&svg).unwrap();
    let bars = marks(&svg, "bars", "rect");
    let (right, at_one) = (bars[0], ticks(&svg, "x-ticks").last().unwrap().1);
    assert!((attribute(right, "x") + attribute(right, "width") + 0.5 - at_one).abs() < 0.02);
    let heights: Vec<f64> = bars.iter().map(|bar| attribute(*bar, "height")).collect();
    assert!((heights[0] - 2.0 * heights[1]).abs() < 0.03, "{heights:?}");
}

#[test]
fn several_dictionaries_of_different_sizes_are_compared_by_share() {
    let (many, few) = (some_densities(4000), some_densities(400));
    let runs = [
        DensityRun {
            name: "many",
            densities: &many,
        },
        DensityRun {
            name: "few",
            densities: &few,
        },
    ];
    let svg = density(&runs, &PLAIN).unwrap().svg();
    let svg = Document::parse(&svg).unwrap();
    assert_eq!(text(marks(&svg, "y-label", "text")[0]), "Share of latents");
    let y_ticks = ticks(&svg, "y-ticks");
    for outline in marks(&svg, "outlines", "path") {
        // Every other step of an outline is a bin's top, and all bins hold the active latents.
        let tops = numbers(outline);
        let sum: f64 = tops[1..tops.len() - 1]
            .chunks(2)
            .map(|ends| read_off(&y_ticks, ends[0].1, false))
            .sum();
        assert!((sum - 0.9).abs() < 0.01, "{sum}");
    }
    let legend: Vec<_> = marks(&svg, "legend", "text")
        .into_iter()
        .map(text)
        .collect();
    assert_eq!(legend, ["many (400 dead)", "few (40 dead)"]);
}

#[test]
fn training_curves_lie_where_their_values_are() {
    let x: Vec<f64> = (0..50).map(|i| f64::from(i) * 12_000.0).collect();
    let y: Vec<f64> = x.iter().map(|x| 0.02 + 0.9 * (-x / 9e4).exp()).collect();
    for (scale, log) in [(Scale::Auto, true), (Scale::Linear, false)] {
        let curves = [Curve {
            run: "run",
            x: &x,
            y: &y,
        }];
        let panel = Panel {
            metric: "FVU",
            scale,
            curves: &curves,
        };
        let svg = training(&[panel], "Tokens", false, &PLAIN).unwrap().svg();
        let svg = Document::parse(&svg).unwrap();
        let (x_ticks, y_ticks) = (ticks(&svg, "x-ticks"), ticks(&svg, "y-ticks"));
        assert!(x_ticks[0].0 <= 0.0 && x_ticks.last().unwrap().0 >= 588_000.0);
        assert!(y_ticks[0].0 <= y[49] && y_ticks.last().unwrap().0 >= y[0]);
        let points = numbers(marks(&svg, "curves", "path")[0]);
        assert_eq!(points.len(), 50);
        for (i, (px, py)) in points.into_iter().enumerate() {
            assert!((read_off(&x_ticks, px, false) - x[i]).abs() < 30.0);
            assert!((read_off(&y_ticks, py, log) / y[i] - 1.0).abs() < 0.02);
        }
    }
}

#[test]
fn a_single_spike_among_a_million_steps_is_seen_and_the_file_is_small() {
    let x: Vec<f64> = (0..1_000_000).map(f64::from).collect();
    let mut y = vec![1.0; x.len()];
    y[345_678] = 9.0;
    let curves = [Curve {
        run: "run",
        x: &x,
        y: &y,
    }];
    let panel = Panel {
        metric: "Loss",
        scale: Scale::Linear,
        curves: &curves,
    };
    let svg = training(&[panel], "Steps", false, &PLAIN).unwrap().svg();
    assert!(svg.len() < 100_000, "{} bytes", svg.len());
    let svg = Document::parse(&svg).unwrap();
    let points = numbers(marks(&svg, "curves", "path")[0]);
    let peak = points
        .iter()
        .copied()
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap();
    assert!((read_off(&ticks(&svg, "y-ticks"), peak.1, false) - 9.0).abs() < 0.01);
    assert!((read_off(&ticks(&svg, "x-ticks"), peak.0, false) - 345_678.0).abs() < 1000.0);
}

#[test]
fn a_diverged_run_has_gaps_and_a_note() {
    let x = [1.0, 2.0, 3.0, 4.0, 5.0];
    let y = [1.0, 0.5, f64::NAN, 0.4, f64::INFINITY];
    let curves = [Curve {
        run: "run",
        x: &x,
        y: &y,
    }];
    let panel = Panel {
        metric: "Loss",
        scale: Scale::Auto,
        curves: &curves,
    };
    let svg = training(&[panel], "Steps", false, &PLAIN).unwrap().svg();
    let svg = Document::parse(&svg).unwrap();
    assert_eq!(marks(&svg, "curves", "path").len(), 2);
    assert!(text(marks(&svg, "note", "text")[0]).starts_with("2 values that are not finite"));
}

#[test]
fn a_run_looks_the_same_in_every_panel_and_twenty_runs_differ() {
    let names: Vec<String> = (0..20)
        .map(|i| format!("sweep/topk-k{i}-with-a-long-name"))
        .collect();
    let (x, y) = ([0.0, 1.0], [1.0, 0.5]);
    let curves: Vec<_> = names
        .iter()
        .map(|run| Curve { run, x: &x, y: &y })
        .collect();
    let panel = Panel {
        metric: "FVU",
        scale: Scale::Auto,
        curves: &curves,
    };
    let svg = training(&[panel, panel, panel], "Tokens", false, &PLAIN)
        .unwrap()
        .svg();
    let svg = Document::parse(&svg).unwrap();
    let look = |node: Node<'_, '_>| {
        format!(
            "{:?} {:?}",
            node.attribute("stroke"),
            node.attribute("stroke-dasharray")
        )
    };
    let looks: Vec<_> = marks(&svg, "curves", "path")
        .into_iter()
        .map(look)
        .collect();
    assert_eq!(looks.len(), 60);
    assert_eq!(looks[..20], looks[20..40]);
    let mut distinct = looks[..20].to_vec();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 20);
    assert_eq!(marks(&svg, "legend", "text").len(), 20);
}

#[test]
fn runs_of_one_architecture_are_connected_in_order_of_l0() {
    let point = |run, architecture, l0, metric| FrontierPoint {
        run,
        architecture,
        l0,
        metric,
    };
    let points = [
        point("b", "topk", 32.0, 0.1),
        point("c", "topk", 64.0, 0.05),
        point("a", "topk", 16.0, 0.2),
        point("d", "relu", 40.0, 0.3),
    ];
    let svg = frontier(&points, "FVU", (Scale::Auto, Scale::Linear), &PLAIN)
        .unwrap()
        .svg();
    let svg = Document::parse(&svg).unwrap();
    let lines = marks(&svg, "connections", "path");
    assert_eq!(lines.len(), 1);
    let (x_ticks, y_ticks) = (ticks(&svg, "x-ticks"), ticks(&svg, "y-ticks"));
    for ((x, y), (l0, fvu)) in
        numbers(lines[0])
            .into_iter()
            .zip([(16.0, 0.2), (32.0, 0.1), (64.0, 0.05)])
    {
        assert!((read_off(&x_ticks, x, false) - l0).abs() < 0.1);
        assert!((read_off(&y_ticks, y, false) - fvu).abs() < 0.001);
    }
    let names: Vec<_> = marks(&svg, "labels", "text")
        .into_iter()
        .map(text)
        .collect();
    assert_eq!(names, ["b", "c", "a", "d"]);
}

#[test]
fn counts_of_a_latents_activations_are_on_a_log_axis_from_one() {
    let counts = [1, 10, 100, 1000, 0, 7];
    let bins: Vec<_> = counts
        .iter()
        .enumerate()
        .map(|(i, &count)| ActivationBin {
            lower: i as f64,
            upper: i as f64 + 1.0,
            count,
        })
        .collect();
    let svg = latent("Latent 3", &bins, Scale::Auto, &PLAIN)
        .unwrap()
        .svg();
    let svg = Document::parse(&svg).unwrap();
    let y_ticks = ticks(&svg, "y-ticks");
    assert_eq!(
        y_ticks.iter().map(|tick| tick.0).collect::<Vec<_>>(),
        [1.0, 10.0, 100.0, 1000.0]
    );
    let shown: Vec<u64> = marks(&svg, "bars", "rect")
        .into_iter()
        .map(|bar| read_off(&y_ticks, attribute(bar, "y"), true).round() as u64)
        .collect();
    assert_eq!(shown, [1, 10, 100, 1000, 7]);
    assert_eq!(
        text(marks(&svg, "note", "text")[0]),
        "Latent 3  ·  1,118 activations"
    );
}

#[test]
fn bars_of_wider_bins_show_counts_per_unit_of_activation() {
    let bins: Vec<_> = [(1.0, 1.5, 6), (1.5, 2.0, 9), (2.0, 3.0, 20), (4.0, 8.0, 2)]
        .map(|(lower, upper, count)| ActivationBin {
            lower,
            upper,
            count,
        })
        .to_vec();
    for (scale, log) in [(Scale::Auto, false), (Scale::Log, true)] {
        let svg = latent("", &bins, scale, &PLAIN).unwrap().svg();
        let svg = Document::parse(&svg).unwrap();
        let (x_ticks, y_ticks) = (ticks(&svg, "x-ticks"), ticks(&svg, "y-ticks"));
        for (bar, bin) in marks(&svg, "bars", "rect").into_iter().zip(&bins) {
            let (x, width) = (attribute(bar, "x") - 0.5, attribute(bar, "width") + 1.0);
            let edges = [x, x + width].map(|x| read_off(&x_ticks, x, log));
            assert!((edges[0] - bin.lower).abs() < 0.01 && (edges[1] - bin.upper).abs() < 0.02);
            let units = if log {
                (edges[1] / edges[0]).log2()
            } else {
                edges[1] - edges[0]
            };
            // The bar's area is its count.
            let area = read_off(&y_ticks, attribute(bar, "y"), true) * units;
            assert!(
                (area / bin.count as f64 - 1.0).abs() < 0.01,
                "{area} for {bin:?}"
            );
        }
    }
}

#[test]
fn many_latents_are_shaded_cells_and_few_are_dots() {
    for (count, dots) in [(5_000, 5_000), (100_000, 0)] {
        let mut seed = 3;
        let x: Vec<f64> = (0..count)
            .map(|_| 10f64.powf(-5.0 * random(&mut seed)))
            .collect();
        let y: Vec<f64> = (0..count).map(|_| random(&mut seed)).collect();
        let data = Scatter {
            x_label: "x",
            x: &x,
            x_scale: Scale::Log,
            y_label: "y",
            y: &y,
            y_scale: Scale::Linear,
        };
        let svg = scatter(&data, &PLAIN).unwrap().svg();
        assert!(svg.len() < 1_000_000, "{} bytes", svg.len());
        let svg = Document::parse(&svg).unwrap();
        let circles = marks(&svg, "dots", "circle");
        assert_eq!(circles.len(), dots);
        assert_eq!(marks(&svg, "cells", "rect").is_empty(), dots > 0);
        let (x_ticks, y_ticks) = (ticks(&svg, "x-ticks"), ticks(&svg, "y-ticks"));
        for (i, dot) in circles.into_iter().enumerate() {
            assert!((read_off(&x_ticks, attribute(dot, "cx"), true) / x[i] - 1.0).abs() < 1e-3);
            assert!((read_off(&y_ticks, attribute(dot, "cy"), false) - y[i]).abs() < 1e-3);
        }
    }
}
