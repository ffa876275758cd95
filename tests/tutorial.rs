//! The shell lines of docs/tutorial-hooks.md do what the page says. Its Rust parts are doc tests of
//! lapidary-features.

use std::path::Path;
use std::process::Command;

#[test]
fn every_shell_line_of_the_tutorial_on_hooks_runs() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tutorial-hooks.md");
    let page = std::fs::read_to_string(page).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut outputs = vec![];
    let blocks = page.split("```sh\n").skip(1);
    for line in blocks.flat_map(|block| block.split("```").next().unwrap().lines()) {
        let arguments = line.strip_prefix("lapidary ").unwrap();
        let command = format!("\"$LAPIDARY\" {arguments}");
        let output = Command::new("sh")
            .args(["-c", &command])
            .env("LAPIDARY", env!("CARGO_BIN_EXE_lapidary"))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}\n{errors}");
        outputs.push((line.to_owned(), String::from_utf8(output.stdout).unwrap()));
    }
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
