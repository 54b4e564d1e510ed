//! Encoders: bytes in, encoded bytes out, flushed so that the client can decode all that went in.
//!
//! Knows nothing of HTTP. What an encoder holds is bounded by the windows and table sizes chosen
//! here, whatever the level and the length of the body (measured, with the levels that the
//! configuration allows):
//!
//! | | default level | hardest level |
//! |---|---|---|
//! | gzip | 0.4 MB | 0.4 MB |
//! | br, window 2^18 | 1.4 MB | 3.0 MB |
//! | zstd, window 2^18 | 1.6 MB | 3.7 MB |
//!
//! gzip and zstd encoders are kept for the next answer: a new one costs 10 us and 20 us more, half
//! of what 5 KB take. Brotli's cannot be reused.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use brotli::enc::StandardAlloc;
use brotli::enc::encode::{
    BrotliEncoderDestroyInstance, BrotliEncoderOperation, BrotliEncoderParameter,
    BrotliEncoderStateStruct,
};
use flate2::{Compress, FlushCompress, Status};
use portico_config::{Algorithm, Levels};
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ResetDirective};

/// How many bytes to encode before other tasks of the worker get their turn: 0.1 to 0.3 ms at the
/// default levels, 0.6 ms at the hardest. Flushed after each, an answer becomes 1 % larger.
pub const PIECE: usize = 16 * 1024;

/// Encoders in use at a time in one worker; answers beyond go as they are. 200 MB at the default
/// levels, and only if as many answers are half-way through at the same moment.
const MAX_ALIVE: usize = 128;
/// Encoders of one kind that a worker keeps for the next answers.
const MAX_SPARE: usize = 8;

/// The window of gzip, all that deflate has: 32 KB.
const GZIP_WINDOW_BITS: u8 = 15;
/// The window of Brotli: 256 KB. Below 17 bits it uses hash tables of 34 MB from level 5 on.
const BR_WINDOW_BITS: u32 = 18;
/// Longer bodies are encoded like those of this length. It chooses the sizes of windows and tables:
/// without it zstd takes twice as much at level 3 and ten times at level 9, Brotli 4 MB of tables.
const SIZE_HINT: u32 = 256 * 1024;

/// The encoder failed; the body cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {} encoder failed", .0.as_str())]
pub struct EncodeError(Algorithm);

/// All algorithms, in the order of [`Encoders::counts`].
pub const ALGORITHMS: [Algorithm; 3] = [Algorithm::Zstd, Algorithm::Br, Algorithm::Gzip];

/// The encoders of one worker.
#[derive(Default)]
pub struct Encoders {
    alive: Cell<usize>,
    refused: Cell<u64>,
    /// Bytes in and out, in the order of [`ALGORITHMS`].
    bytes: [Cell<(u64, u64)>; ALGORITHMS.len()],
    /// With their level.
    gzip: RefCell<Vec<(u32, Compress)>>,
    zstd: RefCell<Vec<CCtx<'static>>>,
}

impl fmt::Debug for Encoders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoders")
            .field("alive", &self.alive)
            .finish_non_exhaustive()
    }
}

impl Encoders {
    /// An encoder for a body, of this length if that is known. None: there are too many.
    pub fn take(
        self: &Rc<Self>,
        algorithm: Algorithm,
        levels: &Levels,
        length: Option<u64>,
    ) -> Option<Encoder> {
        if self.alive.get() >= MAX_ALIVE {
            self.refused.set(self.refused.get() + 1);
            return None;
        }
        let codec = match algorithm {
            Algorithm::Gzip => Codec::Gzip(levels.gzip, self.gzip(levels.gzip)),
            Algorithm::Br => Codec::Br(Box::new(br(levels.br, length))),
            Algorithm::Zstd => Codec::Zstd(self.zstd(levels.zstd, length)?),
        };
        self.alive.set(self.alive.get() + 1);
        Some(Encoder {
            codec: Some(codec),
            ended: false,
            home: Rc::clone(self),
        })
    }

    /// Bytes in and out so far, in the order of [`ALGORITHMS`].
    pub fn counts(&self) -> [(u64, u64); ALGORITHMS.len()] {
        self.bytes.each_ref().map(Cell::get)
    }

    /// Bodies for which there was no encoder, since too many were in use.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    fn count(&self, algorithm: Algorithm, input: usize, output: usize) {
        let counted = ALGORITHMS.iter().zip(&self.bytes);
        for (_, bytes) in counted.filter(|(of, _)| **of == algorithm) {
            let (before_in, before_out) = bytes.get();
            bytes.set((before_in + input as u64, before_out + output as u64));
        }
    }

    fn gzip(&self, level: u32) -> Compress {
        match self.gzip.borrow_mut().pop() {
            Some((of_level, mut spare)) if of_level == level => {
                spare.reset();
                spare
            }
            // None, or one from before a reload.
            _ => Compress::new_gzip(flate2::Compression::new(level), GZIP_WINDOW_BITS),
        }
    }

    fn zstd(&self, level: u32, length: Option<u64>) -> Option<CCtx<'static>> {
        let mut context = match self.zstd.borrow_mut().pop() {
            Some(spare) => spare,
            None => CCtx::try_create()?,
        };
        context.reset(ResetDirective::SessionOnly).ok()?;
        let level = CParameter::CompressionLevel(i32::try_from(level).ok()?);
        context.set_parameter(level).ok()?;
        context
            .set_parameter(CParameter::SrcSizeHint(SIZE_HINT))
            .ok()?;
        // A short body needs less; of a long one the length would undo the hint.
        let short = length.filter(|&length| length <= u64::from(SIZE_HINT));
        context.set_pledged_src_size(short).ok()?;
        Some(context)
    }

    fn put(&self, codec: Codec) {
        self.alive.set(self.alive.get() - 1);
        match codec {
            Codec::Gzip(level, spare) => keep(&self.gzip, (level, spare)),
            Codec::Zstd(spare) => keep(&self.zstd, spare),
            Codec::Br(mut state) => BrotliEncoderDestroyInstance(&mut state),
        }
    }
}

