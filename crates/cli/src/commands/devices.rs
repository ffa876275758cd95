//! `lapidary devices`.

use anyhow::Result;
use clap::Args;
use lapidary_kernels::device;
use std::io::{Write, stdout};

/// List the devices that --device accepts
#[derive(Args)]
pub struct Devices {}

impl Devices {
    pub fn run(self) -> Result<()> {
        for found in device::list() {
            let note = if found.software {
                "  (software: correct, but slow)"
            } else {
                ""
            };
            writeln!(
                stdout(),
                "{:<8} {}{note}",
                found.choice.to_string(),
                found.name
            )?;
        }
        Ok(())
    }
}
