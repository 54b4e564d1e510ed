//! TCP listeners that choose a pool by the server name in a client's TLS, which ends at the node: whose
//! certificate comes, what becomes of hellos that are slow, cut or none, and what nodes are told of
//! clients.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use portico_tests::client::{Client, get};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, Portico, program};
use portico_tests::tcp_node::{Checks, Node, prepare};
use portico_tests::tls::Authority;
use portico_tests::{SOON, eventually, free_address};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};

/// Three TLS servers, `a`, `b` and `c`, whose certificates name what goes to them.
struct Servers {
    authority: Authority,
    origins: [Origin; 3],
    checks: Checks,
}

const LETTERS: [&str; 3] = ["a", "b", "c"];

impl Servers {
    fn start() -> Servers {
        let authority = Authority::new();
        let names = [
            &["a.example"][..],
            &["y.example", "z.example", "x.b.example"],
            &["c.invalid", "127.0.0.1", "x.y.example"],
        ];
        let origins = [0, 1, 2].map(|at| {
            let pair = authority.issue(names[at]);
            Origin::echo_tls(LETTERS[at], pair.server_config())
        });
        Servers {
            authority,
            origins,
            checks: Checks::start(),
        }
    }

    /// portico with a listener `t` before them: `a.example` goes to `a`, all names beside it to `b`.
    #[track_caller]
    fn before(&self, more: &str) -> (Portico, SocketAddr) {
        let listen = free_address();
        let mut builder = Builder::new();
        for (letter, origin) in LETTERS.iter().zip(&self.origins) {
            builder = builder.with(&self.checks.pool(letter, &[origin.address()], ""));
        }
        let listener = format!(
            "[[tcp]]
            name = 't'
            listen = ['{listen}']
            server_names = {{ 'a.example' = 'a', '*.example' = 'b', '*.b.example' = 'b' }}
            {more}"
        );
        (builder.with(&listener).start(), listen)
    }

    fn client(&self) -> ClientConfig {
        (*self.authority.client_config(rustls::ALL_VERSIONS)).clone()
    }
}

/// Who answers a client that asks for this name; `None`: the connection ends without a byte.
fn who(listen: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Option<String> {
    let mut client = Client::tls(listen, config, name);
    client.wire.send(get("any.example", "/")).ok()?;
    let response = client.try_response(false).ok()??;
    let text = response.text();
    let letter = LETTERS
        .iter()
        .find(|letter| text.starts_with(&format!("{{\"backend\": \"{letter}\"")));
    Some(letter.unwrap_or_else(|| panic!("{text}")).to_string())
}

fn unserved(portico: &Portico, reason: &str) -> f64 {
    let series = format!("portico_tcp_unserved_total{{listener=\"t\",reason=\"{reason}\"}}");
    portico.metric(&series).expect("a series")
}

#[test]
fn the_name_chooses_the_pool() {
    let servers = Servers::start();
    let (portico, listen) = servers.before("");
    let config = Arc::new(servers.client());
    let check = |name: &str, expected: Option<&str>| {
        // The certificate of the node itself, or the client would not have gone on.
        assert_eq!(who(listen, &config, name).as_deref(), expected, "{name}");
    };
    check("a.example", Some("a"));
    check("A.Example", Some("a"));
    check("z.example", Some("b"));
    check("x.b.example", Some("b"));
    // One label only; not the name itself; an address; another domain.
    check("x.y.example", None);
    check("example", None);
    check("127.0.0.1", None);
    check("c.invalid", None);
    let mut silent = servers.client();
    silent.enable_sni = false;
    assert_eq!(who(listen, &Arc::new(silent), "a.example"), None);
    assert_eq!(unserved(&portico, "no_pool"), 5.0);
}

#[test]
fn the_pool_of_the_listener_gets_the_rest() {
    let servers = Servers::start();
    let (portico, listen) = servers.before("pool = 'c'");
    let config = servers.client();
    let check = |config: &ClientConfig, name: &str, expected: &str| {
        let got = who(listen, &Arc::new(config.clone()), name);
        assert_eq!(got.as_deref(), Some(expected), "{name}");
    };
    check(&config, "a.example", "a");
    check(&config, "z.example", "b");
    check(&config, "x.y.example", "c");
    check(&config, "c.invalid", "c");
    check(&config, "127.0.0.1", "c");
    let mut silent = config;
    silent.enable_sni = false;
    check(&silent, "c.invalid", "c");
    assert_eq!(unserved(&portico, "no_pool"), 0.0);
}

#[test]
fn openssl_sees_the_node_as_if_nobody_stood_between() {
    let servers = Servers::start();
    let (portico, listen) = servers.before("");
    let ca = portico.folder.path().join("nodes.pem");
    std::fs::write(&ca, &servers.authority.pem).unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let (to, ca) = (listen.to_string(), ca.to_str().unwrap());
        let words = [
            "s_client",
            version,
            "-connect",
            &to,
            "-servername",
            "A.EXAMPLE",
            "-CAfile",
            ca,
            "-verify_hostname",
            "a.example",
            "-verify_return_error",
        ];
        let said = program("openssl", &words).stdout;
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("Verification: OK"), "{said}");
        assert!(said.contains("Verified peername: a.example"), "{said}");
    }
    // No name, no answer.
    let mut without = Command::new("openssl");
    let to = listen.to_string();
    without.args(["s_client", "-connect", &to, "-noservername"]);
    let output = without.output().unwrap();
    assert!(!output.status.success());
    assert!(!String::from_utf8_lossy(&output.stdout).contains("BEGIN CERTIFICATE"));
}

