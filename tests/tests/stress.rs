//! Many clients doing everything at once: each must get its own answer, whole.
//!
//! The mix is pseudo-random with a fixed seed a client, so that a failure can be repeated.

use std::thread;
use std::time::Duration;

use portico_tests::client::{Client, get};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::{CHECKSUM_START, SOON, body_bytes, checksum, eventually, websocket};

const CLIENTS: u64 = 12;
const REQUESTS: u64 = 80;

/// A small generator of numbers (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

fn head(method: &str, target: &str, more: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n{more}\r\n")
}

/// Sends bytes in some pieces.
fn send(client: &mut Client, numbers: &mut Numbers, bytes: &[u8]) {
    let piece = 1 + numbers.below(bytes.len() as u64 + 1) as usize;
    for part in bytes.chunks(piece) {
        client.send(part);
    }
}

/// One request of a random kind, checked; false when the connection must not be used again.
fn step(client: &mut Client, numbers: &mut Numbers, id: &str) -> bool {
    let size = [0, 1, 100, 5000, 70_000, 400_000][numbers.below(6) as usize];
    let body = body_bytes(size);
    let sum = format!("{:016x}", checksum(CHECKSUM_START, &body));
    match numbers.below(9) {
        0 | 1 => {
            send(
                client,
                numbers,
                head("GET", &format!("/{id}"), "").as_bytes(),
            );
            let answer = client.response();
            assert!(
                answer.status == 200 && answer.text().contains(id),
                "{id}: {answer:?}"
            );
        }
        2 => {
            let kind = ["bytes", "chunked"][numbers.below(2) as usize];
            send(
                client,
                numbers,
                head("GET", &format!("/{kind}/{size}"), "").as_bytes(),
            );
            let answer = client.response();
            let expected = (200, size as u64, checksum(CHECKSUM_START, &body));
            assert_eq!(
                (answer.status, answer.body.length, answer.body.checksum),
                expected,
                "{id}"
            );
        }
        3 => {
            let mut bytes = head(
                "POST",
                &format!("/{id}"),
                &format!("Content-Length: {size}\r\n"),
            )
            .into_bytes();
            bytes.extend(&body);
            send(client, numbers, &bytes);
            let text = client.response().text();
            assert!(text.contains(id) && text.contains(&sum), "{id}: {text}");
        }
        4 => {
            let mut bytes =
                head("PUT", &format!("/{id}"), "Transfer-Encoding: chunked\r\n").into_bytes();
            for chunk in body.chunks(1 + numbers.below(9000) as usize) {
                bytes.extend(format!("{:X}\r\n", chunk.len()).as_bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            send(client, numbers, &bytes);
            let text = client.response().text();
            assert!(text.contains(id) && text.contains(&sum), "{id}: {text}");
        }
        5 => {
            client.send(head("HEAD", &format!("/bytes/{size}"), ""));
            let answer = client.head_response();
            assert_eq!(
                answer.field("content-length"),
                Some(&*size.to_string()),
                "{id}: {answer:?}"
            );
        }
        6 => {
            // Pipelined, one of them for nobody.
            let bytes = head("GET", &format!("/{id}-a"), "")
                + &get("unknown.example", "/")
                + &head("GET", &format!("/{id}-b"), "");
            send(client, numbers, bytes.as_bytes());
            assert!(client.response().text().contains(&format!("{id}-a")));
            assert_eq!(client.response().status, 404);
            assert!(client.response().text().contains(&format!("{id}-b")));
        }
        7 => {
            client.send(websocket::handshake(HOST, &format!("/{id}")));
            let answer = client.response();
            assert!(
                answer.status == 200 && answer.text().contains(id),
                "{id}: {answer:?}"
            );
        }
        _ => {
            // Leaves in the middle: of its own request, or of the answer.
            let bytes = head("POST", "/bytes/400000", "Content-Length: 1000\r\n")
                + &"x".repeat(numbers.below(1001) as usize);
            client.send(bytes);
            thread::sleep(Duration::from_millis(numbers.below(5)));
            return false;
        }
    }
    true
}

fn run(portico: &Portico, seed: u64) {
    let mut numbers = Numbers(seed);
    let connect = || portico.try_client(seed.is_multiple_of(2)).unwrap();
    let mut client = connect();
    for request in 0..REQUESTS {
        if !step(
            &mut client,
            &mut numbers,
            &format!("client-{seed}-request-{request}-end"),
        ) {
            if numbers.below(2) == 0 {
                client.reset();
            }
            client = connect();
        }
    }
}

#[test]
fn everybody_gets_the_own_answer() {
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .with("[limits]\nin_flight_per_tool = 64")
        .route("grid", &origin.url())
        .start();
    thread::scope(|scope| {
        for seed in 0..CLIENTS {
            let portico = &portico;
            scope.spawn(move || run(portico, seed));
        }
    });
    // Nobody kept a place: as many as the limit are served at once.
    eventually("all places are free", SOON, || {
        let mut clients: Vec<Client> = (0..64).map(|_| portico.tcp()).collect();
        for client in &mut clients {
            client.send(get(HOST, "/sleep/200"));
        }
        let served = clients
            .iter_mut()
            .filter_map(|client| client.try_response(false).ok().flatten());
        (served.filter(|answer| answer.status == 200).count() == 64).then_some(())
    });
    // A request that broke off is no malformed one, but its chunked twin may end in
    // the middle at the tool.
    let _ = origin.take();
}
