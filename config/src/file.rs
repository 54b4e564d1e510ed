//! What the configuration file says: every table and key, with its type, what holds when it is
//! absent, and its documentation.
//!
//! This is the only place where keys are declared; `docs/configuration.md` is made from it. The
//! documentation says what the key means, in which unit, and when to change it. What is compared
//! between keys is in `check`, what is not built yet in `unbuilt`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use portico_routing::backend::Backend;
use toml::de::DeValue;

use crate::config::{
    Algorithm, ClientAddress, HeaderTemplate, LogAddress, LogFormat, LogLevel, LogTarget,
    NamePattern, NodeAddress, SecretUrl, TlsVersion,
};
use crate::reader::Absent::{Default, Required, Unset};
use crate::reader::{FromToml, List, Map, Place, Reader, TableDoc, choice, table};
use crate::values::{
    ApexWord, Domain, DurationOrZero, HeaderName, HeaderPattern, HostField, MaybeAdmin,
    MaybeBackend, MaybeDirectory, MaybeHost, MaybePage, MediaType, Name, Number, RequestPath, Size,
    ViaName,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// `[headers.set]` as it is before anything is written.
pub(crate) const HEADERS_SET: &str = r#"{ Strict-Transport-Security = "max-age=31622400", X-Clacks-Overhead = "GNU Terry Pratchett", Permissions-Policy = "browsing-topics=()" }"#;

table! {
    File {
        /// The process: its threads and how it stops.
        server: ServerFile = Default("{}"),
        /// The addresses that portico answers on.
        listen: ListenFile = Default("{}"),
        /// Certificates, and which versions of TLS are spoken.
        tls: TlsFile = Default("{}"),
        /// Which hosts are served, and which names are special.
        domains: DomainsFile = Default("{}"),
        /// The redis that holds the routes.
        registry: RegistryFile = Unset {
            example: "{}",
            meaning: "no registry: only the static routes are served",
        },
        /// Static routes, looked at before the registry: a tool, and the URL of the
        /// backend for all its paths. `http://` and `https://` backends are spoken to in HTTP/1.1,
        /// `h2c://` ones in HTTP/2 without TLS and without asking, as gRPC needs it.
        routes: Map<Name, Backend> = Unset {
            example: "{ admin = \"http://192.0.2.10:8000\" }",
            meaning: "no static routes",
        },
        /// Balanced groups of servers, by name.
        pools: Map<Name, PoolFile> = Default("{}"),
        /// The platform's ingress: where tools go that have no route.
        ingress: IngressFile = Default("{}"),
        /// Layer 4 listeners: connections are passed on byte by byte.
        tcp: List<TcpFile> = Default("[]"),
        /// What answers foreign hosts, and what nothing else answers.
        fallback: FallbackFile = Default("{}"),
        /// The pages that say what went wrong, where portico makes them. Browsers get HTML, programs
        /// that ask for it JSON (RFC 9457), everybody else text.
        pages: PagesFile = Default("{}"),
        /// How long portico waits.
        timeouts: TimeoutsFile = Default("{}"),
        /// How much portico takes.
        limits: LimitsFile = Default("{}"),
        /// What is special to HTTP/2, which HTTPS clients choose by ALPN.
        http2: Http2File = Default("{}"),
        /// How often one client may ask. Not built yet: while it is off, the other keys have no effect.
        rate: RateFile = Default("{}"),
        /// Requests that are refused whatever they ask for.
        refuse: RefuseFile = Default("{}"),
        /// What portico does to the headers of requests and answers.
        headers: HeadersFile = Default("{}"),
        /// Compression of answers.
        compression: CompressionFile = Default("{}"),
        /// What is written where.
        log: LogFile = Default("{}"),
        /// The grid's registration service.
        registration: RegistrationFile = Unset { example: "{}", meaning: "off" },
    }
}

table! {
    ServerFile {
        /// Serving threads. 0 stands for one for each CPU that the process may use.
        /// Lower it when other services share the machine.
        workers: Number<0, 1024> = Default("0"),
        /// How long requests in flight may finish when portico stops; then they are cut off.
        /// Raise it when tools have long downloads that a restart must not cut, and the service
        /// manager waits as long.
        drain: Duration = Default("\"30s\""),
        /// What this machine is called on the pages that portico makes, so that a report says which of
        /// several proxies it is about (T200616); empty: its host name. Write the full name where the
        /// host name is a short one.
        name: MaybeHost = Default("\"\""),
    }
}

table! {
    /// `[::]` takes IPv6 and IPv4. At least one of `http` and `https` has an address; no address
    /// stands twice, in whatever key.
    ListenFile {
        /// Plain HTTP: answers health checks and redirects to HTTPS (301).
        http: List<SocketAddr> = Default("[\"[::]:80\"]"),
        /// Whether the `http` listeners only redirect. With `false` they serve like the `https`
        /// ones: for test clusters, and where TLS is ended in front of portico.
        redirect: bool = Default("true"),
        /// HTTPS. Needs at least one of `tls.certificates`; `[]` where TLS is ended elsewhere.
        https: List<SocketAddr> = Default("[\"[::]:443\"]"),
        /// The administration: metrics, health, routes, status, reload (`docs/admin.md`). Everybody who
        /// reaches it may use it, so keep it on loopback, or on a unix socket, whose file its owner and
        /// group may use (`"unix:/run/portico/admin.sock"`). `""`: off. No route leads there.
        admin: MaybeAdmin = Default("\"127.0.0.1:9113\""),
        /// Networks of load balancers whose PROXY protocol header (v1 or v2) is required and
        /// believed, on the `http` and `https` listeners. Set it when a layer 4 balancer stands in
        /// front, so that clients keep their addresses; the port that they connected to becomes
        /// X-Forwarded-Port. A connection from there without the header, or without it within
        /// `timeouts.handshake`, is closed; from anywhere else the header is not looked for, and a
        /// bad request. A header that names no client (LOCAL, UNKNOWN) leaves the balancer's own
        /// address.
        proxy_protocol_from: List<IpNet> = Default("[]"),
    }
}

table! {
    /// Certificates are chosen by the name that the client asks for (SNI). The files are read
    /// again when they change.
    TlsFile {
        /// Pairs of PEM files. The first pair answers clients whose name matches
        /// none, or who send none.
        certificates: List<CertificateFile> = Default("[]"),
        /// The oldest version that is spoken. Raise it to `"1.3"` when no client
        /// needs TLS 1.2 any more.
        min_version: TlsVersion = Default("\"1.2\""),
    }
}

table! {
    CertificateFile {
        /// The certificate, followed by its intermediates.
        chain: PathBuf = Required("\"/etc/portico/example.crt\""),
        /// The certificate's private key. It may be the same file as the chain.
        key: PathBuf = Required("\"/etc/portico/example.key\""),
    }
}

choice! { TlsVersion { "1.2" => TlsVersion::V1_2, "1.3" => TlsVersion::V1_3 } }

table! {
    /// A tool has a host of its own under the canonical domain: `<tool>.<canonical>`. On a legacy
    /// domain tools share one host, and the first segment of the path is the tool:
    /// `<legacy>/<tool>/...`.
    DomainsFile {
        /// The domain that tools have their hosts under.
        canonical: Domain = Required("\"toolforge.org\""),
        /// Domains that tools share. None is the canonical domain or stands under it.
        legacy: List<Domain> = Default("[]"),
        /// What the bare canonical domain is: `"ingress"`, or the URL that it redirects to (302).
        apex: ApexWord = Default("\"ingress\""),
        /// First labels that are never tools, such as `login` or `api`: they go to the ingress,
        /// whatever the registry says. Add names that a tool could abuse.
        reserved: List<Name> = Default("[]"),
        /// First labels that moved to another one (301), old name = new name. Add one
        /// when a tool is renamed.
        rename: Map<Name, Name> = Default("{}"),
    }
}

table! {
    /// Leave the table out to serve only `[routes]`. An empty table takes all defaults.
    RegistryFile {
        /// Where redis is. Passwords are never shown in messages. A replica will do; portico never
        /// writes. With `redis+sentinel://` the sentinels are asked for the address of the master,
        /// at each connect and again and again while connected; `user` and `password` are those of
        /// redis, and those of the sentinels, if they want any, stand behind the `?`. A port that
        /// is not written is 6379, that of a sentinel 26379. In a user or a password all but
        /// letters, digits and `-._~` is written percent-encoded (`@` as `%40`).
        url: SecretUrl = Default("\"redis://127.0.0.1:6379/0\""),
        /// The file that keeps the last known good table, used when redis cannot
        /// be reached at start.
        snapshot: PathBuf = Default("\"/var/lib/portico/routes.snapshot\""),
        /// When much of the table vanishes at once: a flush, or a redis that restarted empty.
        mass_removal: MassRemovalFile = Default("{}"),
        /// Networks that routes of the registry may point at; empty: any. portico's own
        /// listeners, the registry itself and link-local addresses never. Set it where tools can
        /// write routes themselves.
        backends: List<IpNet> = Default("[]"),
    }
}

table! {
    MassRemovalFile {
        /// More than this percentage of the table vanishing at once is not believed at first.
        /// 100: always believed.
        percent: Number<1, 100> = Default("50"),
        /// How long the old table is kept then. Raise it when redis takes
        /// longer to be filled again.
        grace: Duration = Default("\"60s\""),
    }
}

table! {
    /// Any number of pools, each in a table of its own: for `[ingress]` and for `[[tcp]]`. On a reload
    /// servers that stay keep their health, what an administrator set and what is in flight there.
    PoolFile {
        /// The servers: addresses, or tables with an address and a weight. Names are
        /// resolved again and again. To take a server out for an hour, use `portico pool` instead.
        nodes: List<NodeFile> = Required("[\"192.0.2.1:30000\", { address = \"192.0.2.2:30000\", weight = 50 }]"),
        /// How the server for a request is chosen: one after the other by weight, or, of two that are
        /// drawn by weight, the one with fewer requests in flight for its weight.
        /// `"least-requests"` suits requests of very different cost, long connections, and servers of
        /// unequal speed.
        balance: BalanceWord = Default("\"round-robin\""),
        /// How long a server that comes back takes to get its full share, which grows evenly until
        /// then; `"0s"`: at once. Shorten it where servers need no warming up. There is none at
        /// portico's own start, and none for servers that a reload adds.
        slow_start: DurationOrZero = Default("\"60s\""),
        /// Requests in flight at one server, over all workers; of `[[tcp]]`, connections. A server that
        /// has as many gets no more; when all have, requests wait. A pool that `[ingress]` and `[[tcp]]`
        /// share counts both. Raise it when requests wait although the servers have little to do;
        /// lower it to what a server can really do at once.
        max_connections: Number<1, 1_000_000> = Default("1000"),
        /// Requests that wait, for each server that may be used: they share one queue, first come,
        /// first served, by whichever server has room first. Above it the answer is 503 at once. 0:
        /// nobody waits. Few that are served in time are better than many that give up.
        max_queue: Number<0, 1_000_000> = Default("256"),
        /// How long a request waits before it gets 503. Keep it below what people and programs wait
        /// for; raise it to ride out longer bursts.
        queue_timeout: Duration = Default("\"5s\""),
        /// How it is found out that a server is there. A pool without a check gets a TCP one. A
        /// server that a request cannot connect to goes down at once, whatever the check said, unless
        /// it is the last one; checks bring it back.
        check: CheckFile = Default("{}"),
    }
}

table! {
    NodeTable {
        /// Where the server is.
        address: NodeAddress = Required("\"192.0.2.2:30000\""),
        /// Its share of the work, relative to its peers: 50 gets half as much as 100.
        weight: Number<1, 1000> = Default("100"),
    }
}

/// A server: `"address:port"`, or a table with its weight.
#[derive(Debug)]
pub(crate) struct NodeFile {
    pub(crate) address: Option<NodeAddress>,
    pub(crate) weight: Option<Number<1, 1000>>,
}

impl FromToml for NodeFile {
    fn allowed() -> String {
        format!(
            "{}, or {{ address = \"192.0.2.2:30000\", weight = 50 }}",
            <NodeAddress as FromToml>::allowed()
        )
    }

    fn table() -> Option<TableDoc> {
        NodeTable::table()
    }

    fn read(reader: &mut Reader<'_>, value: &DeValue<'_>, at: &Place) -> Option<Self> {
        match value {
            DeValue::String(_) => {
                let address = Some(NodeAddress::read(reader, value, at)?);
                Some(Self {
                    address,
                    weight: Some(Number(100)),
                })
            }
            DeValue::Table(_) => {
                let node = NodeTable::read(reader, value, at)?;
                Some(Self {
                    address: node.address.value,
                    weight: node.weight.value,
                })
            }
            _ => {
                reader.wrong_type(value, at, Self::allowed(), None);
                None
            }
        }
    }
}

/// How a pool chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BalanceWord {
    RoundRobin,
    LeastRequests,
}

