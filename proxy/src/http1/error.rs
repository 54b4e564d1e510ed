//! What is wrong with a message, one variant for each rule, each naming the section it comes from.
//!
//! The variants carry no bytes of the message, so they are safe to show and to log.

/// Why a request is refused. The connection is to be closed after the answer: its
/// framing is not known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum RequestError {
    /// A line ends in LF without CR.
    #[error("line ends in a bare LF (RFC 9112, 2.2)")]
    BareLf,
    /// A CR that no LF follows.
    #[error("bare CR (RFC 9112, 2.2)")]
    BareCr,
    /// The request line is not `method SP target SP version`.
    #[error("malformed request line (RFC 9112, 3)")]
    BadRequestLine,
    /// The method is not a token, or has more than 32 bytes.
    #[error("invalid method (RFC 9112, 3.1)")]
    BadMethod,
    /// TRACE or CONNECT, which this proxy does not do.
    #[error("method not allowed (RFC 9110, 15.5.6)")]
    MethodNotAllowed,
    /// A control byte, DEL or `#` in the request target.
    #[error("invalid byte in the request target (RFC 9112, 3.2)")]
    BadTargetByte,
    /// The target has none of the forms that its method allows.
    #[error("invalid form of the request target (RFC 9112, 3.2)")]
    BadTargetForm,
    /// An absolute-form target with an empty authority or with userinfo in it.
    #[error("invalid authority in the request target (RFC 9110, 4.2)")]
    BadAuthority,
    /// The target is longer than the limit.
    #[error("request target too long (RFC 9110, 15.5.15)")]
    TargetTooLong,
    /// The third word of the request line is not an HTTP version.
    #[error("malformed HTTP version (RFC 9112, 2.3)")]
    BadVersion,
    /// An HTTP version with another major number than 1.
    #[error("HTTP version not supported (RFC 9110, 15.6.6)")]
    UnsupportedVersion,
    /// The field section has more bytes than the limit.
    #[error("header fields too large (RFC 6585, 5)")]
    HeadTooLarge,
    /// More header fields than the limit.
    #[error("too many header fields (RFC 6585, 5)")]
    TooManyFields,
    /// `Connection` names more fields than anybody needs.
    #[error("too many connection options (RFC 6585, 5)")]
    TooManyConnectionOptions,
    /// A line that begins with white space: obs-fold, or white space before the first field.
    #[error("line folding in the header fields (RFC 9112, 5.2)")]
    LineFolding,
    /// A field line that begins with the colon.
    #[error("empty field name (RFC 9112, 5)")]
    EmptyFieldName,
    /// White space between a field name and its colon.
    #[error("white space before the colon of a header field (RFC 9112, 5.1)")]
    SpaceBeforeColon,
    /// A field name that is not a token, or a field line without a colon.
    #[error("invalid field name (RFC 9112, 5)")]
    BadFieldName,
    /// A NUL byte in a field value.
    #[error("NUL in a field value (RFC 9110, 5.5)")]
    Nul,
    /// Another control byte in a field value.
    #[error("control byte in a field value (RFC 9110, 5.5)")]
    BadFieldValue,
    /// HTTP/1.1 without `Host`.
    #[error("Host is missing (RFC 9112, 3.2)")]
    MissingHost,
    /// More than one `Host`.
    #[error("Host is repeated (RFC 9112, 3.2)")]
    RepeatedHost,
    /// `Content-Length` is not one decimal number below 2^63.
    #[error("malformed Content-Length (RFC 9112, 6.3)")]
    BadContentLength,
    /// More than one `Content-Length`, equal or not.
    #[error("Content-Length is repeated (RFC 9112, 6.3)")]
    RepeatedContentLength,
    /// Both `Content-Length` and `Transfer-Encoding`: an attempt at request
    /// smuggling, or a broken client.
    #[error("Content-Length with Transfer-Encoding (RFC 9112, 6.1)")]
    LengthWithTransferEncoding,
    /// `Transfer-Encoding` is not exactly `chunked`.
    #[error("Transfer-Encoding other than chunked (RFC 9112, 6.1)")]
    BadTransferEncoding,
    /// More than one `Transfer-Encoding`.
    #[error("Transfer-Encoding is repeated (RFC 9112, 6.1)")]
    RepeatedTransferEncoding,
    /// `Transfer-Encoding` in an HTTP/1.0 request.
    #[error("Transfer-Encoding with HTTP/1.0 (RFC 9112, 6.1)")]
    TransferEncodingInHttp10,
    /// `Expect` asks for something other than `100-continue`.
    #[error("unknown expectation (RFC 9110, 10.1.1)")]
    ExpectationFailed,
}

