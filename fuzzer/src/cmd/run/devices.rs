//! The virtio devices of an image that is a kernel: flags, and what they stand for.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use unifork_vmm::virtio::{DeviceConfig, Disk};

use super::kernel::first;
use crate::cmd::{BlameExt as _, Failure};

/// What entropy follows from: the same in every machine.
const ENTROPY_SEED: u64 = 0x756e_6966_6f72_6b00;
/// What makes a disk one that cannot be written.
const READ_ONLY: &str = ",ro";

/// Flags for devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub(crate) struct DeviceArgs {
    /// A virtio disk: an image file, which stays as it is; `,ro` behind it tells the kernel not to write either.
    /// May be given again
    #[arg(long, value_name = "FILE[,ro]")]
    disk: Vec<String>,
    /// A virtio network card. Its frames go nowhere (`isolated`), or each in a datagram from LOCAL to REMOTE and back:
    /// `udp:LOCAL,REMOTE` with addresses, `unix:LOCAL,REMOTE` with paths. May be given again
    #[arg(long, value_name = "WIRE", value_parser = wire)]
    #[serde(default, deserialize_with = "wires")]
    net: Vec<Wire>,
    /// A further virtio device; may be given again
    #[arg(long, value_name = "NAME")]
    device: Vec<DeviceName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
enum DeviceName {
    /// A console beside the serial port, to which goes what is typed
    Console,
    /// Random numbers, the same in every run
    Entropy,
}

/// What a network card is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wire {
    /// Nothing.
    Isolated,
    /// Datagrams between two addresses.
    Udp(SocketAddr, SocketAddr),
    /// Datagrams between two paths.
    Unix(PathBuf, PathBuf),
}

fn wire(text: &str) -> Result<Wire, String> {
    let ends = |rest: &str| {
        let (local, remote) =
            rest.split_once(',').filter(|(local, remote)| !local.is_empty() && !remote.is_empty())?;
        Some((local.to_owned(), remote.to_owned()))
    };
    if text == "isolated" {
        return Ok(Wire::Isolated);
    }
    match text.split_once(':') {
        Some(("udp", rest)) => {
            let (local, remote) = ends(rest).ok_or("expected udp:LOCAL,REMOTE")?;
            let address = |text: &str| {
                text.parse().map_err(|_| format!("`{text}` is no address and port, as 127.0.0.1:5001 is"))
            };
            Ok(Wire::Udp(address(&local)?, address(&remote)?))
        }
        Some(("unix", rest)) => {
            let (local, remote) = ends(rest).ok_or("expected unix:LOCAL,REMOTE")?;
            Ok(Wire::Unix(local.into(), remote.into()))
        }
        _ => Err("expected isolated, udp:LOCAL,REMOTE or unix:LOCAL,REMOTE".to_owned()),
    }
}

/// Of records that were written when there was one card at most: that one, or none.
fn wires<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Wire>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        List(Vec<Wire>),
        One(Option<Wire>),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::List(wires) => wires,
        Written::One(wire) => wire.into_iter().collect(),
    })
}

