//! The framing of the streams between nodes: bytes to frames and back, without a socket.
//!
//! ```text
//!  stream   = preamble frame*                    preamble = "COTERIE" version(1)
//!  frame    = length(4) crc32(4) kind(1) payload(length)      crc32 over kind and payload
//!  message  = Message | First Rest*              a long message travels in chunks
//! ```
//!
//! Integers are little-endian. The chunks of one message follow each other: nothing but a ping
//! may come between them, so that at most one message is being put together at a time.
//!
//! Invariants:
//! - a payload that [`Decoder::next`] returns is a copy if it is small, so that the buffer that was
//!   read into is used again; a slice of that buffer if it is large; and if it came in chunks, it
//!   is put together once;
//! - memory follows what has arrived, never what a length announces;
//! - after an error the stream is out of step: the only way on is to close it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What each side sends before its first frame; the last byte is the version of the framing.
pub const PREAMBLE: [u8; 8] = *b"COTERIE\x01";
/// Length, checksum, kind.
const HEADER: usize = 9;
/// Payload bytes of one frame. Large enough that a chunk costs little beside its bytes, small
/// enough that a damaged length is noticed after a megabyte.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Bytes of a message that travels in chunks. A put leaves at most `limits.record_bytes` (8 MiB),
/// but merges are never refused, and siblings may add up.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Payload bytes of a frame before the peer is known: a hello, or the reason for a refusal.
pub const HELLO_BYTES_MAX: usize = 64 << 10;
/// Room that the reader keeps free, so that one read takes in many small frames.
const READ_BYTES: usize = 128 << 10;
/// A payload up to this size is copied. What is made of a message may be kept for long: a slice would
/// keep the whole buffer alive, and have a new one allocated for every few hundred messages.
const COPIED_BYTES_MAX: usize = 8 << 10;
/// Below this much free room, more is made.
const READ_BYTES_MIN: usize = 16 << 10;

/// What a stream carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Who speaks: the first frame of each side.
    Hello(Bytes),
    /// Instead of a hello, or at any time: the stream is refused, and why.
    Reject(Bytes),
    /// A whole message.
    Message(Bytes),
    /// Nothing but a sign of life.
    Ping,
}

/// Why a stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not ours.
    #[error("this is not a stream between nodes: {0}")]
    Foreign(Stranger),
    /// The peer's framing is another version.
    #[error("the peer speaks version {0} of the framing, this build speaks {version}", version = PREAMBLE[7])]
    Version(u8),
    /// A frame or a message is announced as larger than may be.
    #[error("{0} bytes are announced, more than the limit")]
    TooLarge(u64),
    /// The checksum does not fit.
    #[error("the checksum of a frame does not fit: the bytes were damaged on their way")]
    Checksum,
    /// A kind of frame that this build does not know.
    #[error("frames of kind {0} are not known to this build")]
    Kind(u8),
    /// A frame came where it must not.
    #[error("{0}")]
    OutOfPlace(&'static str),
}

/// Who seems to have called, judging by the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// HTTP/2: most likely a client of ours on the wrong port.
    Grpc,
    /// HTTP/1: a browser or a probe on the wrong port.
    Http,
    /// A TLS handshake.
    Tls,
    /// No idea.
    Unknown,
}

impl std::fmt::Display for Stranger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Grpc => {
                "it speaks HTTP/2; a client was probably given the internal port instead of the \
                 client port (gRPC)"
            }
            Self::Http => {
                "it speaks HTTP/1; health checks and metrics are on the admin port, not on the \
                 internal one"
            }
            Self::Tls => "it speaks TLS, which this port does not",
            Self::Unknown => "it is no protocol that is known here",
        })
    }
}

