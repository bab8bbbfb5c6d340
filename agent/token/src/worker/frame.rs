//! Frames on the socket: a length as four bytes, big-endian, then one message.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use std::os::unix::net::UnixStream;
use zeroize::Zeroizing;

/// No message is longer, in bytes: a listing of tens of thousands of objects fits.
const LONGEST: usize = 16 << 20;
/// How often a wait with a deadline looks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(200);

/// Sends one message. The buffer is made in its final size and wiped.
pub(crate) fn send(stream: &mut impl Write, message: &impl prost::Message) -> io::Result<()> {
    let length = message.encoded_len();
    let header = u32::try_from(length)
        .ok()
        .filter(|_| length <= LONGEST)
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the message is too long"))?;
    let mut frame = Zeroizing::new(Vec::with_capacity(4 + length));
    frame.extend_from_slice(&header.to_be_bytes());
    message.encode(&mut *frame).map_err(io::Error::other)?;
    stream.write_all(&frame)
}

/// Waits for one message; `None` where the other end has closed the socket between two messages.
pub(crate) fn receive<M: prost::Message + Default>(stream: &mut impl Read) -> io::Result<Option<M>> {
    let mut header = [0; 4];
    match stream.read(&mut header)? {
        0 => return Ok(None),
        read => stream.read_exact(&mut header[read..])?,
    }
    let mut body = Zeroizing::new(vec![0; length(header)?]);
    stream.read_exact(&mut body)?;
    decode(&body).map(Some)
}

/// What came of a wait for a frame.
pub(crate) enum Waited<M> {
    Message(M),
    /// The other end is gone, or speaks nonsense.
    Closed,
    /// Not within the time.
    TimedOut,
}

/// Waits for one message as long as `deadline` says, which is asked again and again (it may move closer).
pub(crate) fn receive_until<M: prost::Message + Default>(
    stream: &mut UnixStream,
    mut deadline: impl FnMut() -> Instant,
) -> Waited<M> {
    let mut header = [0; 4];
    match fill(stream, &mut header, &mut deadline) {
        Filled::Whole => {}
        Filled::Closed => return Waited::Closed,
        Filled::TimedOut => return Waited::TimedOut,
    }
    let Ok(length) = length(header) else {
        return Waited::Closed;
    };
    let mut body = Zeroizing::new(vec![0; length]);
    match fill(stream, &mut body, &mut deadline) {
        Filled::Whole => decode(&body).map_or(Waited::Closed, Waited::Message),
        Filled::Closed => Waited::Closed,
        Filled::TimedOut => Waited::TimedOut,
    }
}

enum Filled {
    Whole,
    Closed,
    TimedOut,
}

fn fill(stream: &mut UnixStream, mut rest: &mut [u8], deadline: &mut impl FnMut() -> Instant) -> Filled {
    while !rest.is_empty() {
        let left = deadline().saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Filled::TimedOut;
        }
        if stream.set_read_timeout(Some(left.min(SLICE))).is_err() {
            return Filled::Closed;
        }
        match stream.read(rest) {
            Ok(0) => return Filled::Closed,
            Ok(read) => rest = &mut rest[read..],
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(_) => return Filled::Closed,
        }
    }
    Filled::Whole
}

fn length(header: [u8; 4]) -> io::Result<usize> {
    usize::try_from(u32::from_be_bytes(header))
        .ok()
        .filter(|length| *length <= LONGEST)
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the frame is too long"))
}

fn decode<M: prost::Message + Default>(body: &[u8]) -> io::Result<M> {
    // The decoding error is not passed on: it may quote what it could not read.
    M::decode(body).map_err(|_| io::Error::new(ErrorKind::InvalidData, "the frame is not a message"))
}

#[cfg(test)]
mod tests {
    use super::super::messages::{Command, Request, Secret};
    use super::*;

    fn request() -> Request {
        Request { id: 7, call: "r".into(), command: Some(Command::Read(9)) }
    }

    #[test]
    fn a_message_survives_and_the_end_is_seen() {
        let mut wire = Vec::new();
        send(&mut wire, &request()).unwrap();
        assert_eq!(wire[..4], (u32::try_from(wire.len()).unwrap() - 4).to_be_bytes());
        let mut rest = wire.as_slice();
        assert!(receive::<Request>(&mut rest).unwrap() == Some(request()));
        assert!(receive::<Request>(&mut rest).unwrap().is_none());
    }

    #[test]
    fn a_torn_or_giant_frame_is_an_error() {
        let mut wire = Vec::new();
        send(&mut wire, &request()).unwrap();
        for cut in 1..wire.len() {
            assert!(receive::<Request>(&mut &wire[..cut]).is_err());
        }
        assert!(receive::<Request>(&mut &[0xFF; 8][..]).is_err());
        assert!(send(&mut Vec::new(), &Secret { bytes: vec![0; LONGEST] }).is_err());
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_at_the_end() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let deadline = Instant::now() + Duration::from_millis(30);
        assert!(matches!(receive_until::<Request>(&mut ours, || deadline), Waited::TimedOut));
        drop(theirs);
        let deadline = Instant::now() + Duration::from_secs(5);
        assert!(matches!(receive_until::<Request>(&mut ours, || deadline), Waited::Closed));
    }
}
