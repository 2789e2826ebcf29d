//! What is said between `unifork serve` and its clients: frames, requests and answers.
#![doc = include_str!("../../../../docs/serve.md")]

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// Version of this protocol.
pub(crate) const VERSION: u32 = 1;
/// Bytes of a frame's body that are not input, at most.
const HEAD_MAX: usize = 16; // docs/serve.md says it
/// Bytes of the length in front of a body.
const LENGTH: usize = 4;
/// An answer is never longer: the longest is a sentence.
const ANSWER_MAX: usize = 64 << 10;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// What the server is.
    Hello,
    /// A fork.
    Fork,
    /// One run.
    Run { fork: u32, deadline_ms: u32, input: &'a [u8] },
    /// To put a fork back.
    Reset { fork: u32 },
    /// To be rid of a fork.
    Release { fork: u32 },
}

/// Why a request is answered with an error. The numbers are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorCode {
    /// The first byte of the body is no request.
    UnknownRequest = 1,
    /// The body is too short or too long for its request.
    BadLength = 2,
    /// No such fork on this connection.
    UnknownFork = 3,
    /// Too many forks on this connection, or connections.
    TooMany = 4,
    /// The host could not do it.
    Host = 5,
}

/// An error as it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// How a run ended, in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) kind: u8,
    pub(crate) code: i64,
    pub(crate) counters: u64,
    pub(crate) ns: u64,
    pub(crate) what: String,
}

/// The request in `body`.
pub(crate) fn parse(body: &[u8]) -> Result<Request<'_>, Refusal> {
    let Some((&kind, rest)) = body.split_first() else {
        return Err(Refusal::new(ErrorCode::BadLength, "an empty request"));
    };
    let exactly = |request| match rest {
        [] => Ok(request),
        _ => Err(Refusal::new(
            ErrorCode::BadLength,
            format!("{} bytes behind a request that has none", rest.len()),
        )),
    };
    let fork = || match *rest {
        [a, b, c, d] => Ok(u32::from_le_bytes([a, b, c, d])),
        _ => Err(Refusal::new(
            ErrorCode::BadLength,
            format!("{} bytes where a fork's number has 4", rest.len()),
        )),
    };
    match kind {
        1 => exactly(Request::Hello),
        2 => exactly(Request::Fork),
        3 => match rest.split_first_chunk::<8>() {
            Some((&[a, b, c, d, e, f, g, h], input)) => Ok(Request::Run {
                fork: u32::from_le_bytes([a, b, c, d]),
                deadline_ms: u32::from_le_bytes([e, f, g, h]),
                input,
            }),
            None => Err(Refusal::new(
                ErrorCode::BadLength,
                format!("a run of {} bytes; it begins with 8", rest.len()),
            )),
        },
        4 => Ok(Request::Reset { fork: fork()? }),
        5 => Ok(Request::Release { fork: fork()? }),
        other => Err(Refusal::new(ErrorCode::UnknownRequest, format!("{other} is no request"))),
    }
}

/// The longest body of a request to a machine that takes inputs of `input_max` bytes.
pub(crate) fn body_max(input_max: u64) -> usize {
    usize::try_from(input_max).unwrap_or(usize::MAX / 2).saturating_add(HEAD_MAX)
}

/// How the reading of a frame ended without one.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The other side closed between two frames.
    Closed,
    /// It closed, or stopped sending, within one.
    Cut(io::Error),
    /// It announced more than is taken.
    TooLong(usize),
}