choice! {
    BalanceWord { "round-robin" => BalanceWord::RoundRobin, "least-requests" => BalanceWord::LeastRequests }
}

table! {
    CheckFile {
        /// `"tcp"`: a connection is accepted. `"http"`, `"https"`: a GET request is
        /// answered as expected. Servers can accept connections long after they stopped to serve: use
        /// `"http"` or `"https"` wherever something answers it.
        kind: CheckWord = Default("\"tcp\""),
        /// The Host header of an HTTP check, with a port if it needs one. Set it where servers answer
        /// by host.
        host: HostField = Unset { example: "\"healthz.example\"", meaning: "the server's name or address, and the port that is checked" },
        /// The port to check, where health is answered on a port of its own, as Istio's is on 15021.
        port: Number<1, 65_535> = Unset { example: "15021", meaning: "the port that serves" },
        /// What an HTTP check asks for: a path, and a query if it needs one. Choose one that fails when
        /// the server cannot do its work, and that does not fail because of others behind it.
        path: RequestPath = Unset { example: "\"/healthz\"", meaning: "/" },
        /// The status that an HTTP check wants; redirects are not followed.
        expect: Number<200, 599> = Unset { example: "204", meaning: "200" },
        /// Whether an HTTPS check wants a certificate that the system's authorities vouch for. Set it to
        /// `false` for servers whose certificates are of their own making, as the Kubernetes API's.
        verify: bool = Unset { example: "false", meaning: "true" },
        /// The server name that an HTTPS check asks for and verifies.
        sni: Domain = Unset { example: "\"api.example\"", meaning: "the host of the check, else the server's own name or address" },
        /// Between two checks of a server that is up, give or take a tenth so that checks do not come in
        /// step. Shorten it to notice sooner what requests do not: a server that hangs.
        interval: Duration = Default("\"10s\""),
        /// Between two checks of a server that is down. Shorten it to have servers back sooner.
        down_interval: Duration = Default("\"5s\""),
        /// How long one check may take, from the connection to the answer. Keep it at most as long as the intervals.
        timeout: Duration = Default("\"5s\""),
        /// So many good checks in a row bring a server up. Raise it for servers that come and go.
        rise: Number<1, 1000> = Default("2"),
        /// So many bad checks in a row take a server down. Raise it where the
        /// network loses packets.
        fall: Number<1, 1000> = Default("2"),
    }
}

