//! Addresses of sockets: `struct sockaddr` and what it means. unix(7), ip(7), ipv6(7).

use alloc::vec::Vec;

use unifork_hal::User;

use crate::errno::Errno;
use crate::user::{read_u32, write_bytes, write_u32};

pub(crate) const AF_UNSPEC: u16 = 0;
pub(crate) const AF_UNIX: u16 = 1;
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
/// Bytes of the longest address, `struct sockaddr_storage`.
const BYTES_MAX: u64 = 128;
const UNIX_BYTES_MAX: usize = 110;

/// An IP address; version 4 as version 6 has it (`::ffff:a.b.c.d`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ip([u8; 16]);

impl Ip {
    pub(crate) const LOOPBACK_V4: Self = Self::v4([127, 0, 0, 1]);
    pub(crate) const LOOPBACK_V6: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    pub(crate) const ANY_V4: Self = Self::v4([0; 4]);
    pub(crate) const ANY_V6: Self = Self([0; 16]);

    const fn v4([a, b, c, d]: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// From 4 or 16 bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.len() {
            4 => Some(Self::v4([bytes[0], bytes[1], bytes[2], bytes[3]])),
            _ => bytes.first_chunk().map(|bytes| Self(*bytes)),
        }
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.0[..12] == Self::ANY_V4.0[..12]
    }

    pub(crate) fn is_any(&self) -> bool {
        *self == Self::ANY_V4 || *self == Self::ANY_V6
    }

    /// It is the machine's own, or all of its own.
    pub(crate) fn is_local(&self) -> bool {
        self.is_any() || *self == Self::LOOPBACK_V6 || self.is_v4() && self.0[12] == 127
    }

    /// What a connection to it goes to.
    pub(crate) fn reached(self) -> Self {
        match self {
            Self::ANY_V4 => Self::LOOPBACK_V4,
            Self::ANY_V6 => Self::LOOPBACK_V6,
            ip => ip,
        }
    }
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Of no family.
    None,
    /// A path, an abstract name that begins with 0, or empty: no name.
    Unix(Vec<u8>),
    /// An IP address and port; `v6`: in version 6's form.
    Ip { v6: bool, ip: Ip, port: u16 },
}

impl Address {
    /// All addresses of the machine.
    pub(crate) fn any(v6: bool, port: u16) -> Self {
        Self::Ip { v6, ip: if v6 { Ip::ANY_V6 } else { Ip::ANY_V4 }, port }
    }

    pub(crate) fn family(&self) -> u16 {
        match self {
            Self::None => AF_UNSPEC,
            Self::Unix(_) => AF_UNIX,
            Self::Ip { v6: false, .. } => AF_INET,
            Self::Ip { v6: true, .. } => AF_INET6,
        }
    }

    /// What is at `at`.
    pub(crate) fn read(at: u64, bytes: u64) -> Result<Self, Errno> {
        let bytes = u64::from(bytes as u32);
        if bytes > BYTES_MAX {
            return Err(Errno::EINVAL);
        }
        let mut buffer = [0; BYTES_MAX as usize];
        let buffer = &mut buffer[..bytes as usize];
        User::readable(at, bytes)?.read(0, buffer)?;
        if buffer.len() < 2 {
            return Err(Errno::EINVAL);
        }
        let port = || buffer.get(2..4).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
        match u16::from_le_bytes([buffer[0], buffer[1]]) {
            AF_UNSPEC => Ok(Self::None),
            AF_UNIX if buffer.len() > UNIX_BYTES_MAX => Err(Errno::EINVAL),
            AF_UNIX => {
                let name = &buffer[2..];
                let end = match name.first() {
                    Some(0) | None => name.len(),
                    Some(_) => name.iter().position(|&b| b == 0).unwrap_or(name.len()),
                };
                Ok(Self::Unix(name[..end].to_vec()))
            }
            AF_INET => {
                let ip = buffer.get(4..8).filter(|_| buffer.len() >= 16).and_then(Ip::from_bytes);
                Ok(Self::Ip { v6: false, ip: ip.ok_or(Errno::EINVAL)?, port: port() })
            }
            AF_INET6 => {
                let ip = buffer.get(8..24).and_then(Ip::from_bytes);
                Ok(Self::Ip { v6: true, ip: ip.ok_or(Errno::EINVAL)?, port: port() })
            }
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    /// As `struct sockaddr`.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.family().to_le_bytes().to_vec();
        match self {
            Self::None => {}
            Self::Unix(name) => {
                bytes.extend_from_slice(name);
                if name.first().is_some_and(|&b| b != 0) {
                    bytes.push(0);
                }
            }
            Self::Ip { v6: false, ip, port } => {
                bytes.extend_from_slice(&port.to_be_bytes());
                bytes.extend_from_slice(&ip.0[12..]);
                bytes.resize(16, 0);
            }
            Self::Ip { v6: true, ip, port } => {
                bytes.extend_from_slice(&port.to_be_bytes());
                bytes.extend_from_slice(&[0; 4]);
                bytes.extend_from_slice(&ip.0);
                bytes.resize(28, 0);
            }
        }
        bytes
    }

    /// Writes it to `at`, as much as fits into the length at `length`, which becomes the whole one.
    pub(crate) fn write(&self, at: u64, length: u64) -> Result<(), Errno> {
        let bytes = self.bytes();
        let room = read_u32(length)?.cast_signed();
        let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
        write_bytes(at, &bytes[..bytes.len().min(room)])?;
        write_u32(length, bytes.len() as u32)?;
        Ok(())
    }
}