/// A socket that sends each byte by itself.
struct Bytewise(TcpStream);

impl Write for Bytewise {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Bytewise {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

#[track_caller]
fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&to, SOON).expect("portico accepts");
    prepare(&socket);
    socket
}

fn tls(config: &Arc<ClientConfig>, name: &'static str) -> ClientConnection {
    let name = ServerName::try_from(name).unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}

#[test]
fn a_hello_may_come_in_any_pieces() {
    let servers = Servers::start();
    let (_portico, listen) = servers.before("");
    // In records of 32 bytes, and every byte of them in a packet of its own.
    let mut config = servers.client();
    config.max_fragment_size = Some(32);
    for config in [servers.client(), config] {
        let socket = Bytewise(connect(listen));
        let mut stream = StreamOwned::new(tls(&Arc::new(config), "a.example"), socket);
        stream
            .write_all(get("a.example", "/bytes/1000").as_bytes())
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(&portico_tests::body_bytes(1000)) {
            let mut chunk = [0; 4096];
            let count = stream.read(&mut chunk).unwrap();
            assert_ne!(count, 0, "{answer:?}");
            answer.extend_from_slice(&chunk[..count]);
        }
    }
}

#[test]
fn a_hello_has_its_time() {
    let servers = Servers::start();
    let listen = free_address();
    let config = format!(
        "[timeouts]\nhandshake = '1s'\n[[tcp]]\nname = 't'\nlisten = ['{listen}']\nserver_names = {{ 'a.example' = 'a' }}\npool = 'a'\n{}",
        servers
            .checks
            .pool("a", &[servers.origins[0].address()], "")
    );
    let portico = Builder::new().with(&config).start();
    let mut hello = Vec::new();
    tls(&Arc::new(servers.client()), "a.example")
        .write_tls(&mut hello)
        .unwrap();
    // Nothing, a beginning, all but the last byte, and a byte now and then.
    for sent in [0, 1, 6, hello.len() - 1] {
        let mut socket = connect(listen);
        socket.write_all(&hello[..sent]).unwrap();
        closed(&mut socket);
    }
    let mut slow = connect(listen);
    let mut writer = slow.try_clone().unwrap();
    let drip = hello.clone();
    let dripping = thread::spawn(move || {
        for byte in drip {
            if writer.write_all(&[byte]).is_err() {
                return true;
            }
            thread::sleep(std::time::Duration::from_millis(50));
        }
        false
    });
    closed(&mut slow);
    drop(slow);
    assert!(dripping.join().unwrap(), "it could send all of its hello");
    assert_eq!(unserved(&portico, "no_hello"), 5.0);
    assert_eq!(servers.origins[0].connections(), 0);
}

