//! A frame-level HTTP/2 client: sends any frame, legal or not, and reads what portico says.
//!
//! What portico sends is checked against RFC 9113 as it is read: frame sizes, windows, the order of
//! frames of a stream, field names, Content-Length. A breach is an `InvalidData` error, which fails
//! the test. Acknowledgements and windows are given by themselves unless switched off.
//!
//! No priorities, no push, no clever scheduling: one thread that reads until what it waits for is
//! there.

mod answer;
pub mod frame;
mod read;
pub mod rows;
mod windows;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::SOON;
use crate::client::closed;
use crate::stream::Stream;
use windows::Windows;

pub use answer::Answer;
pub use frame::{Frame, Head, PREFACE, code, flag, kind, setting};

/// The largest frame that a peer may send unless told otherwise (6.5.2).
pub const MAX_FRAME: usize = 16_384;
/// The window of a stream and of a connection in the beginning (6.9.2).
pub const WINDOW: i64 = 65_535;

/// A connection to portico.
pub struct Http2 {
    /// The connection itself, for bytes that are no frames.
    pub stream: Stream,
    /// Whether SETTINGS and PING of the peer are acknowledged.
    pub acks: bool,
    /// Whether what DATA took from our windows is given back.
    pub windows: bool,
    /// Whether bodies are checked and kept; else only counted in [`Http2::received`].
    pub bodies: bool,
    /// What the peer told, the latest of each.
    pub settings: BTreeMap<u16, u32>,
    /// Bytes of DATA in all.
    pub received: u64,
    /// GOAWAY frames: last stream and code.
    pub goaways: Vec<(u32, u32)>,
    /// How many of our PING frames came back.
    pub pongs: usize,
    /// How often our SETTINGS were acknowledged.
    pub settings_acks: usize,
    /// Read and not yet parsed: from `at` to `end`.
    ahead: Vec<u8>,
    at: usize,
    end: usize,
    decoder: loona_hpack::Decoder<'static>,
    block: Option<(Frame, Vec<u8>)>,
    answers: BTreeMap<u32, Answer>,
    next: u32,
    ours: Windows,
    theirs: Windows,
}

/// How something ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A complete answer.
    Answer(Box<Answer>),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code, other than NO_ERROR.
    Goaway(u32),
    /// The connection closed without either.
    Closed,
    /// The connection goes on (of [`Http2::fate`]).
    Alive,
}

