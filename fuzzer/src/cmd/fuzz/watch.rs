//! Who looks on: the terminal UI, and `--metrics`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::Args;
use crate::cmd::{BlameExt as _, Failure, note, warn};
use crate::metrics::Metrics;
use crate::monitor::Show;
use crate::monitor::board::Board;
use crate::ui::{self, Facts, Shown};

/// What is wanted, and can be had.
pub(super) struct Watchers {
    pub(super) show: Show,
    metrics: Option<Metrics>,
}

impl Watchers {
    /// Takes the port of `--metrics`. What cannot be had is said before anything is begun.
    pub(super) fn find(args: &Args, json: bool) -> Result<Self, Failure> {
        let tui = args.ui.wanted().map_err(|why| {
            Failure::usage(anyhow::anyhow!("there can be no terminal UI: {why}"))
                .help("leave --ui out, or use --ui lines")
        })?;
        let show = match (json, tui) {
            (true, _) => Show::Json,
            (_, true) => Show::Ui,
            _ => Show::Lines,
        };
        Ok(Self { show, metrics: args.metrics.map(listen).transpose()? })
    }

    /// Lets them look at `board`. The UI has the terminal until what is returned is dropped.
    pub(super) fn start(
        self,
        args: &Args,
        root: &Path,
        board: &Arc<Board>,
    ) -> Result<Option<Shown>, Failure> {
        if let Some(metrics) = self.metrics {
            let address = metrics.address;
            metrics.serve(board.clone(), root.display().to_string()).or_host()?;
            note(&format!("figures at http://{address}/metrics"));
            if !address.ip().is_loopback() {
                warn("they can be read from other machines");
            }
        }
        if self.show != Show::Ui {
            return Ok(None);
        }
        let name = args.image.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        ui::show(board.clone(), Facts { name, folder: root.to_path_buf() }).map(Some).or_host()
    }
}

fn listen(address: SocketAddr) -> Result<Metrics, Failure> {
    Metrics::listen(address).map_err(|error| {
        let error = anyhow::Error::from(error).context(format!("cannot listen on {address} for --metrics"));
        Failure::usage(error).help("name another port; port 0 takes a free one")
    })
}
