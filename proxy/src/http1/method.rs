//! The request method. It does not say what a method is allowed to do here; the parser and
//! the request path do.

/// The method, as far as a proxy cares (RFC 9110, section 9).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD: the answer has no body.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// OPTIONS: the only one whose target may be `*`.
    Options,
    /// PATCH.
    Patch,
    /// CONNECT; the parser refuses it.
    Connect,
    /// TRACE; the parser refuses it.
    Trace,
    /// Any other token; its name is `RequestHead::method_name`.
    Other,
}

impl Method {
    /// Method names are case-sensitive: `get` is another method.
    pub(super) fn of(name: &[u8]) -> Method {
        match name {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"CONNECT" => Method::Connect,
            b"TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }

    /// Whether sending it twice has the effect of sending it once (RFC 9110, section 9.2.2).
    /// Unknown methods have not.
    pub fn idempotent(self) -> bool {
        match self {
            Method::Get
            | Method::Head
            | Method::Put
            | Method::Delete
            | Method::Options
            | Method::Trace => true,
            Method::Post | Method::Patch | Method::Connect | Method::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotent_methods() {
        for (name, want) in [
            ("GET", true),
            ("HEAD", true),
            ("PUT", true),
            ("DELETE", true),
            ("OPTIONS", true),
            ("TRACE", true),
            ("POST", false),
            ("PATCH", false),
            ("CONNECT", false),
            ("get", false),
            ("BREW", false),
        ] {
            assert_eq!(Method::of(name.as_bytes()).idempotent(), want, "{name}");
        }
    }
}
