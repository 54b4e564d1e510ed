//! A bad line between portico and redis: a TCP relay that delays, swallows, tears or makes up what
//! redis answers, as it was told last.
//!
//! Requests always pass at once. What it does to a connection under way changes with the next bytes
//! that redis sends.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// What happens to the bytes from redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They pass.
    Through,
    /// They pass late.
    Slow(Duration),
    /// They pass one by one.
    ByteByByte,
    /// They are swallowed.
    Silent,
    /// New connections are reset before a byte.
    Reset,
    /// The connection is reset after so many bytes of it.
    ResetAfter(usize),
    /// After so many bytes of a connection these follow, and then silence.
    GarbageAfter(usize, &'static [u8]),
    /// Pushes are swallowed, answers pass.
    NoPushes,
}

/// A listening relay; its connections end with it.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: Mutex<SocketAddr>,
    stop: AtomicBool,
    way: Mutex<Way>,
    /// Of clients. A connection ends when both of its threads have let it go.
    sockets: Mutex<Vec<Weak<TcpStream>>>,
    connects: Mutex<Vec<Instant>>,
}

impl Relay {
    /// To a redis (or nobody) at `to`.
    pub fn start(to: SocketAddr, way: Way) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a relay can listen");
        let shared = Arc::new(Shared {
            to: Mutex::new(to),
            stop: AtomicBool::new(false),
            way: Mutex::new(way),
            sockets: Mutex::default(),
            connects: Mutex::default(),
        });
        let relay = Relay {
            address: listener.local_addr().expect("a bound listener"),
            shared: Arc::clone(&shared),
        };
        std::thread::spawn(move || accept(&listener, &shared));
        relay
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// To another redis from now on, as a name or an address that moves: connections under way are
    /// reset.
    pub fn lead_to(&self, to: SocketAddr) {
        *lock(&self.shared.to) = to;
        self.cut(Way::Through);
    }

    /// As `[registry].url` wants it.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// From now on.
    pub fn set(&self, way: Way) {
        *lock(&self.shared.way) = way;
    }

    /// From now on, on new connections: those under way are reset.
    pub fn cut(&self, way: Way) {
        self.set(way);
        for socket in lock(&self.shared.sockets).drain(..) {
            if let Some(socket) = socket.upgrade() {
                reset(&socket);
            }
        }
    }

    /// When connections came in.
    pub fn connects(&self) -> Vec<Instant> {
        lock(&self.shared.connects).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.cut(Way::Reset);
        // Wakes the accept call up.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for socket in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = socket else { continue };
        lock(&shared.connects).push(Instant::now());
        let way = *lock(&shared.way);
        let to = *lock(&shared.to);
        let Some(redis) = (way != Way::Reset)
            .then(|| TcpStream::connect(to).ok())
            .flatten()
        else {
            reset(&client);
            continue;
        };
        let _ = client.set_nodelay(true);
        let _ = redis.set_nodelay(true);
        let (client, redis) = (Arc::new(client), Arc::new(redis));
        lock(&shared.sockets).push(Arc::downgrade(&client));
        let (from, to) = (Arc::clone(&client), Arc::clone(&redis));
        std::thread::spawn(move || pass(&from, &to));
        let shared = Arc::clone(shared);
        std::thread::spawn(move || answer(&shared, &redis, &client));
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let mut chunk = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn answer(shared: &Shared, mut redis: &TcpStream, mut client: &TcpStream) {
    let mut chunk = [0; 16_384];
    let mut passed = 0;
    // What of a reply is still incomplete; only where pushes are looked for.
    let mut partial: Vec<u8> = Vec::new();
    while let Ok(count @ 1..) = redis.read(&mut chunk) {
        let bytes = &chunk[..count];
        let way = *lock(&shared.way);
        let written = match way {
            Way::Through => client.write_all(bytes),
            Way::Slow(delay) => {
                std::thread::sleep(delay);
                client.write_all(bytes)
            }
            Way::ByteByByte => bytes.iter().try_for_each(|byte| {
                std::thread::sleep(Duration::from_micros(50));
                client.write_all(&[*byte])
            }),
            Way::Silent | Way::Reset => Ok(()),
            Way::ResetAfter(limit) => {
                let rest = limit.saturating_sub(passed).min(count);
                let written = client.write_all(&bytes[..rest]);
                if rest < count {
                    reset(client);
                    break;
                }
                written
            }
            Way::GarbageAfter(limit, garbage) => {
                let rest = limit.saturating_sub(passed).min(count);
                let written = client.write_all(&bytes[..rest]);
                if rest < count && passed <= limit {
                    let _ = client.write_all(garbage);
                }
                written
            }
            Way::NoPushes => {
                partial.extend_from_slice(bytes);
                client.write_all(&without_pushes(&mut partial))
            }
        };
        passed += count;
        if written.is_err() {
            break;
        }
    }
    let _ = redis.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Read);
}

/// Takes the complete replies from `bytes` and gives those that are no pushes.
fn without_pushes(bytes: &mut Vec<u8>) -> Vec<u8> {
    let mut answers = Vec::new();
    while let Some(length) = reply_length(bytes) {
        let reply = bytes.drain(..length);
        if reply.as_slice()[0] == b'>' {
            continue;
        }
        answers.extend(reply);
    }
    answers
}

/// How many bytes the first reply in `bytes` has, once all of it is there (RESP3).
fn reply_length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || -> Option<i64> { str::from_utf8(&bytes[1..line - 2]).ok()?.parse().ok() };
    let items = match bytes[0] {
        b'$' | b'=' | b'!' => {
            // -1: nil
            let length = usize::try_from(number()?).map_or(0, |length| length + 2);
            return (bytes.len() >= line + length).then_some(line + length);
        }
        b'*' | b'~' | b'>' => number()?,
        b'%' | b'|' => number()? * 2,
        _ => 0,
    };
    (0..items).try_fold(line, |at, _| Some(at + reply_length(&bytes[at..])?))
}

/// Closing it, which its threads do as they now can read no more, will be a reset.
fn reset(socket: &TcpStream) {
    let linger = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
    let _ = linger.and_then(|()| socket.shutdown(Shutdown::Read));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &str, answers: &str, partial: &str) {
        let mut rest = bytes.as_bytes().to_vec();
        let got = without_pushes(&mut rest);
        assert_eq!(
            (str::from_utf8(&got), str::from_utf8(&rest)),
            (Ok(answers), Ok(partial))
        );
    }

    #[test]
    fn pushes_are_told_from_answers() {
        let push = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$8\r\nprefix:a\r\n";
        check(&format!("+OK\r\n{push}:1\r\n"), "+OK\r\n:1\r\n", "");
        check(&push[..30], "", &push[..30]);
        let null = ">2\r\n$10\r\ninvalidate\r\n_\r\n";
        let map = "%1\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n";
        check(&format!("{map}{null}{map}+P"), &format!("{map}{map}"), "+P");
    }
}
