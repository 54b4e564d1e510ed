//! Harness of the black-box tests: starts the real `portico` binary, a real redis and real origins
//! on loopback, and talks to them with blocking sockets.
//!
//! It shares no code with portico: what portico writes is read back by parsers of its own, strict
//! ones, so that a mistake cannot hide on both sides. Nothing here is asynchronous and nothing is
//! clever; a fixture that breaks panics.
//!
//! - [`portico`] the proxy under test: configuration, process, stderr, signals
//! - [`origin`] web servers behind it: an echo, and scripts that misbehave on purpose
//! - [`tcp_node`] TCP servers behind it
//! - [`gate`] a web server that holds its requests until it is told, and counts them
//! - [`node`] a web server in a process of its own, to be killed or stopped
//! - [`redis`] a redis process with the registry in it
//! - [`relay`] a bad line between portico and redis
//! - [`registry`] the table as portico serves it and as redis holds it
//! - [`load`] requests all the time, each with its expected answer
//! - [`sentinel`] redis servers with replicas, and sentinels
//! - [`client`] a raw HTTP/1 client that sends exact bytes and reads exactly one answer
//! - [`http2`] a raw HTTP/2 client that sends any frame and checks what comes back
//! - [`websocket`] WebSocket frames by hand
//! - [`vectors`] the cases of `vectors.toml`
//! - [`tls`] a certificate authority for the tests
//! - [`wire`] HTTP/1 read strictly, for both sides

pub mod client;
pub mod gate;
pub mod http2;
pub mod load;
pub mod node;
pub mod origin;
pub mod portico;
pub mod redis;
pub mod registry;
pub mod relay;
pub mod sentinel;
pub mod stream;
pub mod tcp_node;
pub mod tls;
pub mod vectors;
pub mod websocket;
pub mod wire;

use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take that should happen "soon". Generous: CI machines stall, and nothing
/// waits this long when all is well.
pub const SOON: Duration = Duration::from_secs(20);

/// A MiB, in bytes.
pub const MIB: u64 = 1 << 20;

/// A loopback port that nobody listens on and that no outgoing connection gets by chance. It belongs
/// to this process until it ends: what another test checks, or finds dead, is not listened on here.
///
/// Below the ephemeral range (32768 and up), so that a connection of another test
/// cannot take it in between.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Processes that run at the same time start at different places.
        let offset = std::process::id().wrapping_mul(97) + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + offset % COUNT).expect("fits a port");
        if claim(port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Keeps other processes from taking a port, with a name that the kernel forgets when this one ends:
/// the port itself may be left alone for long, so that nobody answers there.
fn claim(port: u16) -> bool {
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("portico-test-{port}"));
    let claimed = name.and_then(|name| UnixListener::bind_addr(&name));
    claimed.map(std::mem::forget).is_ok()
}

/// [`free_port`] as an address on 127.0.0.1.
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// Polls `attempt` until it gives a value; panics with `what` when `deadline` passes.
#[track_caller]
pub fn eventually<T>(what: &str, deadline: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(
            start.elapsed() < deadline,
            "not within {deadline:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal (`TERM`, `KILL`, `STOP`, `CONT`) to a process that this test started.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status()
        .expect("kill(1) runs");
    assert!(status.success(), "kill -{name} {pid}");
}

/// A checksum that notices lost, doubled and reordered bytes (FNV-1a, 64 bits). Start
/// with [`CHECKSUM_START`].
pub fn checksum(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The checksum of nothing.
pub const CHECKSUM_START: u64 = 0xcbf2_9ce4_8422_2325;

/// `length` bytes that do not repeat with any power of two, so that a shifted block
/// changes the checksum.
pub fn body_bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

/// Bytes as text for messages, long ones cut.
pub fn show(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(2000)];
    let more = if cut.len() < bytes.len() {
        format!("... ({} bytes)", bytes.len())
    } else {
        String::new()
    };
    format!("{}{more}", cut.escape_ascii())
}
