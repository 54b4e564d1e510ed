//! The reading half of [`Http2`]: bytes to frames, and what each frame means for the connection.

use std::io::{self, Read};

use super::{Answer, Frame, Http2, MAX_FRAME, WINDOW, breach, flag, kind, pairs, setting};
use crate::client::closed;
use crate::stream::Stream;

impl Http2 {
    /// Reads the next frame and does what it asks for; `None` when the connection is over.
    pub fn read_frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.parse()? {
                self.process(&frame)?;
                return Ok(Some(frame));
            }
            match self.fill() {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if closed(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes in what is there, without waiting.
    pub fn drain(&mut self) -> io::Result<()> {
        loop {
            while let Some(frame) = self.parse()? {
                self.process(&frame)?;
            }
            self.stream.tcp().set_nonblocking(true)?;
            let read = self.fill();
            self.stream.tcp().set_nonblocking(false)?;
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.ahead.copy_within(self.at..self.end, 0);
        self.end -= self.at;
        self.at = 0;
        let Stream::TlsClient(tls) = &mut self.stream else {
            unreachable!("HTTP/2 is spoken over TLS here");
        };
        // Not `StreamOwned::read`: it writes first, and what a peer said before it closed must be
        // read also when nothing can be written any more.
        loop {
            match tls.conn.reader().read(&mut self.ahead[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match tls.conn.read_tls(&mut tls.sock) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => read.map(drop)?,
            }
            let state = tls.conn.process_new_packets();
            state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    /// The next frame of what was read ahead.
    fn parse(&mut self) -> io::Result<Option<Frame>> {
        let bytes = &self.ahead[self.at..self.end];
        if bytes.len() < 9 {
            return Ok(None);
        }
        let length = bytes[..3]
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if length > MAX_FRAME {
            return Err(breach(format!("4.2: a frame of {length} bytes")));
        }
        if bytes.len() < 9 + length {
            return Ok(None);
        }
        let frame = Frame {
            kind: bytes[3],
            flags: bytes[4],
            stream: bytes[5..9]
                .iter()
                .fold(0, |sum, byte| sum << 8 | u32::from(*byte)),
            payload: bytes[9..9 + length].to_vec(),
        };
        self.at += 9 + length;
        Ok(Some(frame))
    }

    fn process(&mut self, frame: &Frame) -> io::Result<()> {
        let continues = frame.kind == kind::CONTINUATION;
        let expected = self.block.as_ref().map(|(first, _)| first.stream);
        if continues != expected.is_some() || expected.is_some_and(|id| id != frame.stream) {
            return Err(breach(format!(
                "6.10: {frame:?} in a field block of {expected:?}"
            )));
        }
        match frame.kind {
            kind::DATA => self.on_data(frame),
            kind::HEADERS | kind::CONTINUATION => self.on_block(frame),
            kind::RST_STREAM => {
                // A second one is no breach, only not wanted (5.4.2).
                self.known(frame)?.reset.get_or_insert(frame.number(0));
                Ok(())
            }
            kind::SETTINGS => self.on_settings(frame),
            kind::PUSH_PROMISE => Err(breach("8.4: a push".into())),
            kind::PING if frame.has(flag::ACK) => {
                self.pongs += 1;
                Ok(())
            }
            kind::PING if self.acks => {
                let pong = Frame::new(kind::PING, flag::ACK, 0, frame.payload.clone());
                self.answer_if_alive(&pong)
            }
            kind::GOAWAY => {
                self.goaways.push((frame.number(0), frame.number(4)));
                Ok(())
            }
            kind::WINDOW_UPDATE => {
                if frame.number(0) == 0 {
                    return Err(breach("6.9: a window update by 0".into()));
                }
                self.ours.give(frame.stream, frame.number(0));
                if frame.stream != 0 {
                    self.known(frame)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_settings(&mut self, frame: &Frame) -> io::Result<()> {
        if frame.has(flag::ACK) {
            self.settings_acks += 1;
            return Ok(());
        }
        for (name, value) in pairs(frame) {
            self.settings.insert(name, value);
            if name == setting::INITIAL_WINDOW_SIZE {
                self.ours.change(i64::from(value));
            }
        }
        // An empty SETTINGS frame is settings too.
        self.settings.entry(0).or_default();
        if self.acks {
            return self.answer_if_alive(&Frame::settings_ack());
        }
        Ok(())
    }

    fn on_data(&mut self, frame: &Frame) -> io::Result<()> {
        let data = match frame.payload.first() {
            Some(padding) if frame.has(flag::PADDED) => {
                let end = frame.payload.len().checked_sub(usize::from(*padding));
                let data = end.and_then(|end| frame.payload.get(1..end));
                data.ok_or_else(|| breach("6.1: padding".into()))?
            }
            _ => &frame.payload,
        };
        self.received += data.len() as u64;
        let keep = self.bodies;
        let answer = self.known(frame)?;
        if answer.status == 0 || answer.ended || answer.reset.is_some() {
            return Err(breach(format!("5.1: DATA on {answer:?}")));
        }
        if keep {
            answer.body.take(data);
        }
        if frame.has(flag::END_STREAM) {
            answer.end(keep)?;
        }
        let taken = frame.payload.len();
        self.theirs.take(frame.stream, taken);
        if self.theirs.room(frame.stream) < 0 && taken > 0 {
            return Err(breach("6.9: DATA beyond the window".into()));
        }
        if !self.windows || taken == 0 {
            return Ok(());
        }
        for stream in [0, frame.stream] {
            let window = self.theirs.of(stream);
            if window < self.theirs.initial / 2 {
                let more = (self.theirs.initial.max(WINDOW) - window) as u32;
                let update = Frame::window_update(stream, more);
                self.answer_if_alive(&update)?;
            }
        }
        Ok(())
    }

    fn on_block(&mut self, frame: &Frame) -> io::Result<()> {
        let (first, mut block) = self.block.take().unwrap_or((frame.clone(), Vec::new()));
        block.extend(&frame.payload);
        if first.flags & (flag::PADDED | flag::PRIORITY) != 0 {
            return Err(breach("nobody pads or prioritises answers".into()));
        }
        if !frame.has(flag::END_HEADERS) {
            self.block = Some((first, block));
            return Ok(());
        }
        let fields = self.decoder.decode(&block);
        let fields = fields.map_err(|error| breach(format!("4.3: {error:?}")))?;
        let keep = self.bodies;
        let answer = self.known(&first)?;
        if answer.ended || answer.reset.is_some() {
            return Err(breach(format!("5.1: HEADERS on {answer:?}")));
        }
        answer.add(&fields, first.has(flag::END_STREAM))?;
        if first.has(flag::END_STREAM) {
            answer.end(keep)?;
        }
        Ok(())
    }

    /// The answer that a frame belongs to; only streams that we used have one.
    fn known(&mut self, frame: &Frame) -> io::Result<&mut Answer> {
        let stream = frame.stream;
        let used = self.answers.contains_key(&stream) || stream % 2 == 1 && stream < self.next;
        if !used {
            return Err(breach(format!("5.1: {frame:?} on an idle stream")));
        }
        Ok(self.answers.entry(stream).or_default())
    }

    /// A peer that closes does not wait for our answers.
    fn answer_if_alive(&mut self, frame: &Frame) -> io::Result<()> {
        match self.try_send(frame) {
            Err(error) if closed(&error) => Ok(()),
            // Written while reading without waiting: the socket is full, the peer does not read.
            other => other,
        }
    }
}
