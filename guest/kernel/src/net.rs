//! Sockets.

use unifork_abi::ToGuest;

/// Whether connections may come from the host.
pub(crate) fn host_is_awaited() -> bool {
    false
}

/// Something has come from the host.
pub(crate) fn from_host(_kind: ToGuest, _handle: u32, _value: u32, _data: &[u8]) {}
