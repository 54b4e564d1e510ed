//! One classification of header names, for the codec and for the editors of
//! request and response heads.
//!
//! Does not look at values. Names are compared without regard to case, as fields are
//! (RFC 9110 section 5.1).

/// What a header name means to portico.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// `Accept`
    Accept,
    /// `Accept-Encoding`
    AcceptEncoding,
    /// `Accept-Ranges`
    AcceptRanges,
    /// `Age`
    Age,
    /// A name that CGI-like servers take for a framing or hop-by-hop field, such as
    /// `Content_Length` or `Content.Length`. portico neither acts on it nor passes it on.
    Alias,
    /// `Authorization`
    Authorization,
    /// `Cache-Control`
    CacheControl,
    /// A field in which proxies state the client's address: `True-Client-IP`, `CF-Connecting-IP`,
    /// `X-Client-IP`, `X-Cluster-Client-IP`, `Client-IP`, `X-ProxyUser-Ip` and their like.
    ClientAddress,
    /// `Connection`
    Connection,
    /// `Content-Encoding`
    ContentEncoding,
    /// `Content-Length`
    ContentLength,
    /// `Content-Range`
    ContentRange,
    /// `Content-Security-Policy`
    ContentSecurityPolicy,
    /// `Content-Security-Policy-Report-Only`
    ContentSecurityPolicyReportOnly,
    /// `Content-Type`
    ContentType,
    /// `Cookie`
    Cookie,
    /// `Date`
    Date,
    /// `ETag`
    ETag,
    /// `Expect`
    Expect,
    /// `Forwarded` (RFC 7239)
    Forwarded,
    /// `Host`
    Host,
    /// A field by which frameworks let the host be overridden: `X-Host`, `X-Original-Host`,
    /// `X-HTTP-Host-Override`.
    HostOverride,
    /// `HTTP2-Settings` (RFC 7540 section 3.2.1, withdrawn by RFC 9113)
    Http2Settings,
    /// `If-None-Match`
    IfNoneMatch,
    /// `If-Range`
    IfRange,
    /// `Keep-Alive`
    KeepAlive,
    /// `Last-Modified`
    LastModified,
    /// `Location`
    Location,
    /// `Origin`
    Origin,
    /// `Permissions-Policy`
    PermissionsPolicy,
    /// `Proxy`: no field at all, but `HTTP_PROXY` to CGI programs (httpoxy, CVE-2016-5385).
    Proxy,
    /// `Proxy-Authenticate`
    ProxyAuthenticate,
    /// `Proxy-Authorization`
    ProxyAuthorization,
    /// `Proxy-Connection`
    ProxyConnection,
    /// `Range`
    Range,
    /// `Referer`
    Referer,
    /// `Retry-After`
    RetryAfter,
    /// A field by which frameworks let the scheme be overridden: `X-Scheme`,
    /// `X-Url-Scheme`, `Front-End-Https`.
    SchemeOverride,
    /// `Sec-WebSocket-Accept`
    SecWebSocketAccept,
    /// `Sec-WebSocket-Extensions`
    SecWebSocketExtensions,
    /// `Sec-WebSocket-Key`
    SecWebSocketKey,
    /// `Sec-WebSocket-Protocol`
    SecWebSocketProtocol,
    /// `Sec-WebSocket-Version`
    SecWebSocketVersion,
    /// `Server`
    Server,
    /// `Service-Worker-Allowed`
    ServiceWorkerAllowed,
    /// `Set-Cookie`
    SetCookie,
    /// `Strict-Transport-Security`
    StrictTransportSecurity,
    /// `TE`
    Te,
    /// `Trailer`
    Trailer,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Upgrade`
    Upgrade,
    /// `User-Agent`
    UserAgent,
    /// `Vary`
    Vary,
    /// `Via`
    Via,
    /// `WWW-Authenticate`
    WwwAuthenticate,
    /// `X-Accel-Buffering`
    XAccelBuffering,
    /// `X-Forwarded-For`
    XForwardedFor,
    /// `X-Forwarded-Host`
    XForwardedHost,
    /// Any other `X-Forwarded-` field, and `X-Forwarded` itself.
    XForwardedOther,
    /// `X-Forwarded-Port`
    XForwardedPort,
    /// `X-Forwarded-Proto`
    XForwardedProto,
    /// `X-Forwarded-Scheme`
    XForwardedScheme,
    /// `X-Original-URI`
    XOriginalUri,
    /// `X-Original-URL`
    XOriginalUrl,
    /// `X-Real-IP`
    XRealIp,
    /// `X-Request-Id`
    XRequestId,
    /// `X-Rewrite-URL`
    XRewriteUrl,
    /// Any other name.
    Other,
}

/// The longest name that [`known`] has; longer ones are [`Field::Other`] or start
/// with `X-Forwarded-`.
const MAX_KNOWN: usize = 35;

impl Field {
    /// What the header `name` means.
    ///
    /// `_` is not `-`; but servers that follow CGI (RFC 3875 section 4.1.18) see no difference, so
    /// a name that would become one of [`Field::never_from_client`] is classified as that, and one
    /// that would become a framing or hop-by-hop field is [`Field::Alias`].
    #[inline]
    pub fn classify(name: &[u8]) -> Field {
        let [first, .., last] = name else {
            return Field::Other;
        };
        let (first, last) = (first.to_ascii_lowercase(), last.to_ascii_lowercase());
        for (known, field) in known(name.len()) {
            // Two bytes rule almost all other names out.
            if let [known_first, .., known_last] = known
                && (*known_first, *known_last) == (first, last)
                && is_named(known, name)
            {
                return *field;
            }
        }
        // Folded without an early exit, so that the compiler looks at many bytes at once.
        let odd = |odd, &byte| odd | is_odd(byte);
        match first {
            b'x' if is_x_forwarded(name) => Field::XForwardedOther,
            _ if name.iter().fold(false, odd) => classify_odd(name),
            _ => Field::Other,
        }
    }

    /// Whether the field is about one connection and is never passed on (RFC 9110 section 7.6.1).
    #[inline]
    pub fn hop_by_hop(self) -> bool {
        matches!(
            self,
            Field::Connection
                | Field::Http2Settings
                | Field::KeepAlive
                | Field::ProxyAuthenticate
                | Field::ProxyAuthorization
                | Field::ProxyConnection
                | Field::Te
                | Field::TransferEncoding
                | Field::Upgrade
        )
    }

    /// Whether a client may not send the field on, because tools believe that the proxy wrote it.
    #[inline]
    pub fn never_from_client(self) -> bool {
        matches!(
            self,
            Field::Alias
                | Field::ClientAddress
                | Field::Forwarded
                | Field::HostOverride
                | Field::Proxy
                | Field::SchemeOverride
                | Field::XForwardedFor
                | Field::XForwardedHost
                | Field::XForwardedOther
                | Field::XForwardedPort
                | Field::XForwardedProto
                | Field::XForwardedScheme
                | Field::XOriginalUri
                | Field::XOriginalUrl
                | Field::XRealIp
                | Field::XRewriteUrl
        )
    }

    /// Whether a Connection field may have the field removed. Fields that are known to be meant for
    /// the end of the chain may not (RFC 9110 section 7.6.1): removing Host, Cookie or
    /// X-Forwarded-Host changes what a request means.
    #[inline]
    pub fn nominatable(self) -> bool {
        self == Field::Other || self.hop_by_hop()
    }
}

/// The known names of one length, in lower case.
fn known(len: usize) -> &'static [(&'static [u8], Field)] {
    match len {
        2 => &[(b"te", Field::Te)],
        3 => &[(b"via", Field::Via), (b"age", Field::Age)],
        4 => &[
            (b"host", Field::Host),
            (b"date", Field::Date),
            (b"vary", Field::Vary),
            (b"etag", Field::ETag),
        ],
        5 => &[(b"range", Field::Range), (b"proxy", Field::Proxy)],
        6 => &[
            (b"accept", Field::Accept),
            (b"cookie", Field::Cookie),
            (b"server", Field::Server),
            (b"origin", Field::Origin),
            (b"expect", Field::Expect),
            (b"x-host", Field::HostOverride),
        ],
        7 => &[
            (b"referer", Field::Referer),
            (b"upgrade", Field::Upgrade),
            (b"trailer", Field::Trailer),
        ],
        8 => &[
            (b"location", Field::Location),
            (b"if-range", Field::IfRange),
            (b"x-scheme", Field::SchemeOverride),
        ],
        9 => &[
            (b"forwarded", Field::Forwarded),
            (b"x-real-ip", Field::XRealIp),
            (b"client-ip", Field::ClientAddress),
        ],
        10 => &[
            (b"connection", Field::Connection),
            (b"user-agent", Field::UserAgent),
            (b"set-cookie", Field::SetCookie),
            (b"keep-alive", Field::KeepAlive),
        ],
        11 => &[
            (b"retry-after", Field::RetryAfter),
            (b"x-client-ip", Field::ClientAddress),
            (b"x-remote-ip", Field::ClientAddress),
            (b"remote-addr", Field::ClientAddress),
            (b"x-forwarded", Field::XForwardedOther),
        ],
        12 => &[
            (b"content-type", Field::ContentType),
            (b"x-request-id", Field::XRequestId),
            (b"x-url-scheme", Field::SchemeOverride),
        ],
        13 => &[
            (b"cache-control", Field::CacheControl),
            (b"authorization", Field::Authorization),
            (b"accept-ranges", Field::AcceptRanges),
            (b"if-none-match", Field::IfNoneMatch),
            (b"content-range", Field::ContentRange),
            (b"last-modified", Field::LastModified),
            (b"x-rewrite-url", Field::XRewriteUrl),
            (b"forwarded-for", Field::ClientAddress),
            (b"fly-client-ip", Field::ClientAddress),
            (b"x-remote-addr", Field::ClientAddress),
        ],
        14 => &[
            (b"content-length", Field::ContentLength),
            (b"x-original-uri", Field::XOriginalUri),
            (b"x-original-url", Field::XOriginalUrl),
            (b"http2-settings", Field::Http2Settings),
            (b"true-client-ip", Field::ClientAddress),
            (b"x-proxyuser-ip", Field::ClientAddress),
        ],
        15 => &[
            (b"accept-encoding", Field::AcceptEncoding),
            (b"x-forwarded-for", Field::XForwardedFor),
            (b"front-end-https", Field::SchemeOverride),
            (b"x-original-host", Field::HostOverride),
            (b"proxy-client-ip", Field::ClientAddress),
        ],
        16 => &[
            (b"content-encoding", Field::ContentEncoding),
            (b"x-forwarded-host", Field::XForwardedHost),
            (b"x-forwarded-port", Field::XForwardedPort),
            (b"proxy-connection", Field::ProxyConnection),
            (b"www-authenticate", Field::WwwAuthenticate),
            (b"cf-connecting-ip", Field::ClientAddress),
            (b"fastly-client-ip", Field::ClientAddress),
            (b"x-originating-ip", Field::ClientAddress),
            (b"x-azure-clientip", Field::ClientAddress),
            (b"x-azure-socketip", Field::ClientAddress),
        ],
        17 => &[
            (b"transfer-encoding", Field::TransferEncoding),
            (b"sec-websocket-key", Field::SecWebSocketKey),
            (b"x-forwarded-proto", Field::XForwardedProto),
            (b"x-accel-buffering", Field::XAccelBuffering),
        ],
        18 => &[
            (b"permissions-policy", Field::PermissionsPolicy),
            (b"x-forwarded-scheme", Field::XForwardedScheme),
            (b"proxy-authenticate", Field::ProxyAuthenticate),
            (b"cf-connecting-ipv6", Field::ClientAddress),
            (b"wl-proxy-client-ip", Field::ClientAddress),
        ],
        19 => &[
            (b"proxy-authorization", Field::ProxyAuthorization),
            (b"x-cluster-client-ip", Field::ClientAddress),
            (b"x-appengine-user-ip", Field::ClientAddress),
        ],
        20 => &[
            (b"sec-websocket-accept", Field::SecWebSocketAccept),
            (b"x-http-host-override", Field::HostOverride),
        ],
        21 => &[(b"sec-websocket-version", Field::SecWebSocketVersion)],
        22 => &[
            (b"sec-websocket-protocol", Field::SecWebSocketProtocol),
            (b"service-worker-allowed", Field::ServiceWorkerAllowed),
        ],
        23 => &[(b"content-security-policy", Field::ContentSecurityPolicy)],
        24 => &[
            (b"sec-websocket-extensions", Field::SecWebSocketExtensions),
            (b"x-envoy-external-address", Field::ClientAddress),
        ],
        25 => &[(b"strict-transport-security", Field::StrictTransportSecurity)],
        MAX_KNOWN => &[(
            b"content-security-policy-report-only",
            Field::ContentSecurityPolicyReportOnly,
        )],
        _ => &[],
    }
}

/// Whether `name`, of the same length, is `known`, which is in lower case: as
/// `eq_ignore_ascii_case`, with many bytes at a time.
#[inline]
fn is_named(known: &[u8], name: &[u8]) -> bool {
    if let (Some(known_end), Some(name_end)) = (known.last_chunk(), name.last_chunk()) {
        let mut pieces = known.as_chunks().0.iter().zip(name.as_chunks().0);
        // The end overlaps what is before it.
        return same(known_end, name_end) && pieces.all(|(known, name)| same(known, name));
    }
    let ends = known.first_chunk().zip(known.last_chunk());
    match (ends, name.first_chunk().zip(name.last_chunk())) {
        (Some((known_start, known_end)), Some((name_start, name_end))) => {
            let (known, name) = ([*known_start, *known_end], [*name_start, *name_end]);
            same(&joined(known), &joined(name))
        }
        _ => known.eq_ignore_ascii_case(name),
    }
}

/// Whether eight bytes are the same, but for the case of letters; `known` is in lower case.
#[inline]
fn same(known: &[u8; 8], name: &[u8; 8]) -> bool {
    let (known, name) = (u64::from_le_bytes(*known), u64::from_le_bytes(*name));
    // The bit that tells upper from lower case may differ where `known` has a letter. Of what else
    // names hold nothing has the bit above it.
    let case = (known >> 1) & 0x2020_2020_2020_2020;
    (known ^ name) & !case == 0
}

#[inline]
fn joined([start, end]: [[u8; 4]; 2]) -> [u8; 8] {
    let word = u64::from(u32::from_le_bytes(start)) | u64::from(u32::from_le_bytes(end)) << 32;
    word.to_le_bytes()
}

fn is_x_forwarded(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-forwarded-";
    name.get(..PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// What CGI-like servers make `_` of, as they do of `-`. nginx and Apache drop most such names,
/// lighttpd replaces every byte that is neither letter nor digit: `X.Forwarded.For` is
/// HTTP_X_FORWARDED_FOR to its programs.
fn is_odd(byte: u8) -> bool {
    byte != b'-' && !byte.is_ascii_alphanumeric()
}

/// What a CGI-like server would take `name` for. Rare, so that the copy does not matter.
#[cold]
fn classify_odd(name: &[u8]) -> Field {
    // One byte more than any known name has: a name that is cut can only be known by its prefix.
    let mut dashed = [0; MAX_KNOWN + 1];
    for (to, &from) in dashed.iter_mut().zip(name) {
        *to = match from {
            odd if is_odd(odd) => b'-',
            other => other,
        };
    }
    let dashed = &dashed[..name.len().min(dashed.len())];
    match Field::classify(dashed) {
        field if field.never_from_client() => field,
        Field::ContentLength | Field::Expect | Field::Trailer => Field::Alias,
        field if field.hop_by_hop() => Field::Alias,
        _ => Field::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(name: &str, expected: Field) {
        for name in [
            name.to_owned(),
            name.to_ascii_lowercase(),
            name.to_ascii_uppercase(),
        ] {
            assert_eq!(Field::classify(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn names_are_compared_as_the_library_does() {
        for length in 0..=MAX_KNOWN {
            for (known, _) in known(length) {
                assert!(is_named(known, known) && is_named(known, &known.to_ascii_uppercase()));
                for at in 0..length {
                    for byte in 0..=255 {
                        let mut name = known.to_vec();
                        name[at] = byte;
                        let want = known.eq_ignore_ascii_case(&name);
                        assert_eq!(is_named(known, &name), want, "{known:?} {name:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn names() {
        check("Host", Field::Host);
        check("TE", Field::Te);
        check("Content-Length", Field::ContentLength);
        check("Transfer-Encoding", Field::TransferEncoding);
        check("X-Forwarded-For", Field::XForwardedFor);
        check("X-Forwarded-Prefix", Field::XForwardedOther);
        check("X-Forwarded-", Field::XForwardedOther);
        check("X-Forwarded", Field::XForwardedOther);
        check("X-ForwardedFor", Field::Other);
        check("X-Original-URI", Field::XOriginalUri);
        check("HTTP2-Settings", Field::Http2Settings);
        check("CF-Connecting-IP", Field::ClientAddress);
        check("X-ProxyUser-Ip", Field::ClientAddress);
        check("Proxy", Field::Proxy);
        check("Service-Worker-Allowed", Field::ServiceWorkerAllowed);
        check(
            "Content-Security-Policy-Report-Only",
            Field::ContentSecurityPolicyReportOnly,
        );
        check("", Field::Other);
        check("X", Field::Other);
        check("Hosts", Field::Other);
        check("X-Secret", Field::Other);
    }

    #[test]
    fn odd_names_are_what_cgi_takes_them_for() {
        check("X_Forwarded_For", Field::XForwardedFor);
        check("X-Forwarded_Anything", Field::XForwardedOther);
        check(
            &format!("X_Forwarded_{}", "a".repeat(100)),
            Field::XForwardedOther,
        );
        check("X_Real_IP", Field::XRealIp);
        check("True_Client-IP", Field::ClientAddress);
        check("Content_Length", Field::Alias);
        check("Transfer_Encoding", Field::Alias);
        check("Proxy_Connection", Field::Alias);
        check("Proxy_Authorization", Field::Alias);
        check("X.Forwarded.For", Field::XForwardedFor);
        check("X~Real!IP", Field::XRealIp);
        check("X-Forwarded%Proto", Field::XForwardedProto);
        check("Content.Length", Field::Alias);
        check("Transfer^Encoding", Field::Alias);
        check("User_Agent", Field::Other);
        check("my.header", Field::Other);
        check("my_header", Field::Other);
        check(&"_".repeat(300), Field::Other);
        check(
            "content_security_policy_report_onlyx_forwarded_for",
            Field::Other,
        );
    }

    #[test]
    fn connection_may_not_nominate_what_is_meant_for_the_tool() {
        for name in [
            "Host",
            "Cookie",
            "Authorization",
            "X-Forwarded-Host",
            "Content-Length",
            "Content-Type",
            "User-Agent",
            "Via",
        ] {
            assert!(!Field::classify(name.as_bytes()).nominatable(), "{name}");
        }
        for name in ["X-Secret", "Keep-Alive", "HTTP2-Settings", "TE", "Upgrade"] {
            assert!(Field::classify(name.as_bytes()).nominatable(), "{name}");
        }
    }

    /// A name is in the list of its own length, in lower case, once.
    #[test]
    fn the_lists_are_in_order() {
        let mut seen = std::collections::HashSet::new();
        for len in 0..100 {
            for (name, field) in known(len) {
                assert_eq!(name.len(), len, "{field:?}");
                assert!(len <= MAX_KNOWN, "{field:?}");
                assert_eq!(name.to_ascii_lowercase(), *name, "{field:?}");
                assert!(seen.insert(*name), "{field:?}");
                let dashed = name.iter().filter(|byte| **byte == b'-').count();
                let underscored: Vec<u8> = name
                    .iter()
                    .map(|byte| if *byte == b'-' { b'_' } else { *byte })
                    .collect();
                if dashed > 0 && field.never_from_client() {
                    assert_eq!(Field::classify(&underscored), *field);
                }
                if dashed > 0 && (field.hop_by_hop() || *field == Field::ContentLength) {
                    assert_eq!(Field::classify(&underscored), Field::Alias);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_ignores_case(name in prop::collection::vec(any::<u8>(), 0..50)) {
            let upper = name.to_ascii_uppercase();
            prop_assert_eq!(Field::classify(&name), Field::classify(&upper));
        }
    }
}