/// What a check does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckWord {
    Tcp,
    Http,
    Https,
}

choice! { CheckWord { "tcp" => CheckWord::Tcp, "http" => CheckWord::Http, "https" => CheckWord::Https } }

table! {
    /// One of `pool` and `split`.
    IngressFile {
        /// The pool that tools without a route go to.
        pool: Name = Unset {
            example: "\"ingress\"",
            meaning: "the pool of the name `ingress`; without one such tools get the fallback's answer",
        },
        /// Several pools with their percentages of the tools, which add up to 100: `{ ingress = 90, gateway = 10 }`.
        /// All requests of a tool go to the same pool, on every machine that has the same split.
        /// Between two pools a change of percentages moves no more tools than it must. 0 keeps a pool
        /// ready, and checked, without any tool. Use it to move tools to another ingress controller
        /// bit by bit.
        split: Map<Name, Number<0, 100>> = Unset { example: "{ ingress = 90, gateway = 10 }", meaning: "no split" },
    }
}

table! {
    /// As many as needed, each in a table of its own. A connection holds a place at its server as a
    /// request does (`max_connections`, the queue), and one of `limits.connections`. One that finds no
    /// server in time is closed. A reload leaves connections alone, even those of a listener that it
    /// takes away.
    TcpFile {
        /// The name in logs and metrics; each only once.
        name: Name = Required("\"kube-api\""),
        /// The addresses to answer on; none of them stands in another key.
        listen: List<SocketAddr> = Required("[\"192.0.2.9:6443\"]"),
        /// The pool that connections go to, whatever server name they ask for unless `server_names`
        /// has it.
        pool: Name = Unset {
            example: "\"kube-api\"",
            meaning: "connections that no server name covers are closed",
        },
        /// Pools by the server name that a client asks for as its TLS begins (SNI), which portico does
        /// not end: `{ "k8s.example" = "kube-api", "*.k8s.example" = "gateway" }`. `*.` stands for one
        /// label; a name itself goes before a pattern. Other names, none, and what is no TLS go to
        /// `pool`. A client that has not said enough within `timeouts.handshake` is closed, so leave
        /// it out where clients wait for the server to begin.
        server_names: Map<NamePattern, Name> = Default("{}"),
        /// Networks that may connect; empty: everybody. Others are closed at once, and counted. Of a
        /// connection with a PROXY protocol header it is the client that it names who must be
        /// allowed, or the balancer itself when it names none (its checks).
        allow: List<IpNet> = Default("[]"),
        /// Silence on a connection, both ways, after which it is closed. Raise it for protocols that
        /// are silent for longer; long watches of the Kubernetes API are not.
        idle_timeout: Duration = Default("\"1h\""),
        /// Networks, such as those of a load balancer in front, whose connections begin with a
        /// PROXY protocol header (v1 or v2), which is required and believed. Others must not send one.
        proxy_protocol_from: List<IpNet> = Default("[]"),
        /// Whether servers get a PROXY protocol header (version 2) that names the client. Set it
        /// only for servers that expect it: others take it for garbage. Checks do not send it.
        send_proxy_protocol: bool = Default("false"),
    }
}