/// The connection ends, in whichever way, without a byte.
#[track_caller]
fn closed(socket: &mut TcpStream) {
    match socket.read(&mut [0; 100]) {
        Ok(0) => {}
        Ok(count) => panic!("{count} bytes"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
}

#[test]
fn what_is_no_tls_goes_to_the_pool_of_the_listener_or_nowhere() {
    let node = Node::start(|mut socket| {
        let mut got = vec![0; 18];
        socket.read_exact(&mut got).unwrap();
        socket.write_all(&got).unwrap();
    });
    let checks = Checks::start();
    let (with, without) = (free_address(), free_address());
    let listener = |name: &str, listen: SocketAddr, more: &str| {
        format!(
            "[[tcp]]\nname = '{name}'\nlisten = ['{listen}']\nserver_names = {{ 'a.example' = 'p' }}\n{more}\n"
        )
    };
    let config = [
        checks.pool("p", &[node.address()], ""),
        listener("t", without, ""),
        listener("d", with, "pool = 'p'"),
    ];
    let portico = Builder::new().with(&config.concat()).start();
    let plain = b"GET / HTTP/1.1\r\n\r\n";
    let mut refused = connect(without);
    refused.write_all(plain).unwrap();
    closed(&mut refused);
    assert_eq!(unserved(&portico, "no_pool"), 1.0);
    let mut socket = connect(with);
    socket.write_all(plain).unwrap();
    let mut got = Vec::new();
    socket.read_to_end(&mut got).unwrap();
    assert_eq!(got, plain);
    assert_eq!(node.connections(), 1);
}

/// A node that wants a PROXY protocol header and then speaks TLS: the header's bytes are its answer.
fn wanting(config: Arc<ServerConfig>, header: usize) -> Node {
    Node::start(move |mut socket| {
        let mut bytes = vec![0; header];
        socket.read_exact(&mut bytes).expect("a header");
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        let mut asked = [0];
        stream.read_exact(&mut asked).expect("TLS");
        stream.write_all(&bytes).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    })
}

fn v2(family: u8, addresses: &[&[u8]], ports: [u16; 2]) -> Vec<u8> {
    let mut held = addresses.concat();
    held.extend(ports.into_iter().flat_map(u16::to_be_bytes));
    let head = [
        b"\r\n\r\n\0\r\nQUIT\n\x21",
        &[family, 0, held.len() as u8][..],
    ]
    .concat();
    [head, held].concat()
}

#[test]
fn nodes_are_told_who_the_client_is_before_its_hello() {
    let authority = Authority::new();
    let config = authority.issue(&["a.example"]).server_config();
    let nodes = [wanting(Arc::clone(&config), 28), wanting(config, 52)];
    let checks = Checks::start();
    let (direct, behind, behind6) = (free_address(), free_address(), free_address());
    let listener = |name: &str, listen: SocketAddr, more: &str| {
        format!(
            "[[tcp]]\nname = '{name}'\nlisten = ['{listen}']\nsend_proxy_protocol = true\n{more}\n"
        )
    };
    let believe = "proxy_protocol_from = ['127.0.0.1/32']";
    let config = [
        checks.pool("v4", &[nodes[0].address()], ""),
        checks.pool("v6", &[nodes[1].address()], ""),
        listener("t", direct, "server_names = { 'a.example' = 'v4' }"),
        listener(
            "behind",
            behind,
            &format!("server_names = {{ 'a.example' = 'v4' }}\n{believe}"),
        ),
        listener("behind6", behind6, &format!("pool = 'v6'\n{believe}")),
    ];
    let _portico = Builder::new().with(&config.concat()).start();
    let client = authority.client_config(rustls::ALL_VERSIONS);
    let told = |to: SocketAddr, before: &[u8]| {
        let mut socket = connect(to);
        let own = socket.local_addr().unwrap();
        socket.write_all(before).unwrap();
        let mut stream = StreamOwned::new(tls(&client, "a.example"), socket);
        stream.write_all(b"?").unwrap();
        let mut header = Vec::new();
        stream.read_to_end(&mut header).unwrap();
        (own, header)
    };
    let localhost = &[127, 0, 0, 1][..];
    let (own, header) = told(direct, b"");
    let ports = [own.port(), direct.port()];
    assert_eq!(header, v2(0x11, &[localhost, localhost], ports));
    // What a balancer in front says, in either version.
    let (_, header) = told(behind, b"PROXY TCP4 192.0.2.7 192.0.2.9 1234 6443\r\n");
    let found = v2(0x11, &[&[192, 0, 2, 7], &[192, 0, 2, 9]], [1234, 6443]);
    assert_eq!(header, found);
    assert_eq!(told(behind, &found).1, found);
    let (_, header) = told(behind6, b"PROXY TCP6 2001:db8::1 ::2 1234 6443\r\n");
    let (mut one, mut two) = ([0; 16], [0; 16]);
    one[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    (one[15], two[15]) = (1, 2);
    assert_eq!(header, v2(0x21, &[&one, &two], [1234, 6443]));
}

#[test]
fn names_change_with_a_reload_and_cut_nobody() {
    let servers = Servers::start();
    let (mut portico, listen) = servers.before("");
    let config = Arc::new(servers.client());
    let mut old = Client::tls(listen, &config, "z.example");
    assert_eq!(old.exchange(get("z.example", "/status/200")).status, 200);
    let listener = |names: &str| {
        format!("[[tcp]]\nname = 't'\nlisten = ['{listen}']\nserver_names = {{ {names} }}")
    };
    portico.change(&listener(
        "'a.example' = 'b', 'c.invalid' = 'c', 'z.example' = 'a'",
    ));
    assert!(portico.reload());
    let go = |name: &str| who(listen, &config, name);
    assert_eq!(go("c.invalid").as_deref(), Some("c"));
    assert_eq!(go("y.example"), None);
    eventually("the old connection is still open", SOON, || {
        let response = old.exchange(get("z.example", "/status/200"));
        (response.status == 200).then_some(())
    });
    // `a` has no certificate for that, which the client sees and nobody else.
    let mut socket = connect(listen);
    let refusal = tls(&config, "z.example").complete_io(&mut socket);
    assert!(refusal.unwrap_err().to_string().contains("certificate"));
}