/// Reads one body into `body`. Memory is taken as bytes arrive, not as they are announced. Once a frame
/// has begun it must be whole within `patience`; `stream` is expected to have a read timeout itself.
pub(crate) fn read_frame(
    stream: &mut impl Read,
    body: &mut Vec<u8>,
    most: usize,
    patience: Duration,
) -> Result<(), Stop> {
    let mut length = [0; LENGTH];
    let mut have = 0;
    let mut until = None;
    while have < LENGTH {
        have += match read_some(stream, &mut length[have..], until) {
            Ok(0) if have == 0 => return Err(Stop::Closed),
            Ok(0) => return Err(Stop::Cut(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => count,
            Err(error) => return Err(Stop::Cut(error)),
        };
        until.get_or_insert_with(|| Instant::now() + patience);
    }
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > most {
        return Err(Stop::TooLong(length));
    }
    body.clear();
    while body.len() < length {
        let at = body.len();
        body.resize(length.min(at + (64 << 10)), 0);
        match read_some(stream, &mut body[at..], until) {
            Ok(0) => return Err(Stop::Cut(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => body.truncate(at + count),
            Err(error) => return Err(Stop::Cut(error)),
        }
    }
    Ok(())
}

fn read_some(stream: &mut impl Read, into: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
    loop {
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match stream.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Begins an answer or a request in `frame`: room for the length, and its first byte.
pub(crate) fn begin(frame: &mut Vec<u8>, first: u8) {
    frame.clear();
    frame.extend_from_slice(&[0, 0, 0, 0, first]);
}

/// Writes the frame that [`begin`] began, with its length.
pub(crate) fn send(stream: &mut impl Write, frame: &mut [u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len() - LENGTH).map_err(|_| io::ErrorKind::InvalidInput)?;
    frame[..LENGTH].copy_from_slice(&length.to_le_bytes());
    stream.write_all(frame)
}

/// Puts a refusal into `frame` instead of whatever is there.
pub(crate) fn refuse(frame: &mut Vec<u8>, refusal: &Refusal) {
    begin(frame, 1);
    frame.push(refusal.code as u8);
    frame.extend_from_slice(refusal.message.as_bytes());
}

/// Puts a run's result behind what is in `frame`.
pub(crate) fn put_ran(frame: &mut Vec<u8>, ran: &Ran) {
    frame.push(ran.kind);
    frame.extend_from_slice(&ran.code.to_le_bytes());
    frame.extend_from_slice(&ran.counters.to_le_bytes());
    frame.extend_from_slice(&ran.ns.to_le_bytes());
    let length = u16::try_from(ran.what.len()).unwrap_or(u16::MAX);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&ran.what.as_bytes()[..length.into()]);
}

/// A client's side of a connection, for `unifork bench control` and the tests.
#[derive(Debug)]
pub(crate) struct Client<S> {
    stream: S,
    frame: Vec<u8>,
}

/// Why a client has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The server said no.
    #[error("the server refused: {0}")]
    Refused(String),
    /// It said something that is no answer.
    #[error("the server's answer makes no sense")]
    Nonsense,
    /// The connection broke.
    #[error("the connection to the server broke")]
    Io(#[from] io::Error),
}

impl<S: Read + Write> Client<S> {
    /// A client over `stream`.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, frame: Vec::new() }
    }

    /// Asks for a fork.
    pub(crate) fn fork(&mut self) -> Result<u32, ClientError> {
        begin(&mut self.frame, 2);
        let answer = self.ask()?;
        answer.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)).ok_or(ClientError::Nonsense)
    }

    /// Runs `input` on `fork`; returns the kind and the nanoseconds that the server took over it.
    pub(crate) fn run(&mut self, fork: u32, input: &[u8]) -> Result<(u8, Duration), ClientError> {
        begin(&mut self.frame, 3);
        self.frame.extend_from_slice(&fork.to_le_bytes());
        self.frame.extend_from_slice(&0u32.to_le_bytes());
        self.frame.extend_from_slice(input);
        let answer = self.ask()?;
        let ns =
            answer.get(17..25).and_then(|bytes| bytes.first_chunk()).map(|bytes| u64::from_le_bytes(*bytes));
        match (answer.first(), ns) {
            (Some(&kind), Some(ns)) => Ok((kind, Duration::from_nanos(ns))),
            _ => Err(ClientError::Nonsense),
        }
    }

    /// Gives `fork` back.
    pub(crate) fn release(&mut self, fork: u32) -> Result<(), ClientError> {
        begin(&mut self.frame, 5);
        self.frame.extend_from_slice(&fork.to_le_bytes());
        self.ask().map(drop)
    }

    fn ask(&mut self) -> Result<&[u8], ClientError> {
        send(&mut self.stream, &mut self.frame)?;
        match read_frame(&mut self.stream, &mut self.frame, ANSWER_MAX, Duration::from_secs(60)) {
            Ok(()) => {}
            Err(Stop::Cut(error)) => return Err(error.into()),
            Err(Stop::Closed) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Err(Stop::TooLong(_)) => return Err(ClientError::Nonsense),
        }
        match self.frame.as_slice() {
            [0, answer @ ..] => Ok(answer),
            [1, _, sentence @ ..] => {
                Err(ClientError::Refused(String::from_utf8_lossy(sentence).into_owned()))
            }
            _ => Err(ClientError::Nonsense),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_body_makes_the_parser_panic() {
        let mut seed = 1u64;
        for _ in 0..100_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let length = (seed >> 60) as usize;
            let body: Vec<u8> = (0..length).map(|i| (seed >> (i % 8 * 7)) as u8 % 7).collect();
            let _either = parse(&body);
        }
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(parse(&[1]), Ok(Request::Hello));
        assert_eq!(parse(&[2]), Ok(Request::Fork));
        let run = [3, 7, 0, 0, 0, 1, 0, 0, 0, b'x'];
        assert_eq!(parse(&run), Ok(Request::Run { fork: 7, deadline_ms: 1, input: b"x" }));
        assert_eq!(parse(&[4, 1, 0, 0, 0]), Ok(Request::Reset { fork: 1 }));
        for (body, code) in [
            (&[][..], ErrorCode::BadLength),
            (&[1, 1], ErrorCode::BadLength),
            (&[3, 1], ErrorCode::BadLength),
            (&[5, 1, 1], ErrorCode::BadLength),
            (&[9], ErrorCode::UnknownRequest),
        ] {
            assert_eq!(parse(body).unwrap_err().code, code, "{body:?}");
        }
    }

    #[test]
    fn a_frame_that_claims_too_much_takes_no_memory() {
        let mut body = Vec::new();
        let frame = [&u32::MAX.to_le_bytes()[..], &[1, 2, 3]].concat();
        let stop = read_frame(&mut frame.as_slice(), &mut body, 1 << 20, Duration::from_secs(1));
        assert!(matches!(stop, Err(Stop::TooLong(_))));
        let frame = [&(1u32 << 20).to_le_bytes()[..], &[1, 2, 3]].concat();
        let stop = read_frame(&mut frame.as_slice(), &mut body, 1 << 20, Duration::from_secs(1));
        assert!(matches!(stop, Err(Stop::Cut(_))));
        assert!(body.capacity() < 1 << 18, "{}", body.capacity());
    }
}