table! {
    FallbackFile {
        /// The backend that makes 404 pages, for hosts outside of `[domains]` and for tools that
        /// nothing routes; empty: portico makes them. The request goes there as it came, with its
        /// Host and with X-Original-URI, and its answer is treated like a tool's. While the backend
        /// is down, silent for 10 seconds (or `timeouts.response`, if that is less), or busy with `limits.in_flight_per_tool`
        /// requests, portico's own page is the answer.
        backend: MaybeBackend = Default("\"\""),
        /// A page for people who need help, shown on the pages that portico makes; empty: none.
        help_url: MaybePage = Default("\"\""),
    }
}

table! {
    PagesFile {
        /// A directory with HTML templates of your own, `page.html` and `404.html`, `502.html` and so on;
        /// empty: the built-in page. They are read and checked at start. `docs/pages.md` says what may
        /// stand in them.
        templates: MaybeDirectory = Default("\"\""),
    }
}

table! {
    TimeoutsFile {
        /// The whole request head, from its first byte: 408 after it. Guards against
        /// clients that trickle.
        header: Duration = Default("\"10s\""),
        /// Between two reads of a request body: 408 after it. Once the answer has begun (gRPC streams
        /// both ways), `response` counts instead.
        body_idle: Duration = Default("\"60s\""),
        /// An idle client connection. Keep it above that of a balancer in front.
        keep_alive: Duration = Default("\"65s\""),
        /// Connecting to a backend: 504 after it.
        connect: Duration = Default("\"5s\""),
        /// Silence of a backend, before and within its answer: 504 after it. Long, because tools
        /// have long jobs. It counts once the request's body was sent; until then `body_idle` does.
        response: Duration = Default("\"1h\""),
        /// The TLS handshake of a client; also its PROXY protocol header, and the beginning of its TLS
        /// where `tcp.server_names` looks at it.
        handshake: Duration = Default("\"10s\""),
        /// A client that takes nothing of its answer.
        write: Duration = Default("\"60s\""),
        /// An idle pooled connection to a backend. Keep it below that of the tools:
        /// they close theirs early.
        upstream_idle: Duration = Default("\"5s\""),
        /// Silence on a WebSocket, both ways, after which it is closed.
        tunnel: Duration = Default("\"1h\""),
    }
}

