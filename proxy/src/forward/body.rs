//! The body of an answer between backend and client: how it is read, whether it is compressed, how
//! it is sent. Moving it is up to `download`.

use crate::buffer::SMALL;
use crate::http1::BodyDecoder;
use crate::outgoing::Coding;
use crate::response::compress::{EncodeError, Encoder, PIECE};

/// How the body goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    Nothing,
    Length,
    Chunked,
    UntilClose,
    /// In frames, of which the last says so.
    Frames,
}

impl Sending {
    pub(super) fn coding(self) -> Coding {
        match self {
            Self::Chunked => Coding::Chunked,
            Self::Nothing | Self::Length | Self::UntilClose | Self::Frames => Coding::Raw,
        }
    }
}

/// The body between backend and client.
pub(super) struct Body {
    pub(super) decoder: BodyDecoder,
    pub(super) encoder: Option<Encoder>,
    pub(super) sending: Sending,
}

/// What is read at once is encoded at once.
const _: () = assert!(SMALL <= PIECE);

impl Body {
    /// What of a piece goes to the client: itself, or what `encoded` then holds.
    pub(super) fn encode<'a>(
        &mut self,
        data: &'a [u8],
        end: bool,
        encoded: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], EncodeError> {
        match &mut self.encoder {
            None => Ok(data),
            Some(encoder) => {
                encoder.encode(data, end, encoded)?;
                Ok(encoded)
            }
        }
    }
}