impl DeviceArgs {
    /// The first flag of them that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--disk", !self.disk.is_empty()),
            ("--net", !self.net.is_empty()),
            ("--device", !self.device.is_empty()),
        ];
        first(&flags)
    }

    /// What each network card is connected to.
    pub(crate) fn wires(&self) -> &[Wire] {
        &self.net
    }

    /// The same from any folder: for a finding's record.
    pub(crate) fn absolute(&self) -> Self {
        let whole = |text: &String| {
            let (file, rest) = split(text);
            let path = std::path::absolute(file).unwrap_or_else(|_| file.into());
            format!("{}{rest}", path.display())
        };
        Self { disk: self.disk.iter().map(whole).collect(), ..self.clone() }
    }

    /// Of a machine that is forked, frames are part of the input: there is no wire.
    pub(crate) fn refuse_wires(&self) -> Result<(), Failure> {
        if self.net.iter().all(|wire| *wire == Wire::Isolated) {
            return Ok(());
        }
        let error = anyhow!("--net has a socket, which forks of a machine cannot share");
        Err(Failure::usage(error)
            .help("give --net isolated: a card whose frames are the inputs' and the runs'"))
    }

    /// The devices, in the order in which the machine has them: disks, network cards, the others.
    pub(crate) fn devices(&self) -> Result<Vec<DeviceConfig>, Failure> {
        let disks = self.disk.iter().map(|text| {
            let (file, rest) = split(text);
            Ok(DeviceConfig::Disk { disk: open(Path::new(file))?, read_only: !rest.is_empty() })
        });
        let mut devices = disks.collect::<Result<Vec<_>, Failure>>()?;
        devices.extend(self.net.iter().map(|_| DeviceConfig::Net));
        devices.extend(self.device.iter().map(|name| match name {
            DeviceName::Console => DeviceConfig::Console,
            DeviceName::Entropy => DeviceConfig::Entropy { seed: ENTROPY_SEED },
        }));
        Ok(devices)
    }
}

/// The file of a `--disk`, and what is behind it.
fn split(text: &str) -> (&str, &str) {
    match text.strip_suffix(READ_ONLY) {
        Some(file) => (file, READ_ONLY),
        None => (text, ""),
    }
}

fn open(path: &Path) -> Result<Arc<Disk>, Failure> {
    let disk =
        Disk::open(path).with_context(|| format!("cannot use {} as a disk", path.display())).or_usage();
    disk.map_err(|failure| failure.help("a disk is an ordinary file, as `truncate -s 64M FILE` makes one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wires_are_read_and_what_is_none_is_refused() {
        assert_eq!(wire("isolated"), Ok(Wire::Isolated));
        let [one, other] = ["127.0.0.1:5001", "[::1]:5002"].map(|text| text.parse().unwrap());
        assert_eq!(wire("udp:127.0.0.1:5001,[::1]:5002"), Ok(Wire::Udp(one, other)));
        assert_eq!(wire("unix:/a,b"), Ok(Wire::Unix("/a".into(), "b".into())));
        for text in
            ["", "isolated:", "isolated:x", "udp", "udp:1,2", "udp:127.0.0.1:1", "unix:,b", "unix:a", "tap:x"]
        {
            assert!(wire(text).is_err(), "{text}");
        }
    }

    #[test]
    fn records_of_one_card_and_of_several_are_read() {
        let local: Wire = wire("unix:/a,/b").unwrap();
        let text = |net: &str| format!(r#"{{"disk":[],"net":{net},"device":[]}}"#);
        let read = |net: &str| serde_json::from_str::<DeviceArgs>(&text(net)).unwrap().net;
        assert_eq!(read("null"), []);
        assert_eq!(read(r#""Isolated""#), [Wire::Isolated]);
        assert_eq!(read(r#"{"Unix":["/a","/b"]}"#), std::slice::from_ref(&local));
        let args = DeviceArgs { net: vec![Wire::Isolated, local], ..DeviceArgs::default() };
        assert_eq!(serde_json::from_str::<DeviceArgs>(&serde_json::to_string(&args).unwrap()).unwrap(), args);
    }

    #[test]
    fn a_disk_may_be_read_only_and_its_path_made_whole() {
        assert_eq!((split("a,b,ro"), split("a,rw")), (("a,b", ",ro"), ("a,rw", "")));
        let args = DeviceArgs { disk: vec!["/x/y,ro".into(), "z".into()], ..DeviceArgs::default() };
        let here = std::env::current_dir().unwrap().join("z");
        assert_eq!(args.absolute().disk, ["/x/y,ro".to_owned(), here.display().to_string()]);
        assert_eq!((args.given(), DeviceArgs::default().given()), (Some("--disk"), None));
    }
}