table! {
    LimitsFile {
        /// The request body: 413 above. Raise it when tools take larger uploads; bodies
        /// are streamed, not kept.
        body: Size<0, TIB> = Default("\"128MiB\""),
        /// The request head: 431 above. Each connection may use that much memory.
        header: Size<KIB, MIB> = Default("\"32KiB\""),
        /// The request target: 414 above. At most `header`.
        uri: Size<256, MIB> = Default("\"8KiB\""),
        /// Client connections of the whole process, those of `[[tcp]]` among them. Lowered, with a
        /// warning, to what descriptors allow.
        connections: Number<1, 10_000_000> = Default("65536"),
        /// Concurrent HTTP/2 streams of one connection; more are refused, and clients wait.
        streams: Number<1, 10_000> = Default("100"),
        /// Requests of one tool in flight: 503 above. One slow tool cannot take everything.
        in_flight_per_tool: Number<1, 10_000_000> = Default("250"),
    }
}

table! {
    Http2File {
        /// WebSockets over HTTP/2 (RFC 8441). Off: browsers open a connection of HTTP/1.1 for each.
        websocket: bool = Default("true"),
    }
}

table! {
    /// A client is an IPv4 address or an IPv6 network of 64 bits.
    RateFile {
        /// Requests per second of one client: 429 above; 0: off.
        per_second: Number<0, 1_000_000> = Default("0"),
        /// Requests that a client may make at once before the rate counts. Pages load many
        /// files: keep it high.
        burst: Number<1, 1_000_000> = Default("100"),
        /// Networks that are not counted: monitoring, other proxies.
        exempt: List<IpNet> = Default("[]"),
        /// Count and log, refuse nothing. Start with it.
        dry_run: bool = Default("false"),
    }
}

