//! Rows of conformance tests: what a client does, which section of RFC 9113 speaks of it, and what
//! must become of it. All rows run; what is wrong is said at the end, row by row.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Frame, Head, Http2, Outcome, code};
use crate::origin::Origin;
use crate::portico::{HOST, Portico};

/// What must become of a row.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// A connection error: GOAWAY with one of these codes, then the end.
    Connection(&'static [u32]),
    /// A stream error with one of these codes; the connection goes on.
    Stream(u32, &'static [u32]),
    /// Either (5.4: a stream error may be made one of the connection).
    Either(u32, &'static [u32]),
    /// The connection ends, with or without GOAWAY.
    Ended,
    /// The connection goes on and serves.
    Fine,
    /// The stream is answered with this status; the connection goes on.
    Status(u32, u16),
    /// 8.1.1: the stream ends with PROTOCOL_ERROR or 400 and no origin saw the request, or at
    /// least not all of it; the connection goes on.
    Malformed(u32),
    /// The same, or the whole connection ends with PROTOCOL_ERROR (5.4.1 leaves the choice).
    MalformedOrEnd(u32),
}

/// Rows against one portico in front of an echo.
pub struct Rows {
    /// What tools see.
    pub origin: Origin,
    /// Under test.
    pub portico: Portico,
    wrong: Vec<String>,
    count: usize,
}

impl Rows {
    /// An echo as the tool `grid`.
    #[track_caller]
    pub fn start() -> Rows {
        let origin = Origin::echo("grid");
        let portico = Portico::before(&origin);
        Rows::with(origin, portico)
    }

    /// These.
    pub fn with(origin: Origin, portico: Portico) -> Rows {
        Rows {
            origin,
            portico,
            wrong: Vec::new(),
            count: 0,
        }
    }

    /// One row, on a connection of its own whose settings are exchanged.
    pub fn row(&mut self, section: &str, what: &str, want: Want, act: impl FnOnce(&mut Http2)) {
        self.run(section, what, |portico| {
            let mut client = portico.http2();
            act(&mut client);
            judge(&mut client, want)
        });
        let mut seen = self.origin.take();
        // What an earlier row cancelled may arrive late; such rows ask for this.
        seen.retain(|request| !request.target.starts_with("/sleep/"));
        let nothing = matches!(want, Want::Malformed(_) | Want::MalformedOrEnd(_));
        if nothing && !seen.is_empty() {
            let targets: Vec<&str> = seen.iter().map(|request| &*request.target).collect();
            self.wrong
                .push(format!("{section} {what}: the origin saw {targets:?}"));
        }
    }

    /// One row on a connection that has said nothing yet.
    pub fn bare(&mut self, section: &str, what: &str, want: Want, act: impl FnOnce(&mut Http2)) {
        self.run(section, what, |portico| {
            let mut client = portico.http2_bare();
            act(&mut client);
            judge(&mut client, want)
        });
        self.origin.take();
    }

    /// One row that judges itself.
    pub fn run(
        &mut self,
        section: &str,
        what: &str,
        act: impl FnOnce(&Portico) -> Result<(), String>,
    ) {
        self.count += 1;
        let outcome = catch_unwind(AssertUnwindSafe(|| act(&self.portico)));
        let wrong = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(wrong)) => wrong,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default()
            }
        };
        self.wrong.push(format!("{section} {what}: {wrong}"));
    }

    /// Asserts that all were right.
    #[track_caller]
    pub fn finish(self) {
        assert!(
            self.wrong.is_empty(),
            "{} of {} rows:\n{}",
            self.wrong.len(),
            self.count,
            self.wrong.join("\n")
        );
    }
}

fn judge(client: &mut Http2, want: Want) -> Result<(), String> {
    let (found, right, goes_on) = match want {
        Want::Connection(codes) => {
            let found = client.fate();
            let right = matches!(found, Outcome::Goaway(code) if codes.contains(&code));
            if right {
                ends(client)?;
            }
            (found, right, false)
        }
        Want::Ended => {
            let found = client.fate();
            let right = matches!(found, Outcome::Goaway(_) | Outcome::Closed);
            (found, right, false)
        }
        Want::Stream(stream, codes) => {
            let found = client.outcome(stream);
            let right = matches!(found, Outcome::Reset(code) if codes.contains(&code));
            (found, right, true)
        }
        Want::Either(stream, codes) => {
            let found = client.outcome(stream);
            let code = match found {
                Outcome::Reset(code) | Outcome::Goaway(code) => Some(code),
                _ => None,
            };
            let right = code.is_some_and(|code| codes.contains(&code));
            let goes_on = matches!(found, Outcome::Reset(_));
            (found, right, goes_on)
        }
        Want::Malformed(stream) | Want::MalformedOrEnd(stream) => {
            let found = client.outcome(stream);
            let may_end = matches!(want, Want::MalformedOrEnd(_));
            let right = match &found {
                Outcome::Reset(code) => *code == code::PROTOCOL_ERROR,
                Outcome::Goaway(code) => *code == code::PROTOCOL_ERROR && may_end,
                Outcome::Answer(answer) => answer.status == 400,
                Outcome::Closed | Outcome::Alive => false,
            };
            let goes_on = !matches!(found, Outcome::Goaway(_));
            (found, right, goes_on)
        }
        Want::Status(stream, status) => {
            let found = client.outcome(stream);
            let right = matches!(&found, Outcome::Answer(answer) if answer.status == status);
            (found, right, true)
        }
        Want::Fine => {
            let found = client.fate();
            let right = matches!(found, Outcome::Alive);
            (found, right, true)
        }
    };
    if !right {
        return Err(format!("{found:?} instead of {want:?}"));
    }
    if goes_on {
        return serves(client);
    }
    Ok(())
}

/// Whether a request on a far stream is answered.
fn serves(client: &mut Http2) -> Result<(), String> {
    let stream = client.skip_to(10_001);
    client.request(&Head::get(HOST, "/.well-known/healthz"), true);
    match client.outcome(stream) {
        Outcome::Answer(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("afterwards: {other:?}")),
    }
}

/// Whether the connection is closed after its GOAWAY (5.4.1).
fn ends(client: &mut Http2) -> Result<(), String> {
    let _ = client.try_send(&Frame::ping(*b"are you?"));
    loop {
        match client.read_frame() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(error) => return Err(format!("GOAWAY, but no end: {error}")),
        }
    }
}
