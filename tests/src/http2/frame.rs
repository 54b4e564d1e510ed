//! Frames of RFC 9113, section 4 and 6, and field blocks of RFC 7541, as bytes. Anything can be
//! built, legal or not; nothing is read here.

/// A frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// 0 is the connection.
    pub stream: u32,
    /// All behind the nine bytes of the head.
    pub payload: Vec<u8>,
}

/// Frame types (section 6).
pub mod kind {
    #![allow(missing_docs)]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags (section 6).
pub mod flag {
    #![allow(missing_docs)]
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Error codes (section 7).
pub mod code {
    #![allow(missing_docs)]
    pub const NO_ERROR: u32 = 0x0;
    pub const PROTOCOL_ERROR: u32 = 0x1;
    pub const INTERNAL_ERROR: u32 = 0x2;
    pub const FLOW_CONTROL_ERROR: u32 = 0x3;
    pub const SETTINGS_TIMEOUT: u32 = 0x4;
    pub const STREAM_CLOSED: u32 = 0x5;
    pub const FRAME_SIZE_ERROR: u32 = 0x6;
    pub const REFUSED_STREAM: u32 = 0x7;
    pub const CANCEL: u32 = 0x8;
    pub const COMPRESSION_ERROR: u32 = 0x9;
    pub const ENHANCE_YOUR_CALM: u32 = 0xb;
}

/// Settings (section 6.5.2; RFC 8441, section 3).
pub mod setting {
    #![allow(missing_docs)]
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// What a client says first (section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Frame {
    /// Any frame.
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Frame {
        Frame {
            kind,
            flags,
            stream,
            payload: payload.into(),
        }
    }

    /// The last one of its side when `end`.
    pub fn data(stream: u32, bytes: impl Into<Vec<u8>>, end: bool) -> Frame {
        let flags = if end { flag::END_STREAM } else { 0 };
        Frame::new(kind::DATA, flags, stream, bytes)
    }

    /// A whole field section in one frame.
    pub fn headers(stream: u32, head: &Head, end: bool) -> Frame {
        let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
        Frame::new(kind::HEADERS, flags, stream, head.block())
    }

    /// The rest of a field block; the last when `end`.
    pub fn continuation(stream: u32, block: impl Into<Vec<u8>>, end: bool) -> Frame {
        let flags = if end { flag::END_HEADERS } else { 0 };
        Frame::new(kind::CONTINUATION, flags, stream, block)
    }

    /// A dependency, which RFC 9113 deprecates.
    pub fn priority(stream: u32, on: u32) -> Frame {
        let mut payload = on.to_be_bytes().to_vec();
        payload.push(15);
        Frame::new(kind::PRIORITY, 0, stream, payload)
    }

    /// Ends a stream.
    pub fn rst(stream: u32, code: u32) -> Frame {
        Frame::new(kind::RST_STREAM, 0, stream, code.to_be_bytes())
    }

    /// Not an acknowledgement.
    pub fn settings(values: &[(u16, u32)]) -> Frame {
        let payload: Vec<u8> = values
            .iter()
            .flat_map(|(name, value)| {
                let (name, value) = (name.to_be_bytes(), value.to_be_bytes());
                name.into_iter().chain(value)
            })
            .collect();
        Frame::new(kind::SETTINGS, 0, 0, payload)
    }

    /// Acknowledges settings.
    pub fn settings_ack() -> Frame {
        Frame::new(kind::SETTINGS, flag::ACK, 0, [])
    }

    /// Not an acknowledgement.
    pub fn ping(payload: [u8; 8]) -> Frame {
        Frame::new(kind::PING, 0, 0, payload)
    }

    /// Says that no more streams are accepted.
    pub fn goaway(last: u32, code: u32) -> Frame {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend(code.to_be_bytes());
        Frame::new(kind::GOAWAY, 0, 0, payload)
    }

    /// Stream 0 is the connection's window.
    pub fn window_update(stream: u32, increment: u32) -> Frame {
        Frame::new(kind::WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
    }

    /// With this many bytes of padding (HEADERS and DATA).
    pub fn padded(mut self, padding: u8) -> Frame {
        self.flags |= flag::PADDED;
        self.payload.insert(0, padding);
        self.payload.extend(vec![0; usize::from(padding)]);
        self
    }

    /// Whether these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// As it stands on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a length");
        assert!(length < 1 << 24, "a frame cannot be this long");
        let mut out = length.to_be_bytes()[1..].to_vec();
        out.extend([self.kind, self.flags]);
        out.extend(self.stream.to_be_bytes());
        out.extend(&self.payload);
        out
    }

    /// Four bytes of the payload as a number.
    pub fn number(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).unwrap_or(&[0; 4]);
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
    }
}

/// The fields of a request to be sent, pseudo-fields first; any bytes in any order.
#[derive(Clone, Debug, Default)]
pub struct Head(pub Vec<(Vec<u8>, Vec<u8>)>);

impl Head {
    /// The four pseudo-fields and a User-Agent.
    pub fn new(method: &str, host: &str, target: &str) -> Head {
        Head::default()
            .with(":method", method)
            .with(":scheme", "https")
            .with(":authority", host)
            .with(":path", target)
            .with("user-agent", "t")
    }

    /// A GET.
    pub fn get(host: &str, target: &str) -> Head {
        Head::new("GET", host, target)
    }

    /// A POST without a length.
    pub fn post(host: &str, target: &str) -> Head {
        Head::new("POST", host, target)
    }

    /// One more field at the end.
    pub fn with(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Head {
        self.0
            .push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// One more field in front of all others.
    pub fn first(mut self, name: &str, value: &str) -> Head {
        self.0.insert(0, (name.into(), value.into()));
        self
    }

    /// Without any field of this name.
    pub fn without(mut self, name: &str) -> Head {
        self.0.retain(|(found, _)| found != name.as_bytes());
        self
    }

    /// With another value of a field that is there.
    pub fn set(mut self, name: &str, value: impl AsRef<[u8]>) -> Head {
        for (found, old) in &mut self.0 {
            if found == name.as_bytes() {
                *old = value.as_ref().to_vec();
            }
        }
        self
    }

    /// The field block: literals without indexing, no Huffman codes (RFC 7541, 6.2.2).
    pub fn block(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in &self.0 {
            out.push(0);
            string(&mut out, name);
            string(&mut out, value);
        }
        out
    }
}

/// RFC 7541, 5.1 and 5.2.
fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() < 127 {
        out.push(bytes.len() as u8);
    } else {
        out.push(127);
        let mut rest = bytes.len() - 127;
        while rest >= 128 {
            out.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(bytes);
}