fn keep<T>(spare: &RefCell<Vec<T>>, thing: T) {
    let mut spare = spare.borrow_mut();
    if spare.len() < MAX_SPARE {
        spare.push(thing);
    }
}

fn br(level: u32, length: Option<u64>) -> BrotliEncoderStateStruct<StandardAlloc> {
    let mut state = BrotliEncoderStateStruct::new(StandardAlloc::default());
    let hint = length.map_or(SIZE_HINT, |length| {
        u32::try_from(length).map_or(SIZE_HINT, |length| length.min(SIZE_HINT))
    });
    for (parameter, value) in [
        (BrotliEncoderParameter::BROTLI_PARAM_QUALITY, level),
        (BrotliEncoderParameter::BROTLI_PARAM_LGWIN, BR_WINDOW_BITS),
        (BrotliEncoderParameter::BROTLI_PARAM_SIZE_HINT, hint),
    ] {
        state.set_parameter(parameter, value);
    }
    state
}

/// Encodes one body. Goes back to its worker when it is dropped, whatever became of the body.
pub struct Encoder {
    /// None only while it is dropped.
    codec: Option<Codec>,
    ended: bool,
    home: Rc<Encoders>,
}

enum Codec {
    /// With its level.
    Gzip(u32, Compress),
    Br(Box<BrotliEncoderStateStruct<StandardAlloc>>),
    Zstd(CCtx<'static>),
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if let Some(codec) = self.codec.take() {
            self.home.put(codec);
        }
    }
}

impl Encoder {
    /// Appends the encoded form of `data`, so that all data up to here can be decoded at once.
    /// Nothing gives nothing, unless it is the end. Behind the end nothing more is taken. Hand in
    /// at most [`PIECE`] bytes between two waits.
    ///
    /// # Errors
    /// The encoder is out of memory, or the body has not the length that was promised.
    pub fn encode(&mut self, data: &[u8], end: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.ended || (data.is_empty() && !end) {
            return Ok(());
        }
        self.ended = end;
        let begin = out.len();
        let (algorithm, encoded) = match &mut self.codec {
            Some(Codec::Gzip(_, state)) => (Algorithm::Gzip, gzip_encode(state, data, end, out)),
            Some(Codec::Br(state)) => (Algorithm::Br, br_encode(state, data, end, out)),
            Some(Codec::Zstd(context)) => (Algorithm::Zstd, zstd_encode(context, data, end, out)),
            None => return Ok(()),
        };
        let written = out.len().saturating_sub(begin);
        self.home.count(algorithm, data.len(), written);
        encoded
    }
}

/// Room that is made in the output for this much input, each time it is full.
fn room(data: &[u8]) -> usize {
    data.len() / 2 + 1024
}

fn gzip_encode(
    state: &mut Compress,
    mut data: &[u8],
    end: bool,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let flush = match end {
        true => FlushCompress::Finish,
        false => FlushCompress::Sync,
    };
    loop {
        out.reserve(room(data));
        let before = state.total_in();
        let status = state
            .compress_vec(data, out, flush)
            .map_err(|_| EncodeError(Algorithm::Gzip))?;
        let taken = usize::try_from(state.total_in() - before).unwrap_or(data.len());
        data = data.get(taken..).unwrap_or_default();
        // A flush is complete when it left room in the output.
        let flushed = !end && data.is_empty() && out.len() < out.capacity();
        if flushed || status == Status::StreamEnd {
            return Ok(());
        }
    }
}

fn br_encode(
    state: &mut BrotliEncoderStateStruct<StandardAlloc>,
    data: &[u8],
    end: bool,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let mut left = data.len();
    let mut taken = 0;
    loop {
        let begin = out.len();
        out.resize(begin + room(data), 0);
        let mut space = out.len() - begin;
        let mut written = begin;
        let operation = match end {
            true => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
            false => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
        };
        let worked = state.compress_stream(
            operation,
            &mut left,
            data,
            &mut taken,
            &mut space,
            out,
            &mut written,
            &mut None,
            &mut |_, _, _, _| (),
        );
        out.truncate(written);
        let complete = match end {
            true => state.is_finished(),
            false => left == 0 && !state.has_more_output(),
        };
        match (worked, complete) {
            (true, true) => return Ok(()),
            (true, false) if written > begin => {}
            _ => return Err(EncodeError(Algorithm::Br)),
        }
    }
}

fn zstd_encode(
    context: &mut CCtx<'static>,
    data: &[u8],
    end: bool,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let directive = match end {
        true => ZSTD_EndDirective::ZSTD_e_end,
        false => ZSTD_EndDirective::ZSTD_e_flush,
    };
    let mut input = InBuffer::around(data);
    loop {
        out.reserve(room(data));
        let begin = out.len();
        let mut output = OutBuffer::around_pos(out, begin);
        let left = context
            .compress_stream2(&mut output, &mut input, directive)
            .map_err(|_| EncodeError(Algorithm::Zstd))?;
        if left == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
