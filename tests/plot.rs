//! Figures from the command line: every kind, as SVG and as PNG.

use std::fs;
use std::path::Path;

use crate::analysis::{RUNS, fails, lapidary, succeeds};

fn drawn(run: &Path, options: &[&str], out: &Path) -> Vec<u8> {
    let mut plot = lapidary(&["plot"]);
    succeeds(plot.arg(run).args(options).arg("--out").arg(out));
    fs::read(out).unwrap()
}

#[test]
fn every_kind_of_figure_is_drawn_as_svg_and_png() {
    let (run, folder) = (RUNS.at("run0"), tempfile::tempdir().unwrap());
    // A latent that fires: the first one of a text.
    let mut fire = lapidary(&["fire", "--device", "cpu", "--text", "The people", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&succeeds(fire.arg(&run))).unwrap();
    let latent = found[0]["latents"][0]["feature_id"].to_string();
    for options in [
        &["--kind", "density"][..],
        &[
            "--kind", "training", "--curves", "fvu,dead", "--steps", "--log-x",
        ],
        &["--kind", "frontier", "--metric", "ce_loss_score"],
        &["--kind", "latent", "--latent", &latent],
        &[
            "--kind",
            "scatter",
            "--column",
            "logit_kurtosis",
            "--theme",
            "dark",
        ],
    ] {
        let svg = drawn(&run, options, &folder.path().join("figure.svg"));
        let text = String::from_utf8(svg.clone()).unwrap();
        assert!(
            text.starts_with("<svg") && text.trim_end().ends_with("</svg>"),
            "{options:?}"
        );
        assert!(text.contains("<text"), "{options:?}");
        let again = drawn(&run, options, &folder.path().join("again.svg"));
        assert_eq!(svg, again, "{options:?}");
        let png = drawn(&run, options, &folder.path().join("figure.png"));
        assert!(png.starts_with(b"\x89PNG"), "{options:?}");
        assert!(png.len() > 2000, "{options:?}");
    }
    // A folder of runs stands for its runs, which the legend names.
    let both = drawn(RUNS.at("").as_path(), &[], &folder.path().join("both.svg"));
    let both = String::from_utf8(both).unwrap();
    assert!(both.contains("run0") && both.contains("run1"), "{both}");
}

#[test]
fn what_cannot_be_drawn_is_named() {
    let (run, folder) = (RUNS.at("run0"), tempfile::tempdir().unwrap());
    let svg = folder.path().join("figure.svg");
    for (options, expected) in [
        (&["--kind", "latent"][..], "--latent"),
        (
            &["--kind", "latent", "--latent", "256"],
            "--latent: found 256, expected one below 256",
        ),
        (
            &["--kind", "training", "--curves", "fuv"],
            "--curves: found fuv, expected one of fvu, l0",
        ),
        (
            &["--kind", "frontier", "--metric", "nothing"],
            "--metric: found nothing, expected one of",
        ),
        (
            &["--kind", "scatter", "--column", "x"],
            "--column: found x, expected one of",
        ),
        (&["--metric", "mse"], "--metric is for --kind frontier"),
        (
            &["--kind", "scatter", "--log-x"],
            "--log-x is for --kind training or latent",
        ),
        (&["--width", "10"], "width: found 10"),
        (&["--scale", "3"], "--scale"),
    ] {
        let mut plot = lapidary(&["plot"]);
        let error = fails(plot.arg(&run).args(options).arg("--out").arg(&svg));
        assert!(error.contains(expected), "{options:?}: {error}");
        assert!(!svg.exists(), "{options:?}");
    }
    let mut plot = lapidary(&["plot"]);
    let error = fails(
        plot.arg(&run)
            .arg("--out")
            .arg(folder.path().join("figure.pdf")),
    );
    assert!(error.contains(".svg or .png"), "{error}");
    let mut plot = lapidary(&["plot"]);
    let error = fails(plot.arg(folder.path()).arg("--out").arg(&svg));
    assert!(error.contains("found no run"), "{error}");
}
