//! `--metrics ADDR`: the newest figures over HTTP, in Prometheus' text format.
//!
//! The same as in `stats.jsonl`, under the names that `docs/watching.md` has. Requests are answered by a
//! thread of their own, from the [`Board`]; the campaign does not notice them.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tiny_http::{Header, Method, Request, Response, Server};

use crate::monitor::board::Board;
use crate::monitor::fields::{CLIENT_FIELDS, FIELDS, Field, Kind};
use crate::signals;

/// What Prometheus is told it gets.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Reads `--metrics`: an address and a port, or a port, which is then of the loopback interface.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
    let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    port.map(loopback)
        .or_else(|_| text.parse())
        .map_err(|_| format!("`{text}` is not a port or ADDRESS:PORT, as in 9184 or 127.0.0.1:9184"))
}

/// An open port. Nothing is answered before [`Metrics::serve`].
pub(crate) struct Metrics {
    server: Server,
    /// Where it listens; of port 0, the port that it got.
    pub(crate) address: SocketAddr,
}

impl Metrics {
    /// Listens on `address`.
    pub(crate) fn listen(address: SocketAddr) -> io::Result<Self> {
        // tiny_http starts threads; none of them may take the campaign's signals.
        let server = signals::blocked(|| Server::http(address)).map_err(|error| {
            error
                .downcast::<io::Error>()
                .map_or_else(|other| io::Error::other(other.to_string()), |error| *error)
        })?;
        let address = server.server_addr().to_ip().unwrap_or(address);
        Ok(Self { server, address })
    }

    /// Answers from now on, until the process ends, with what is on `board`.
    pub(crate) fn serve(self, board: Arc<Board>, campaign: String) -> io::Result<()> {
        let answer_all = move || {
            for request in self.server.incoming_requests() {
                // Whoever asked may have gone.
                let _ = answer(request, &board, &campaign);
            }
        };
        let thread = std::thread::Builder::new().name("metrics".to_owned());
        signals::blocked(|| thread.spawn(answer_all)).map(drop)
    }
}

fn answer(request: Request, board: &Board, campaign: &str) -> io::Result<()> {
    if !matches!(request.method(), Method::Get | Method::Head) {
        return request.respond(Response::from_string("only GET\n").with_status_code(405));
    }
    match request.url().split('?').next() {
        Some("/metrics") => {
            let header = Header::from_bytes("Content-Type", CONTENT_TYPE).expect("it is a header");
            request.respond(Response::from_string(text(board, campaign)).with_header(header))
        }
        Some("/") => request.respond(Response::from_string("the figures are at /metrics\n")),
        _ => request.respond(Response::from_string("the figures are at /metrics\n").with_status_code(404)),
    }
}

/// The figures on `board` in the text format.
fn text(board: &Board, campaign: &str) -> String {
    let mut text = String::new();
    head(&mut text, "unifork_info", Kind::Gauge, "Which campaign this is.");
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(text, "unifork_info{{version=\"{version}\",campaign=\"{}\"}} 1", escape(campaign));
    let Some((figures, _)) = board.latest() else { return text };
    let of_all = values(&figures);
    for Field { name, metric, kind, unit, text: what } in FIELDS {
        head(&mut text, metric, *kind, &format!("{unit}: {what}"));
        let _ = writeln!(text, "{metric} {}", of_all[name]);
    }
    if figures.clients.is_empty() {
        return text;
    }
    let clients: Vec<Value> = figures.clients.iter().map(values).collect();
    for Field { name, metric, kind, unit, text: what } in CLIENT_FIELDS {
        head(&mut text, metric, *kind, &format!("{unit}: {what}"));
        for client in &clients {
            let _ = writeln!(text, "{metric}{{core=\"{}\"}} {}", client["core"], client[name]);
        }
    }
    text
}

fn values(figures: &impl Serialize) -> Value {
    serde_json::to_value(figures).expect("figures are plain data")
}

fn head(text: &mut String, metric: &str, kind: Kind, what: &str) {
    let kind = match kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
    };
    let _ = write!(text, "# HELP {metric} {what}\n# TYPE {metric} {kind}\n");
}

/// A label's value.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{ClientFigures, Figures};

    #[test]
    fn a_port_alone_is_on_the_loopback_interface() {
        let of = |text: &str| address(text).map(|address| address.to_string());
        assert_eq!(of("9184"), Ok("127.0.0.1:9184".into()));
        assert_eq!(of(":9184"), Ok("127.0.0.1:9184".into()));
        assert_eq!(of("0.0.0.0:80"), Ok("0.0.0.0:80".into()));
        assert_eq!(of("[::1]:80"), Ok("[::1]:80".into()));
        for bad in ["", "99999", "localhost", "1.2.3.4", "example.org:80"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_figure_is_told_once_and_of_each_client() {
        let board = Board::default();
        let few = text(&board, "a \"campaign\"\\\n");
        assert!(few.ends_with("campaign=\"a \\\"campaign\\\"\\\\\\n\"} 1\n"), "{few}");
        let client = |core| ClientFigures { core, execs: 7, ..ClientFigures::default() };
        let clients = vec![client(0), client(3)];
        board.publish(Figures { execs: 12_345, stability: 0.25, clients, ..Figures::default() });
        let all = text(&board, "c");
        for line in [
            "unifork_execs_total 12345",
            "unifork_stability_ratio 0.25",
            "unifork_client_execs_total{core=\"3\"} 7",
        ] {
            assert!(all.lines().any(|have| have == line), "no {line} in {all}");
        }
        let names: Vec<_> = all
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .map(|pair| pair.0)
            .collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        let count = FIELDS.len() + CLIENT_FIELDS.len() + 1;
        assert_eq!((unique.len(), names.len()), (count, count));
    }

    #[test]
    fn a_port_that_is_taken_is_an_error() {
        let first = Metrics::listen(address("0").unwrap()).unwrap();
        let second = Metrics::listen(first.address).map(|_| ()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }
}