table! {
    RefuseFile {
        /// Requests whose User-Agent is missing or empty: 403.
        empty_user_agent: bool = Default("true"),
        /// Requests whose User-Agent matches this regular expression in any case: 403; empty: off.
        user_agents: HeaderPattern = Default("\"\""),
        /// Requests whose Referer matches this regular expression in any case: 403; empty: off.
        referers: HeaderPattern = Default("\"\""),
        /// Clients from these addresses and networks: 403.
        addresses: List<IpNet> = Default("[]"),
        /// Tools that are switched off: 403.
        tools: List<Name> = Default("[]"),
        /// Technical issues: 503 for everything but health checks.
        everything: bool = Default("false"),
        /// Refuse nothing, but count (`portico_dry_run_refusals_total`), and log at `debug`.
        /// Bodies above `limits.body` and loops are refused all the same. Start with it.
        dry_run: bool = Default("false"),
    }
}

table! {
    /// Headers that frame a message or speak about one connection (Content-Length,
    /// Transfer-Encoding, Connection, Upgrade, Content-Encoding and their like) are portico's own:
    /// they can be neither hidden nor set.
    HeadersFile {
        /// Headers of tools' answers that never reach the client.
        hide: List<HeaderName> = Default("[]"),
        /// Whether tools get the client's address: `"hidden"`, or `"forwarded"` in X-Forwarded-For.
        /// Hidden for privacy: what clients send of that kind is removed as well.
        client_address: ClientAddress = Default("\"hidden\""),
        /// Tools that get the address all the same. It replaces what the client sent.
        client_address_for: List<Name> = Default("[]"),
        /// Headers of answers that are hidden on legacy domains only, where tools
        /// share one host (T158216).
        hide_on_legacy: List<HeaderName> = Default("[\"Service-Worker-Allowed\"]"),
        /// portico's name in the Via request header. A request that already carries it is a
        /// loop (508). Empty: no header, and loops are not noticed. Give each of several
        /// proxies in a row its own.
        via: ViaName = Default("\"portico\""),
        /// Headers of every answer, in place of the tool's own. `{host}` is the host of the
        /// request. Strict-Transport-Security is sent over TLS only. What is written here joins the
        /// default; a header with the value `""` is not set, and leaves the tool's own alone.
        set: Map<HeaderName, HeaderTemplate> = Default(HEADERS_SET),
    }
}

