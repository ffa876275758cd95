//! `lapidary serve`.

use crate::arguments::{DeviceArgument, DictionaryArgument};
use crate::interrupt;
use crate::progress::{Watched, print_always};
use anyhow::{Context, Result};
use clap::Args;
use lapidary::{ServeOptions, Server};
use std::io::{Write, stdout};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// Serve a local web page on which to search the latents of a dictionary
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary serve out
  lapidary serve out --port 8080

The page shows what the report shows, for any number of latents. It also shows which latents fire in a text that you type, and
continues a text with and without a latent (steering). The first line of standard output is the address. Ctrl-C ends the command.")]
pub struct Serve {
    /// Folder with feature tables in features/: a run's folder, or the folder that `lapidary
    /// features` wrote to. Without a dictionary in it, the page shows only the tables
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Language model; default: the model that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Port; 0 chooses a free one
    #[arg(long, value_name = "N", default_value_t = 0)]
    port: u16,
    /// IP address to listen on. With the default, only programs on this machine can open the page.
    /// With an address that is not a loopback address, other machines can open it too, without a
    /// password
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Serve {
    pub fn run(self) -> Result<()> {
        interrupt::be_graceful(false);
        let device = self.device.open()?;
        let address = (self.host, self.port);
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {} port {}", self.host, self.port))?;
        if !self.host.is_loopback() {
            // Also with --quiet.
            print_always(format_args!(
                "{:>10} everyone who can reach {} can read the tables and run the model",
                "warning", self.host
            ));
        }
        let options = ServeOptions {
            dictionary: self.from.options(),
            model: self.model.as_deref(),
        };
        let server = Server::open(&self.folder, listener, options, &device, &Watched)?;
        let mut out = stdout();
        writeln!(out, "{}", server.address())?;
        out.flush()?;
        Ok(server.run()?)
    }
}