impl Stranger {
    fn of(first: &[u8]) -> Self {
        const HTTP: [&[u8]; 6] = [b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"HTTP"];
        let is = |start: &[u8]| first.starts_with(&start[..start.len().min(first.len())]);
        match first {
            [] => Self::Unknown,
            [0x16, ..] => Self::Tls,
            // A server of HTTP/2 opens with a SETTINGS frame: length, type 4, flags, stream 0.
            [0, 0, _, 4, ..] => Self::Grpc,
            _ if is(b"PRI * HT") => Self::Grpc,
            _ if HTTP.iter().any(|start| is(start)) => Self::Http,
            _ => Self::Unknown,
        }
    }
}

/// A message was not encoded: it is longer than [`MESSAGE_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes is longer than {MESSAGE_BYTES_MAX} bytes")]
pub struct MessageTooLarge(pub usize);

mod kind {
    pub const HELLO: u8 = 1;
    pub const REJECT: u8 = 2;
    pub const MESSAGE: u8 = 3;
    pub const FIRST: u8 = 4;
    pub const REST: u8 = 5;
    pub const PING: u8 = 6;
}

/// Appends the preamble and a hello. A hello beyond [`HELLO_BYTES_MAX`] is cut, and refused by
/// whoever reads it.
pub fn encode_hello(out: &mut BytesMut, hello: &[u8]) {
    out.put_slice(&PREAMBLE);
    encode_frame(out, kind::HELLO, &hello[..hello.len().min(HELLO_BYTES_MAX)]);
}

/// Appends the preamble and a refusal.
pub fn encode_first_reject(out: &mut BytesMut, reason: &str) {
    out.put_slice(&PREAMBLE);
    encode_reject(out, reason);
}

/// Appends a refusal.
pub fn encode_reject(out: &mut BytesMut, reason: &str) {
    encode_frame(out, kind::REJECT, &reason.as_bytes()[..reason.len().min(HELLO_BYTES_MAX)]);
}

/// Appends a sign of life.
pub fn encode_ping(out: &mut BytesMut) {
    encode_frame(out, kind::PING, &[]);
}

/// Appends the message that `write` appends, framed. Nothing is copied unless it needs chunks.
///
/// # Errors
/// [`MessageTooLarge`]; `out` is as it was before.
pub fn encode_message(
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut),
) -> Result<(), MessageTooLarge> {
    let start = out.len();
    out.put_bytes(0, HEADER);
    write(out);
    let length = out.len() - start - HEADER;
    if length <= FRAME_BYTES_MAX {
        seal(&mut out[start..], kind::MESSAGE);
        return Ok(());
    }
    let mut message = out.split_off(start);
    message.advance(HEADER);
    let total = u32::try_from(length).ok().filter(|_| length <= MESSAGE_BYTES_MAX);
    let Some(total) = total else { return Err(MessageTooLarge(length)) };
    let first = message.split_to(FRAME_BYTES_MAX - 4);
    out.reserve(length + (length / FRAME_BYTES_MAX + 2) * HEADER + 4);
    let begin = out.len();
    out.put_bytes(0, HEADER);
    out.put_u32_le(total);
    out.put_slice(&first);
    seal(&mut out[begin..], kind::FIRST);
    message.chunks(FRAME_BYTES_MAX).for_each(|chunk| encode_frame(out, kind::REST, chunk));
    Ok(())
}

fn encode_frame(out: &mut BytesMut, kind: u8, payload: &[u8]) {
    let start = out.len();
    out.put_bytes(0, HEADER);
    out.put_slice(payload);
    seal(&mut out[start..], kind);
}

/// Fills in the header in front of a payload.
fn seal(frame: &mut [u8], kind: u8) {
    let length = u32::try_from(frame.len() - HEADER).expect("a frame is below its limit");
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[8] = kind;
    let crc = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the frames of one direction of one stream.
#[derive(Debug)]
pub struct Decoder {
    /// Whether the preamble has been seen.
    begun: bool,
    /// Payload bytes of a frame: small until the peer is known.
    frame_bytes_max: usize,
    /// The message that is being put together, and how long it will be.
    partial: Option<(BytesMut, usize)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { begun: false, frame_bytes_max: HELLO_BYTES_MAX, partial: None }
    }
}

