//! The listener for gRPC: HTTP/2 without TLS and without asking, one small message for each request, then the trailers that
//! say that all is well. It reads a request to its end and looks at none of it.

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, server};
use http::{HeaderMap, HeaderValue, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::Origin;

/// Not compressed, 11 bytes.
const MESSAGE: &[u8] = b"\0\0\0\0\x0bhow are you";
/// What a proxy may have in flight on one connection.
const STREAMS: u32 = 1000;
const WINDOW_BYTES: u32 = 1 << 20;

pub(crate) async fn accept(listener: TcpListener, origin: Rc<Origin>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        origin.connections.set(origin.connections.get() + 1);
        let origin = Rc::clone(&origin);
        // Whoever measures counts errors at the client.
        spawn_local(async move {
            let _ = connection(stream, &origin).await;
        });
    }
}

async fn connection(stream: TcpStream, origin: &Rc<Origin>) -> Result<(), h2::Error> {
    let mut connection = server::Builder::new()
        .max_concurrent_streams(STREAMS)
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake::<_, Bytes>(stream)
        .await?;
    while let Some(accepted) = connection.accept().await {
        let (request, response) = accepted?;
        let origin = Rc::clone(origin);
        spawn_local(async move {
            let _ = answer(request.into_body(), response, &origin).await;
        });
    }
    Ok(())
}

async fn answer(
    mut body: RecvStream,
    mut response: SendResponse<Bytes>,
    origin: &Origin,
) -> Result<(), h2::Error> {
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    origin.requests.set(origin.requests.get() + 1);
    let mut head = Response::new(());
    head.headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream = response.send_response(head, false)?;
    stream.send_data(Bytes::from_static(MESSAGE), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}