impl Http2 {
    /// TLS with these ALPN names; nothing of HTTP/2 is sent.
    pub fn connect(
        address: SocketAddr,
        config: &Arc<ClientConfig>,
        sni: &str,
        alpn: &[&[u8]],
    ) -> io::Result<Http2> {
        let mut config = (**config).clone();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from(sni.to_owned()).expect("a valid name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("TLS settings");
        let socket = TcpStream::connect_timeout(&address, SOON)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(SOON))?;
        let mut tls = StreamOwned::new(connection, socket);
        tls.sock.set_read_timeout(Some(SOON))?;
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Http2 {
            stream: Stream::TlsClient(Box::new(tls)),
            acks: true,
            windows: true,
            bodies: true,
            settings: BTreeMap::new(),
            received: 0,
            goaways: Vec::new(),
            pongs: 0,
            settings_acks: 0,
            ahead: vec![0; 1 << 17],
            at: 0,
            end: 0,
            decoder: loona_hpack::Decoder::new(),
            block: None,
            answers: BTreeMap::new(),
            next: 1,
            ours: Windows::new(),
            theirs: Windows::new(),
        })
    }

    /// The preface with these settings, and both sides' settings acknowledged.
    #[track_caller]
    pub fn open(mut self, settings: &[(u16, u32)]) -> Http2 {
        self.start(settings);
        while self.settings_acks == 0 || self.settings.is_empty() {
            let frame = self.read_frame().expect("settings");
            frame.expect("settings before the close");
        }
        self
    }

    /// Sends the preface with these settings.
    #[track_caller]
    pub fn start(&mut self, settings: &[(u16, u32)]) {
        let initial = settings
            .iter()
            .find(|(name, _)| *name == setting::INITIAL_WINDOW_SIZE);
        if let Some((_, value)) = initial {
            self.theirs.initial = i64::from(*value);
        }
        let mut bytes = PREFACE.to_vec();
        bytes.extend(Frame::settings(settings).bytes());
        self.try_send_bytes(&bytes).expect("portico reads");
    }

    /// Lets the peer send without end as far as HTTP/2 goes, while the socket takes little: what is
    /// not read stays with the peer.
    #[track_caller]
    pub fn open_wide(self) -> Http2 {
        let socket = socket2::SockRef::from(self.stream.tcp());
        socket
            .set_recv_buffer_size(128 << 10)
            .expect("a small buffer");
        let mut client = self.open(&[(setting::INITIAL_WINDOW_SIZE, i32::MAX as u32)]);
        client.send(&Frame::window_update(
            0,
            (i64::from(i32::MAX) - WINDOW) as u32,
        ));
        client
    }

    /// The ALPN name that was agreed upon.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.stream {
            Stream::TlsClient(tls) => tls.conn.alpn_protocol(),
            Stream::Plain(_) | Stream::TlsServer(_) => None,
        }
    }

    // --- sending

    /// Sends a frame; panics when the peer is gone.
    #[track_caller]
    pub fn send(&mut self, frame: &Frame) {
        self.try_send(frame).expect("portico reads");
    }

    /// Sends a frame.
    pub fn try_send(&mut self, frame: &Frame) -> io::Result<()> {
        if frame.kind == kind::HEADERS && frame.stream % 2 == 1 {
            self.next = self.next.max(frame.stream + 2);
        }
        if frame.kind == kind::DATA {
            self.ours.take(frame.stream, frame.payload.len());
        }
        if frame.kind == kind::WINDOW_UPDATE {
            self.theirs.give(frame.stream, frame.number(0));
        }
        if frame.kind == kind::SETTINGS && !frame.has(flag::ACK) {
            for (name, value) in pairs(frame) {
                if name == setting::INITIAL_WINDOW_SIZE {
                    self.theirs.change(i64::from(value));
                }
            }
        }
        self.try_send_bytes(&frame.bytes())
    }

    /// Sends bytes.
    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Sends bytes again and again, reading what comes in between so that neither side blocks.
    /// Gives how many times before the peer had enough.
    pub fn flood(&mut self, bytes: &[u8], times: usize) -> usize {
        self.flood_with(times, |_| bytes.to_vec())
    }

    /// As [`Http2::flood`] with bytes that depend on the turn.
    pub fn flood_with(&mut self, times: usize, mut make: impl FnMut(u32) -> Vec<u8>) -> usize {
        let mut chunk = Vec::new();
        for turn in 0..times {
            chunk.extend(make(turn as u32));
            if chunk.len() < 4096 && turn + 1 < times {
                continue;
            }
            if self.try_send_bytes(&chunk).is_err() || self.drain().is_err() || self.is_over() {
                return turn;
            }
            chunk.clear();
        }
        times
    }

    /// How many bytes of DATA the peer allows on a stream now; may be negative.
    pub fn room(&mut self, stream: u32) -> i64 {
        self.ours.room(stream)
    }

    /// A stream of ours that was not used yet.
    pub fn next_stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Makes this the next stream, unless it was used already; gives which one is next.
    pub fn skip_to(&mut self, stream: u32) -> u32 {
        self.next = self.next.max(stream);
        self.next
    }

    /// Sends a request on a new stream, whose number it gives.
    #[track_caller]
    pub fn request(&mut self, head: &Head, end: bool) -> u32 {
        let stream = self.next_stream();
        self.send_head(stream, head, end);
        stream
    }

    /// Sends a request on this stream, in as many frames as it takes.
    #[track_caller]
    pub fn send_head(&mut self, stream: u32, head: &Head, end: bool) {
        self.expect_head(stream, head);
        let block = head.block();
        let mut pieces = block.chunks(MAX_FRAME).peekable();
        let mut kind = kind::HEADERS;
        let mut flags = if end { flag::END_STREAM } else { 0 };
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                flags |= flag::END_HEADERS;
            }
            self.send(&Frame::new(kind, flags, stream, piece));
            (kind, flags) = (kind::CONTINUATION, 0);
        }
    }

    /// Notes what the answer of a stream must be like, where the request is sent by hand.
    pub fn expect_head(&mut self, stream: u32, head: &Head) {
        let head_request = head
            .0
            .iter()
            .any(|(name, value)| name == b":method" && value == b"HEAD");
        self.next = self.next.max(stream.saturating_add(2) | 1);
        self.answers.entry(stream).or_default().head_request = head_request;
    }

    /// Sends a body within the peer's windows, reading while they are shut.
    #[track_caller]
    pub fn send_body(&mut self, stream: u32, body: &[u8], end: bool) {
        let sent = self.try_send_body(stream, body, end);
        sent.expect("the upload goes on");
    }

    /// As [`Http2::send_body`]; an error when the stream or the connection ends before.
    pub fn try_send_body(&mut self, stream: u32, body: &[u8], end: bool) -> io::Result<()> {
        let mut rest = body;
        while !rest.is_empty() {
            let room = self.ours.room(stream);
            if room <= 0 {
                let frame = self.read_frame()?;
                if frame.is_none() || self.answers.get(&stream).is_some_and(|a| a.reset.is_some()) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                continue;
            }
            let now = rest.len().min(MAX_FRAME).min(room as usize);
            let last = end && now == rest.len();
            self.try_send(&Frame::data(stream, &rest[..now], last))?;
            rest = &rest[now..];
            // What came meanwhile is taken in, so that the peer is never blocked by us.
            self.drain()?;
        }
        if end && body.is_empty() {
            self.try_send(&Frame::data(stream, [], true))?;
        }
        Ok(())
    }

    // --- reading

    /// Waits for the complete answer of a stream.
    #[track_caller]
    pub fn answer(&mut self, stream: u32) -> Answer {
        match self.outcome(stream) {
            Outcome::Answer(answer) => *answer,
            other => panic!(
                "stream {stream}: {other:?}, {:?}",
                self.answers.get(&stream)
            ),
        }
    }

    /// Sends a request without a body and waits for its answer.
    #[track_caller]
    pub fn exchange(&mut self, head: &Head) -> Answer {
        let stream = self.request(head, true);
        self.answer(stream)
    }

    /// Waits for what becomes of a stream.
    #[track_caller]
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        self.until(|client| {
            let answer = client.answers.get(&stream)?;
            match answer.reset {
                _ if answer.ended => Some(Outcome::Answer(Box::new(answer.clone()))),
                Some(code) => Some(Outcome::Reset(code)),
                None => None,
            }
        })
    }

    /// Waits until the peer acted on all that was sent, or ended the connection.
    #[track_caller]
    pub fn fate(&mut self) -> Outcome {
        let pongs = self.pongs;
        let _ = self.try_send(&Frame::ping(*b"the fate"));
        self.until(|client| (client.pongs > pongs).then_some(Outcome::Alive))
    }

    /// Waits for the head of an answer.
    #[track_caller]
    pub fn head(&mut self, stream: u32) -> Answer {
        match self.outcome_of_head(stream) {
            Outcome::Answer(answer) => *answer,
            other => panic!("stream {stream}: {other:?}"),
        }
    }

    /// Waits for the head of an answer, or the stream's end without one.
    #[track_caller]
    pub fn outcome_of_head(&mut self, stream: u32) -> Outcome {
        self.until(|client| {
            let answer = client.answers.get(&stream)?;
            match answer.reset {
                _ if answer.status != 0 => Some(Outcome::Answer(Box::new(answer.clone()))),
                Some(code) => Some(Outcome::Reset(code)),
                None => None,
            }
        })
    }

    /// Waits for RST_STREAM, with this code.
    #[track_caller]
    pub fn expect_rst(&mut self, stream: u32, code: u32) {
        let found = self.until(|client| {
            let reset = client.answers.get(&stream)?.reset?;
            Some(Outcome::Reset(reset))
        });
        assert!(
            matches!(found, Outcome::Reset(found) if found == code),
            "stream {stream}: {found:?} instead of a reset with {code}"
        );
    }

    /// Waits for GOAWAY with one of these codes and the end of the connection.
    #[track_caller]
    pub fn expect_goaway(&mut self, codes: &[u32]) {
        let ended = loop {
            match self.read_frame() {
                Ok(Some(_)) => {}
                Ok(None) => break "the connection ended",
                Err(error) if error.kind() == io::ErrorKind::InvalidData => panic!("{error}"),
                Err(_) => break "the connection did not end",
            }
        };
        let found: Vec<u32> = self.goaways.iter().map(|(_, code)| *code).collect();
        let right =
            ended == "the connection ended" && found.iter().any(|code| codes.contains(code));
        assert!(right, "GOAWAY {found:?} instead of {codes:?}; {ended}");
    }

    /// What came on a stream so far.
    pub fn so_far(&self, stream: u32) -> Answer {
        self.answers.get(&stream).cloned().unwrap_or_default()
    }

    /// Whether the peer said that the connection is over.
    pub fn is_over(&self) -> bool {
        self.goaways.iter().any(|(_, code)| *code != code::NO_ERROR)
    }

    /// Reads until `found` gives something, or the connection is over.
    #[track_caller]
    fn until(&mut self, mut found: impl FnMut(&Http2) -> Option<Outcome>) -> Outcome {
        let start = Instant::now();
        loop {
            if let Some(outcome) = found(self) {
                return outcome;
            }
            if let Some((_, code)) = self
                .goaways
                .iter()
                .find(|(_, code)| *code != code::NO_ERROR)
            {
                return Outcome::Goaway(*code);
            }
            assert!(start.elapsed() < 3 * SOON, "portico talks of other things");
            match self.read_frame() {
                Ok(Some(_)) => {}
                Ok(None) => return Outcome::Closed,
                Err(error) if closed(&error) => return Outcome::Closed,
                Err(error) => panic!("not answered: {error}"),
            }
        }
    }
}

/// The settings of a frame.
fn pairs(frame: &Frame) -> impl Iterator<Item = (u16, u32)> {
    frame.payload.chunks_exact(6).map(|pair| {
        let name = u16::from_be_bytes([pair[0], pair[1]]);
        let value = pair[2..].iter();
        (name, value.fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    })
}

fn breach(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("RFC 9113, {message}"))
}
