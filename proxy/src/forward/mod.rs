//! Forwarding: one request to one backend, and its answer back.
//!
//! `head` writes the request's head anew, `acquire` finds a connection, `upload` and `download`
//! move the bodies at the same time, `tunnel` takes over after a 101. This file holds the order of
//! things and the one retry.
//!
//! The retry: a pooled connection may have died while the request was on its way. The request is
//! sent once more, on a fresh connection, if no byte of an answer came and either nothing was sent
//! or the method is idempotent and everything that was sent is still at hand (RFC 9110 section
//! 9.2.2). A POST that may have run is never repeated. Over HTTP/2 a backend can say that it has not
//! begun (RFC 9113, section 8.7): then any request may, while all of it is at hand. A pool has a
//! budget for this and for other attempts after the first (`pools::retry`).
//!
//! A request to the ingress holds its place at a node (`visit`) until the answer is read.

pub(crate) mod acquire;
mod body;
mod destination;
mod download;
pub(crate) mod head;
mod link;
mod reading;
mod tunnel;
mod upload;
mod visit;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::time::Instant;

use tokio::io::AsyncWriteExt;

use crate::client_stream::ClientStream;
use crate::connection::{After, Connection};
use crate::context::Request;
use crate::halves::Shared;
use crate::http1::RequestHead;
use crate::outgoing::Outgoing;
use crate::response::failure::Failure;
use crate::telemetry::record::Ending;
use crate::upstream::h2c::stream::Fault;
use crate::upstream::stream::UpstreamStream;
use acquire::{Acquired, Attempts, NoConnection};
pub use destination::{BackendFault, Destination};
use download::{Download, Downloaded};
use link::{Awaited, Link, both};
use upload::{Upload, UploadError};
pub use visit::Visit;

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// The client has its answer, or never will.
    Answered(After),
    /// No byte of an answer went to the client: portico has to give one.
    Failed {
        /// Why.
        failure: Failure,
        /// The request's body was read to its end.
        body_is_read: bool,
    },
}

/// Takes the request's head from the front of the connection's input, and gives what the backend is
/// to get in its place.
pub fn write_head<S>(
    connection: &mut Connection<S>,
    request: &Request,
    head: &RequestHead,
    destination: &Destination,
) -> Vec<u8> {
    let mut out = connection.worker.held_head();
    head::write(
        &mut out,
        connection.input.filled(),
        head,
        request,
        &connection.client,
        destination,
    );
    connection.input.consume(head.len);
    connection.input.release(&connection.worker.buffers);
    out
}

/// Forwards the request of which [`write_head`] made `out`.
pub async fn run<S: ClientStream>(
    connection: &mut Connection<S>,
    request: &mut Request,
    destination: &Destination,
    mut out: Vec<u8>,
) -> Outcome {
    let outcome = send(connection, request, destination, &mut out).await;
    // Before a page is written to a client that may be slow.
    request.leave_node();
    connection.worker.put_held_head(out);
    outcome
}

/// Finds a connection, sends, and retries once where that is safe. `out` holds the head.
async fn send<S: ClientStream>(
    connection: &mut Connection<S>,
    request: &mut Request,
    destination: &Destination,
    out: &mut Vec<u8>,
) -> Outcome {
    let limit = request.snapshot.config.limits.body;
    let coding = destination.coding(request.framing);
    let mut upload = Upload::new(request.framing, S::FRAMED, coding, limit);
    let head_len = out.len();
    let failed = |failure, upload: &Upload| Outcome::Failed {
        failure,
        body_is_read: upload.is_done(),
    };
    // What of the body is here already goes out with the head: one write, and at hand for a retry.
    if let Err(error) = upload.encode(connection, out, &request.facts).await {
        return failed(error.into(), &upload);
    }
    let complete = upload.is_done();
    let mut attempts = Attempts::default();
    loop {
        let acquired =
            acquire::acquire(connection, request, destination, &mut attempts, complete).await;
        let Acquired {
            mut stream,
            address,
            reused,
            visit,
        } = match acquired {
            Ok(acquired) => acquired,
            Err(NoConnection::Fault(fault)) => return failed(destination.blame(fault), &upload),
            Err(NoConnection::NoPlace(failure)) => return failed(failure, &upload),
            Err(NoConnection::ClientGone) => return Outcome::Answered(After::Reset),
        };
        request.visit = visit;
        let mut message = Outgoing::head(out, head_len, upload.end());
        let sent = send_head(connection, request, &mut stream, &mut message).await;
        let exchanged = match sent {
            Sent::Nothing => Exchanged::Dead,
            Sent::Stalled => Exchanged::Fault(BackendFault::Timeout),
            Sent::Some | Sent::All => {
                let whole = sent == Sent::All;
                exchange(connection, request, &mut stream, &mut upload, whole).await
            }
        };
        match exchanged {
            Exchanged::Dead => {
                let dead = Dead {
                    fault: stream.fault(),
                    reused,
                    sent,
                    idempotent: request.method.idempotent(),
                    complete,
                    begun: upload.has_begun(),
                };
                if dead.is_repeatable() && attempts.may_repeat(request) {
                    request.visit = None;
                    continue;
                }
                if let Some(visit) = &request.visit {
                    visit.died(reused || !upload.is_done());
                }
                return failed(destination.blame(dead.blame()), &upload);
            }
            Exchanged::Fault(fault) => {
                if let Some(visit) = &request.visit {
                    visit.answer_failed();
                }
                return failed(destination.blame(fault), &upload);
            }
            Exchanged::Client(failure) => return failed(failure, &upload),
            Exchanged::Ended { reusable, after } => {
                if reusable && upload.is_sent() && stream.is_connection() {
                    // One look at the clock for all that begins or ends now.
                    let now = Instant::now();
                    connection.worker.idle.put(address, stream, now);
                    connection.deadline.begins_at(now);
                    request.facts.ended.set(Some(now));
                }
                return Outcome::Answered(after);
            }
        }
    }
}

