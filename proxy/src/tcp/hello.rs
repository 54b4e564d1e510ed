//! The name that a client's TLS asks for.

/// The most bytes of a ClientHello that are looked at.
pub const MAX_HELLO: usize = 16 * 1024;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// More must come.
    Partial,
    /// A ClientHello; the name in lower case, if it has one.
    Name(Option<Box<str>>),
    /// Something else.
    NotTls,
}

/// Looks for the server name.
pub fn server_name(_bytes: &[u8]) -> Hello {
    Hello::NotTls
}
