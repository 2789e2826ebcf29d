//! Messages between a guest and a host that serves it, where one does.

/// [`crate::BootInfo::services`]: there is a host that exchanges messages.
pub const SERVICES_ON: u64 = 1;
/// [`crate::BootInfo::services`]: standard input is a terminal.
pub const SERVICES_INPUT_TERMINAL: u64 = 2;
/// [`crate::BootInfo::services`]: standard output is a terminal.
pub const SERVICES_OUTPUT_TERMINAL: u64 = 4;

/// What a message of an exchange begins with. `bytes` bytes of data follow, padded to a multiple of 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceHeader {
    /// A [`ToHost`] or [`ToGuest`].
    pub kind: u32,
    /// Which connection; [`STDIN_HANDLE`] is standard input.
    pub handle: u32,
    /// Bytes of data.
    pub bytes: u32,
    /// What the kind says it is.
    pub value: u32,
}

/// Bytes of a [`ServiceHeader`].
pub const SERVICE_HEADER_BYTES: usize = size_of::<ServiceHeader>();
/// The handle of standard input; connections have others.
pub const STDIN_HANDLE: u32 = 0;

/// What the guest says in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ToHost {
    /// A program listens on TCP port `value`.
    Listen = 1,
    /// It does so no more.
    Unlisten = 2,
    /// Data for a connection. The guest has at most [`SEND_BYTES_MAX`] of them under way.
    Send = 3,
    /// Nothing more will be sent on it.
    Shutdown = 4,
    /// It is closed.
    Close = 5,
    /// `value` more bytes of it can be taken.
    Credit = 6,
}

/// Bytes that the guest may have sent on a connection without being told that they have gone.
pub const SEND_BYTES_MAX: usize = 256 << 10;

impl ToHost {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Listen,
            2 => Self::Unlisten,
            3 => Self::Send,
            4 => Self::Shutdown,
            5 => Self::Close,
            6 => Self::Credit,
            _ => return None,
        })
    }
}

/// What the host says in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ToGuest {
    /// A connection has come to TCP port `value`; the data are its peer's port, as two bytes in network
    /// order, and its IP address of 4 or 16 bytes.
    Accepted = 1,
    /// Data from a connection or standard input, never more than there is credit for.
    Data = 2,
    /// There will be no more data.
    End = 3,
    /// The connection is broken.
    Reset = 4,
    /// `value` bytes that were under way have gone.
    Sent = 5,
}

impl ToGuest {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Accepted,
            2 => Self::Data,
            3 => Self::End,
            4 => Self::Reset,
            5 => Self::Sent,
            _ => return None,
        })
    }
}

layout!(ServiceHeader, 16, handle @ 4, bytes @ 8, value @ 12);
