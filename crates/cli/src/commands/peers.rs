//! Other tools, timed by a script of scripts/: it holds their models ready and times what a word
//! names.

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The script, waiting for words.
pub struct Peers {
    child: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
    tools: Vec<(String, String)>,
}

impl Peers {
    /// Makes the Python environment if need be, and starts the script `name` at these sizes.
    pub fn start(
        scripts: &Path,
        name: &str,
        sizes: &[(&str, String)],
        device: &Device,
    ) -> Result<Self> {
        let script = scripts.join(name);
        if !script.exists() {
            bail!(
                "{}: not found; run from a checkout, or name its scripts/ with --scripts",
                script.display()
            );
        }
        let python = match std::env::var_os("LAPIDARY_PEERS_PYTHON") {
            Some(python) => python.into(),
            None => environment(scripts)?,
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut child = Command::new(&python)
            .arg(&script)
            .args([
                "--device",
                if *device == Device::flex() {
                    "cpu"
                } else {
                    "cuda"
                },
            ])
            .args(sizes.iter().flat_map(|(name, value)| [*name, value]))
            .args(["--threads", &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| python.display().to_string())?;
        let (words, answers) = (child.stdin.take(), child.stdout.take());
        let mut peers = Self {
            child,
            words: words.context("no pipe to the script")?,
            answers: BufReader::new(answers.context("no pipe from the script")?),
            tools: vec![],
        };
        let tools = peers.answer()?;
        peers.tools = tools
            .split_whitespace()
            .filter_map(|tool| tool.split_once('='))
            .map(|(tool, version)| (tool.to_owned(), version.to_owned()))
            .collect();
        if peers.tools.is_empty() {
            bail!("{}: no tool could be started: {tools}", script.display());
        }
        Ok(peers)
    }

    /// Names and versions.
    pub fn tools(&self) -> &[(String, String)] {
        &self.tools
    }

    /// Seconds that a tool takes for what a word names, such as "step" or "encode".
    pub fn time(&mut self, tool: usize, what: &str) -> Result<f64> {
        let name = &self.tools[tool].0;
        writeln!(self.words, "{name} {what}").context("the script of the other tools ended")?;
        let answer = self.answer()?;
        answer.trim().parse().with_context(|| {
            format!("the script of the other tools answered {answer:?}, expected seconds")
        })
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the script of the other tools ended; its error is printed above");
        }
        Ok(line)
    }
}

/// The interpreter of the environment that setup_python.sh makes.
fn environment(scripts: &Path) -> Result<PathBuf> {
    let folder = scripts.join("../target/peers-venv");
    let made = Command::new(scripts.join("setup_python.sh"))
        .arg("--peers")
        .arg(&folder)
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("{}: cannot run setup_python.sh", scripts.display()))?;
    if !made.success() {
        bail!("the Python environment of the other tools could not be made");
    }
    Ok(folder.join("bin/python"))
}

impl Drop for Peers {
    fn drop(&mut self) {
        // It ends when its input does; killing it only spares waiting.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