/// A connection that ended before the first byte of an answer, and the request that was on it.
#[derive(Debug, Clone, Copy)]
struct Dead {
    fault: Option<Fault>,
    reused: bool,
    sent: Sent,
    idempotent: bool,
    /// All of the request was at hand before it was sent, and still is.
    complete: bool,
    /// More was read of the body than was at hand.
    begun: bool,
}

impl Dead {
    /// Whether the request may be sent once more: see above.
    fn is_repeatable(self) -> bool {
        match self.fault {
            Some(Fault::Unprocessed) => self.complete || !self.begun,
            Some(Fault::Malformed | Fault::Closed) | None => {
                let idempotent = self.idempotent && self.complete;
                self.reused && (self.sent == Sent::Nothing || idempotent)
            }
        }
    }

    fn blame(self) -> BackendFault {
        match self.fault {
            Some(Fault::Malformed) => BackendFault::Malformed,
            Some(Fault::Unprocessed | Fault::Closed) | None => BackendFault::Closed,
        }
    }
}

/// How much of the prepared bytes went to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// None: whatever the method, the request did not begin.
    Nothing,
    /// Some, then the connection failed; an answer may come all the same.
    Some,
    /// The backend took no more for too long.
    Stalled,
    /// All.
    All,
}

async fn send_head<S: ClientStream>(
    connection: &mut Connection<S>,
    request: &Request,
    stream: &mut UpstreamStream,
    message: &mut Outgoing<'_>,
) -> Sent {
    let limit = request.silence;
    let mut any = false;
    while !message.sent {
        let step = poll_fn(|cx| stream.poll_send(cx, message));
        match connection.deadline.within(limit, step).await {
            Ok(Ok(())) => any = true,
            Ok(Err(_)) if any || stream.has_begun() => return Sent::Some,
            Ok(Err(_)) => return Sent::Nothing,
            Err(_) => return Sent::Stalled,
        }
    }
    match connection.deadline.within(limit, stream.flush()).await {
        Ok(Ok(())) => Sent::All,
        Ok(Err(_)) => Sent::Some,
        Err(_) => Sent::Stalled,
    }
}

/// What came of one attempt.
#[derive(Debug)]
enum Exchanged {
    /// The connection ended before the first byte of an answer.
    Dead,
    /// The backend failed, and nothing went to the client.
    Fault(BackendFault),
    /// The client's body failed, and nothing went to the client.
    Client(Failure),
    /// It is over for the client.
    Ended { reusable: bool, after: After },
}

impl Exchanged {
    /// The answer broke off, or the client is gone.
    const RESET: Self = Self::Ended {
        reusable: false,
        after: After::Reset,
    };
}