impl Decoder {
    /// The peer is known: from here on it may send messages.
    pub fn trust(&mut self) {
        self.frame_bytes_max = FRAME_BYTES_MAX;
    }

    /// Takes the next frame off the front of `read`, if all of it is there.
    ///
    /// # Errors
    /// [`FrameError`]: the stream must be closed.
    pub fn next(&mut self, read: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if !self.begun && !self.begin(read)? {
            return Ok(None);
        }
        loop {
            let Some((kind, payload)) = self.frame(read)? else { return Ok(None) };
            if let Some(frame) = self.place(kind, payload)? {
                return Ok(Some(frame));
            }
        }
    }

    /// Makes room in `read` for the next read from the socket.
    pub fn reserve(&self, read: &mut BytesMut) {
        let wanted = match read.get(..4) {
            Some(length) if self.begun => {
                let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
                (HEADER + length.min(self.frame_bytes_max)).saturating_sub(read.len())
            }
            _ => 0,
        };
        if read.capacity() - read.len() < wanted.max(READ_BYTES_MIN) {
            read.reserve(wanted.max(READ_BYTES));
        }
    }

    /// Whether the preamble is there; strangers are told apart by their very first bytes.
    fn begin(&mut self, read: &mut BytesMut) -> Result<bool, FrameError> {
        let have = read.len().min(PREAMBLE.len());
        let name = have.min(PREAMBLE.len() - 1);
        if read[..name] != PREAMBLE[..name] {
            return Err(FrameError::Foreign(Stranger::of(&read[..have])));
        }
        if have < PREAMBLE.len() {
            return Ok(false);
        }
        match read[PREAMBLE.len() - 1] {
            version if version == PREAMBLE[7] => {}
            version => return Err(FrameError::Version(version)),
        }
        read.advance(PREAMBLE.len());
        self.begun = true;
        Ok(true)
    }

    /// One frame off the wire, verified.
    fn frame(&self, read: &mut BytesMut) -> Result<Option<(u8, Bytes)>, FrameError> {
        let Some(mut header) = read.get(..HEADER) else { return Ok(None) };
        let (length, crc) = (header.get_u32_le() as usize, header.get_u32_le());
        if length > self.frame_bytes_max {
            return Err(FrameError::TooLarge(length as u64));
        }
        if read.len() < HEADER + length {
            return Ok(None);
        }
        let frame = &read[..HEADER + length];
        if crc32fast::hash(&frame[8..]) != crc {
            return Err(FrameError::Checksum);
        }
        let kind = frame[8];
        let payload = if length <= COPIED_BYTES_MAX {
            let payload = Bytes::copy_from_slice(&frame[HEADER..]);
            read.advance(HEADER + length);
            payload
        } else {
            let mut frame = read.split_to(HEADER + length).freeze();
            frame.advance(HEADER);
            frame
        };
        Ok(Some((kind, payload)))
    }

    /// What a frame means where it stands; none if it is a chunk and more are to come.
    fn place(&mut self, kind: u8, payload: Bytes) -> Result<Option<Frame>, FrameError> {
        match (kind, &mut self.partial) {
            (kind::PING, _) => Ok(Some(Frame::Ping)),
            (kind::REJECT, _) => Ok(Some(Frame::Reject(payload))),
            (kind::HELLO, None) => Ok(Some(Frame::Hello(payload))),
            (kind::MESSAGE, None) => Ok(Some(Frame::Message(payload))),
            (kind::FIRST, None) => self.first(payload).map(|()| None),
            (kind::REST, Some(_)) => self.rest(&payload),
            (kind::REST, None) => Err(FrameError::OutOfPlace("a chunk came without a first one")),
            (kind::HELLO | kind::MESSAGE | kind::FIRST, Some(_)) => {
                Err(FrameError::OutOfPlace("a message was broken off in the middle"))
            }
            (other, _) => Err(FrameError::Kind(other)),
        }
    }