choice! { ClientAddress { "hidden" => ClientAddress::Hidden, "forwarded" => ClientAddress::Forwarded } }

table! {
    /// An answer is compressed for clients that accept it, if its media type is listed and nothing
    /// in it speaks against: an encoding of the tool's own, `Cache-Control: no-transform`, a range,
    /// an event stream, `X-Accel-Buffering: no`. Its ETag becomes weak, so that If-None-Match goes on
    /// working and If-Match never holds: tools that are edited with If-Match belong in `off_for`.
    CompressionFile {
        /// The encodings, in order of preference where a client likes several equally; empty: off.
        algorithms: List<Algorithm> = Default("[\"zstd\", \"br\", \"gzip\"]"),
        /// How hard each encoding tries: more is smaller, and slower. Levels that would keep a
        /// worker from its other requests are not offered.
        level: LevelFile = Default("{}"),
        /// Answers that say that they are smaller are left alone.
        min_size: Size<0, MIB> = Default("\"1KiB\""),
        /// Tools whose answers are left alone: those with secrets next to reflected input (BREACH).
        off_for: List<Name> = Default("[]"),
        /// The media types that are worth it.
        types: List<MediaType> = Default(
            r#"["text/html", "text/plain", "text/css", "text/xml", "text/javascript", "application/json", "application/javascript", "application/x-javascript", "image/svg+xml"]"#
        ),
    }
}

table! {
    LevelFile {
        /// For gzip.
        gzip: Number<1, 9> = Default("5"),
        /// For Brotli.
        br: Number<0, 6> = Default("4"),
        /// For Zstandard.
        zstd: Number<1, 9> = Default("3"),
    }
}

choice! { Algorithm { "zstd" => Algorithm::Zstd, "br" => Algorithm::Br, "gzip" => Algorithm::Gzip } }

table! {
    /// All of these take effect at a reload, for requests that end after it.
    LogFile {
        /// The access log, one line for each request: `"off"`, `"stderr"`, or the absolute path of a
        /// file, which is made with mode 0640 and opened again on SIGUSR1, or when it is found
        /// renamed or deleted. A named pipe may stand there too. Lines are written in batches, at the
        /// latest after half a second; what a full or slow disk does not take is dropped and counted,
        /// and no request ever waits for it. Rotate it by size: `systemd/portico.logrotate`.
        access: LogTarget = Default("\"off\""),
        /// A line of the access log: `"vhosts"`, as the legacy system wrote it, or `"json"`, one object
        /// a line. See docs/access-log.md.
        format: LogFormat = Default("\"vhosts\""),
        /// Client addresses in every log: `"full"`, `"masked"` (/24 of IPv4, /48 of IPv6), or `"hashed"`:
        /// 16 hexadecimal digits, the same for the same address until midnight UTC or a restart,
        /// whichever is first. The key comes from the system's randomness, is kept in memory only, and
        /// is then thrown away: after that nobody can tell whose lines they were.
        client_address: LogAddress = Default("\"full\""),
        /// The least severe messages that are written. `"debug"` says why;
        /// `"trace"` is for developers.
        level: LogLevel = Default("\"info\""),
    }
}

choice! { LogFormat { "vhosts" => LogFormat::Vhosts, "json" => LogFormat::Json } }

choice! {
    LogAddress {
        "full" => LogAddress::Full,
        "masked" => LogAddress::Masked,
        "hashed" => LogAddress::Hashed,
    }
}

choice! {
    LogLevel {
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
    }
}

table! {
    /// Leave the table out to switch it off. Grid web services register their routes there; who
    /// they are is found out by ident (RFC 1413).
    RegistrationFile {
        /// The address to answer on.
        listen: SocketAddr = Required("\"192.0.2.9:8282\""),
        /// The project that the users of tools belong to: `<project>.<tool>`.
        project: Name = Required("\"tools\""),
        /// Networks that may register: those where ident can be trusted.
        from: List<IpNet> = Required("[\"192.0.2.0/24\"]"),
        /// How long ident may take.
        ident_timeout: Duration = Default("\"5s\""),
    }
}