/// Sends the rest of the body and fetches the answer, at the same time. Nothing follows a head that
/// did not go out `whole`: the backend would take it for part of the head.
async fn exchange<S: ClientStream>(
    connection: &mut Connection<S>,
    request: &mut Request,
    stream: &mut UpstreamStream,
    upload: &mut Upload,
    whole: bool,
) -> Exchanged {
    if whole {
        upload.encoded_is_sent();
    }
    if request.expect_continue && whole && !upload.is_done() {
        request.expect_continue = false;
        if connection.input.is_empty() && !say_continue(connection, request).await {
            return Exchanged::RESET;
        }
    }
    let uploads = whole && !upload.is_done();
    let Connection {
        io,
        input,
        input_ended,
        deadline,
        upload_deadline,
        worker,
        client,
    } = connection;
    let link = Link {
        client: Shared::new(io),
        upstream: Shared::new(stream),
        input: RefCell::new(input),
        input_ended: Cell::new(*input_ended),
        uploaded: Cell::new(upload.is_done()),
        awaited: Cell::new(if uploads {
            Awaited::Client
        } else {
            Awaited::Backend
        }),
        answer_begun: Cell::new(false),
    };
    let mut download = Download {
        link: &link,
        worker,
        request,
        client_info: client,
        deadline,
        trusted: true,
    };
    let ended = {
        let uploading = pin!(async {
            if !uploads {
                return Ok(());
            }
            let timeouts = &request.snapshot.config.timeouts;
            let deadline = upload_deadline.get_or_insert_with(|| worker.deadline());
            let facts = &request.facts;
            upload
                .run(&link, &worker.buffers, timeouts, deadline, facts)
                .await
        });
        let downloading = pin!(download.run());
        both(uploading, downloading).await
    };
    let answer_begun = link.answer_begun.get();
    *input_ended = link.input_ended.get();
    match ended {
        Err(UploadError::ClientGone) => Exchanged::RESET,
        // Too late to say why, but for the log.
        Err(error) if answer_begun => {
            let failure = Failure::from(error);
            request.facts.failure.set(Some((&failure).into()));
            request.facts.ending.set(Some(Ending::Cut));
            Exchanged::RESET
        }
        Err(error) => Exchanged::Client(error.into()),
        Ok(downloaded) => conclude(downloaded, upload.is_done()),
    }
}

fn conclude(downloaded: Downloaded, uploaded: bool) -> Exchanged {
    match downloaded {
        Downloaded::Dead => Exchanged::Dead,
        Downloaded::Fault(fault) => Exchanged::Fault(fault),
        Downloaded::Broken => Exchanged::RESET,
        Downloaded::Complete { reusable, close } => Exchanged::Ended {
            reusable,
            after: match (uploaded, close) {
                (false, _) => After::Linger,
                (true, true) => After::Close,
                (true, false) => After::KeepAlive,
            },
        },
    }
}

/// Tells the client to send its body, now that routing and limits have said yes.
/// `false`: it is gone.
async fn say_continue<S: ClientStream>(connection: &mut Connection<S>, request: &Request) -> bool {
    let text = b"HTTP/1.1 100 Continue\r\n\r\n";
    let limit = request.snapshot.config.timeouts.write;
    let mut message = Outgoing::head(text, text.len(), None);
    connection.send(limit, &mut message).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A POST of which half was at hand, on a new connection.
    const POST: Dead = Dead {
        fault: None,
        reused: false,
        sent: Sent::All,
        idempotent: false,
        complete: false,
        begun: true,
    };

    #[track_caller]
    fn check(dead: Dead, repeatable: bool) {
        assert_eq!(dead.is_repeatable(), repeatable, "{dead:?}");
    }

    #[test]
    fn what_may_have_run_is_not_repeated() {
        let reused = Dead {
            reused: true,
            ..POST
        };
        let get = Dead {
            idempotent: true,
            complete: true,
            begun: false,
            ..reused
        };
        check(get, true);
        check(
            Dead {
                sent: Sent::Some,
                ..get
            },
            true,
        );
        check(
            Dead {
                reused: false,
                ..get
            },
            false,
        );
        // A PUT of which a part is gone.
        check(
            Dead {
                complete: false,
                ..get
            },
            false,
        );
        check(POST, false);
        check(
            Dead {
                complete: true,
                ..reused
            },
            false,
        );
        check(
            Dead {
                sent: Sent::Some,
                ..reused
            },
            false,
        );
        check(
            Dead {
                sent: Sent::Nothing,
                ..reused
            },
            true,
        );
        check(
            Dead {
                sent: Sent::Nothing,
                ..POST
            },
            false,
        );
    }

    #[test]
    fn what_an_http2_backend_has_not_begun_is_repeated_while_it_is_at_hand() {
        let unprocessed = Dead {
            fault: Some(Fault::Unprocessed),
            ..POST
        };
        check(unprocessed, false);
        check(
            Dead {
                complete: true,
                ..unprocessed
            },
            true,
        );
        check(
            Dead {
                begun: false,
                ..unprocessed
            },
            true,
        );
        let malformed = Some(Fault::Malformed);
        check(
            Dead {
                fault: malformed,
                complete: true,
                ..unprocessed
            },
            false,
        );
    }
}