    fn first(&mut self, mut payload: Bytes) -> Result<(), FrameError> {
        let total = payload.try_get_u32_le();
        let total = total.map_err(|_| FrameError::OutOfPlace("a first chunk names no length"))?;
        let total = total as usize;
        if total > MESSAGE_BYTES_MAX {
            return Err(FrameError::TooLarge(total as u64));
        }
        if payload.is_empty() || payload.len() >= total {
            return Err(FrameError::OutOfPlace("a first chunk is empty, or all of the message"));
        }
        self.partial = Some((BytesMut::from(&payload[..]), total));
        Ok(())
    }

    fn rest(&mut self, payload: &[u8]) -> Result<Option<Frame>, FrameError> {
        let Some((mut message, total)) = self.partial.take() else { return Ok(None) };
        if payload.is_empty() || payload.len() > total - message.len() {
            return Err(FrameError::OutOfPlace("a chunk is empty, or goes beyond its message"));
        }
        message.put_slice(payload);
        if message.len() == total {
            return Ok(Some(Frame::Message(message.freeze())));
        }
        self.partial = Some((message, total));
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(out: &mut BytesMut, bytes: &[u8]) {
        encode_message(out, |out| out.put_slice(bytes)).unwrap();
    }

    /// Feeds `wire` in pieces and collects what comes out.
    fn decode(wire: &[u8], pieces: &[usize]) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = Decoder::default();
        decoder.trust();
        let (mut read, mut frames, mut rest) = (BytesMut::new(), vec![], wire);
        let mut pieces = pieces.iter().copied().cycle();
        while !rest.is_empty() {
            let take = pieces.next().unwrap_or(usize::MAX).clamp(1, rest.len());
            decoder.reserve(&mut read);
            read.put_slice(&rest[..take]);
            rest = &rest[take..];
            while let Some(frame) = decoder.next(&mut read)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_come_back_however_the_bytes_are_split(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
            pieces in proptest::collection::vec(1usize..200, 1..10),
        ) {
            let mut wire = BytesMut::new();
            encode_hello(&mut wire, b"hello");
            let mut expected = vec![Frame::Hello(Bytes::from_static(b"hello"))];
            for bytes in messages {
                message(&mut wire, &bytes);
                encode_ping(&mut wire);
                expected.extend([Frame::Message(bytes.into()), Frame::Ping]);
            }
            prop_assert_eq!(decode(&wire, &pieces), Ok(expected));
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_make_a_message(
            bytes: Vec<u8>, preamble: bool, pieces in proptest::collection::vec(1usize..50, 1..5),
        ) {
            let mut wire = if preamble { PREAMBLE.to_vec() } else { vec![] };
            wire.extend(bytes);
            // A frame of arbitrary bytes would need a fitting checksum.
            prop_assert!(decode(&wire, &pieces).is_ok_and(|f| f.is_empty()) || decode(&wire, &pieces).is_err());
        }

        #[test]
        fn arbitrary_frames_in_any_order_never_panic(
            frames in proptest::collection::vec((0u8..9, proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
        ) {
            let mut wire = BytesMut::from(&PREAMBLE[..]);
            frames.iter().for_each(|(kind, payload)| encode_frame(&mut wire, *kind, payload));
            let _ = decode(&wire, &[usize::MAX]);
        }

        #[test]
        fn a_flipped_bit_is_noticed(bit in 0usize..(9 + 20) * 8) {
            let mut wire = BytesMut::from(&PREAMBLE[..]);
            message(&mut wire, &[7; 20]);
            wire[8 + bit / 8] ^= 1 << (bit % 8);
            // A longer length leaves the decoder waiting; nothing wrong comes out of it.
            prop_assert!(!matches!(decode(&wire, &[usize::MAX]), Ok(frames) if !frames.is_empty()));
        }
    }

    #[test]
    fn a_long_message_travels_in_chunks_and_comes_back_whole() {
        for length in [FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 3 * FRAME_BYTES_MAX + 17] {
            let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
            let mut wire = BytesMut::from(&PREAMBLE[..]);
            message(&mut wire, b"before");
            message(&mut wire, &bytes);
            message(&mut wire, b"after");
            let frames = decode(&wire, &[65_536, 1, 9]).unwrap();
            let expected = [b"before".to_vec(), bytes, b"after".to_vec()];
            assert_eq!(frames, expected.map(|bytes| Frame::Message(bytes.into())));
        }
    }

    #[test]
    fn a_message_beyond_the_limit_leaves_the_buffer_as_it_was() {
        let mut wire = BytesMut::new();
        message(&mut wire, b"kept");
        let before = wire.clone();
        let huge = encode_message(&mut wire, |out| out.put_bytes(0, MESSAGE_BYTES_MAX + 1));
        assert_eq!(huge, Err(MessageTooLarge(MESSAGE_BYTES_MAX + 1)));
        assert_eq!(wire, before);
    }

    #[test]
    fn a_large_payload_shares_the_memory_that_was_read_into_and_a_small_one_does_not() {
        for (length, shares) in [(100, false), (COPIED_BYTES_MAX + 1, true)] {
            let mut wire = BytesMut::from(&PREAMBLE[..]);
            message(&mut wire, &vec![1; length]);
            let range = wire.as_ptr_range();
            let mut decoder = Decoder::default();
            decoder.trust();
            let Ok(Some(Frame::Message(payload))) = decoder.next(&mut wire) else {
                panic!("no message")
            };
            assert_eq!(range.contains(&payload.as_ptr()), shares);
        }
    }

    #[test]
    fn strangers_are_told_apart_by_their_first_bytes() {
        let of = |bytes: &[u8]| decode(bytes, &[usize::MAX]);
        assert_eq!(of(b"PRI * HTTP/2.0\r\n"), Err(FrameError::Foreign(Stranger::Grpc)));
        assert_eq!(of(b"P"), Err(FrameError::Foreign(Stranger::Grpc)));
        assert_eq!(of(b"GET / HTTP/1.1"), Err(FrameError::Foreign(Stranger::Http)));
        assert_eq!(of(b"\x16\x03\x01"), Err(FrameError::Foreign(Stranger::Tls)));
        assert_eq!(of(b"\0\0\x12\x04\0\0\0\0\0"), Err(FrameError::Foreign(Stranger::Grpc)));
        assert_eq!(of(b"\xff\xff"), Err(FrameError::Foreign(Stranger::Unknown)));
        assert_eq!(of(b"COTERIE\x02"), Err(FrameError::Version(2)));
        assert_eq!(of(b"COTER"), Ok(vec![]));
    }

    #[test]
    fn an_unknown_peer_cannot_announce_more_than_a_hello() {
        let mut wire = BytesMut::from(&PREAMBLE[..]);
        message(&mut wire, &vec![0; HELLO_BYTES_MAX + 1]);
        let refused = Decoder::default().next(&mut wire);
        assert_eq!(refused, Err(FrameError::TooLarge(HELLO_BYTES_MAX as u64 + 1)));
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        let mut wire = BytesMut::from(&PREAMBLE[..]);
        let total = u32::try_from(MESSAGE_BYTES_MAX).unwrap().to_le_bytes();
        encode_frame(&mut wire, kind::FIRST, &[&total[..], b"x"].concat());
        let mut decoder = Decoder::default();
        assert_eq!(decoder.next(&mut wire), Ok(None));
        assert!(decoder.partial.as_ref().is_some_and(|(bytes, _)| bytes.capacity() < 1024));
    }
}
