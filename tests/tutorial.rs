//! The shell lines of docs/tutorial-hooks.md and docs/tutorial-circuits.md do what the pages say.
//! The Rust parts of the first are doc tests of lapidary-features.

use std::path::Path;
use std::process::Command;

/// Runs the shell lines of a page in a folder; gives each with what it printed.
fn outputs_of(page: &str, folder: &Path) -> Vec<(String, String)> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(repository.join("docs").join(page)).unwrap();
    let recipe = "configs/transcoder-embedded.toml";
    std::fs::create_dir(folder.join("configs")).unwrap();
    std::fs::copy(repository.join(recipe), folder.join(recipe)).unwrap();
    let mut outputs = vec![];
    let blocks = page.split("```sh\n").skip(1);
    for line in blocks.flat_map(|block| block.split("```").next().unwrap().lines()) {
        let arguments = line.strip_prefix("lapidary ").unwrap();
        let command = format!("\"$LAPIDARY\" {arguments}");
        let output = Command::new("sh")
            .args(["-c", &command])
            .env("LAPIDARY", env!("CARGO_BIN_EXE_lapidary"))
            .current_dir(folder)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}\n{errors}");
        outputs.push((line.to_owned(), String::from_utf8(output.stdout).unwrap()));
    }
    outputs
}

#[test]
fn every_shell_line_of_the_tutorial_on_hooks_runs() {
    let folder = tempfile::tempdir().unwrap();
    let outputs = outputs_of("tutorial-hooks.md", folder.path());
    assert_eq!(outputs.len(), 6, "lines of the page");
    let of = |what: &str| {
        &outputs
            .iter()
            .find(|(line, _)| line.contains(what))
            .unwrap()
            .1
    };
    assert!(
        of("inspect").contains("blocks.1.attn.hook_pattern"),
        "{}",
        of("inspect")
    );
    // Steered text goes on from the prompt, elsewhere than unsteered text does.
    let plain = of("--temperature 0");
    assert!(plain.starts_with("My fellow citizens") && of("--strength") != plain);
    assert!(of("--clamp 0").starts_with("My fellow citizens"));
}

#[test]
fn every_shell_line_of_the_tutorial_on_circuits_runs() {
    let folder = tempfile::tempdir().unwrap();
    let outputs = outputs_of("tutorial-circuits.md", folder.path());
    assert_eq!(outputs.len(), 3, "lines of the page");
    let graph = &outputs[1].1;
    let first = graph.lines().nth(1).unwrap();
    assert!(first.contains(" States"), "{graph}");
    let score = graph.split("replacement score ").nth(1).unwrap();
    let score: f64 = score.split(',').next().unwrap().parse().unwrap();
    assert!(score > 0.8, "{graph}");
    for name in ["graph.html", "graph.json", "graph.safetensors"] {
        assert!(folder.path().join("graph").join(name).exists(), "{name}");
        assert!(folder.path().join("people").join(name).exists(), "{name}");
    }
}