impl RequestError {
    /// The status code to answer with.
    pub fn status(self) -> u16 {
        use RequestError::*;
        match self {
            MethodNotAllowed => 405,
            TargetTooLong => 414,
            ExpectationFailed => 417,
            HeadTooLarge | TooManyFields | TooManyConnectionOptions => 431,
            UnsupportedVersion => 505,
            BareLf
            | BareCr
            | BadRequestLine
            | BadMethod
            | BadTargetByte
            | BadTargetForm
            | BadAuthority
            | BadVersion
            | LineFolding
            | EmptyFieldName
            | SpaceBeforeColon
            | BadFieldName
            | Nul
            | BadFieldValue
            | MissingHost
            | RepeatedHost
            | BadContentLength
            | RepeatedContentLength
            | LengthWithTransferEncoding
            | BadTransferEncoding
            | RepeatedTransferEncoding
            | TransferEncodingInHttp10 => 400,
        }
    }
}

/// Why a tool's answer cannot be used. The client gets 502, the connection to the tool is closed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ResponseError {
    /// What came is not `HTTP/1.x` with a three-digit status.
    #[error("malformed status line (RFC 9112, 4)")]
    BadStatusLine,
    /// A status outside 100 to 599.
    #[error("status code out of range (RFC 9110, 15)")]
    BadStatus,
    /// The head has more bytes than the limit.
    #[error("response head too large")]
    HeadTooLarge,
    /// More header fields than the limit.
    #[error("too many response header fields")]
    TooManyFields,
    /// `Connection` names more fields than anybody needs.
    #[error("too many connection options in the response")]
    TooManyConnectionOptions,
    /// `Content-Length` is not a decimal number below 2^63.
    #[error("malformed Content-Length in the response (RFC 9112, 6.3)")]
    BadContentLength,
    /// Two `Content-Length` values that differ.
    #[error("conflicting Content-Length values in the response (RFC 9112, 6.3)")]
    ConflictingLengths,
    /// `Transfer-Encoding` is anything but one `chunked`.
    #[error("Transfer-Encoding other than chunked in the response (RFC 9112, 6.1)")]
    BadTransferEncoding,
    /// 101 that was not asked for, or to another protocol than WebSocket.
    #[error("unexpected switch of protocols (RFC 9110, 15.2.2)")]
    UnexpectedUpgrade,
}

/// Why a body cannot be decoded. Nothing after it on the connection can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum BodyError {
    /// A chunk does not begin with a hexadecimal number, or other bytes than an
    /// extension follow that number.
    #[error("malformed chunk size (RFC 9112, 7.1)")]
    BadChunkSize,
    /// A chunk size of 2^63 or more, or of more than 16 digits.
    #[error("chunk size too large (RFC 9112, 7.1)")]
    ChunkSizeTooLarge,
    /// A control byte in a chunk extension.
    #[error("malformed chunk extension (RFC 9112, 7.1.1)")]
    BadChunkExtension,
    /// Chunk extensions over the limit, in one line or over the body.
    #[error("chunk extensions too large (RFC 9112, 7.1.1)")]
    ChunkExtensionTooLarge,
    /// A line of the chunked coding ends in LF without CR.
    #[error("line of a chunked body ends in a bare LF (RFC 9112, 7.1)")]
    BareLf,
    /// A CR that no LF follows.
    #[error("bare CR in a chunked body (RFC 9112, 7.1)")]
    BareCr,
    /// Chunk data is not followed by a line end: it is longer than its size says.
    #[error("chunk data does not end where its size says (RFC 9112, 7.1)")]
    MissingChunkEnd,
    /// A malformed trailer field.
    #[error("malformed trailer field (RFC 9112, 7.1.2)")]
    BadTrailer,
    /// `Content-Length`, `Transfer-Encoding` or `Host` in the trailers: an attempt
    /// to speak for the head.
    #[error("framing field in the trailers (RFC 9110, 6.5.1)")]
    FramingFieldInTrailers,
    /// Trailers over the limit.
    #[error("trailers too large (RFC 9112, 7.1.2)")]
    TrailersTooLarge,
    /// The peer closed before the end of the body.
    #[error("connection closed before the end of the body (RFC 9112, 8)")]
    Truncated,
}

impl BodyError {
    /// The status code to answer with when the body of a request is at fault and
    /// nothing was answered yet.
    pub fn status(self) -> u16 {
        match self {
            BodyError::TrailersTooLarge => 431,
            BodyError::BadChunkSize
            | BodyError::ChunkSizeTooLarge
            | BodyError::BadChunkExtension
            | BodyError::ChunkExtensionTooLarge
            | BodyError::BareLf
            | BodyError::BareCr
            | BodyError::MissingChunkEnd
            | BodyError::BadTrailer
            | BodyError::FramingFieldInTrailers
            | BodyError::Truncated => 400,
        }
    }
}
