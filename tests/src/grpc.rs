//! Calls by gRPC, with their frames and trailers by hand, so that a test sees what goes over the wire.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use tokio::runtime::Runtime;

use crate::PATIENCE;

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// The messages that came.
    pub messages: Vec<Vec<u8>>,
    /// `grpc-status`; `None`: the stream goes on.
    pub status: Option<u32>,
    /// `grpc-message`.
    pub said: String,
}

/// A connection in clear.
#[derive(Debug)]
pub struct Grpc {
    runtime: Runtime,
    send: SendRequest<Bytes>,
}

impl Grpc {
    /// Connects to `host:port`.
    ///
    /// # Panics
    /// Where nobody answers there.
    pub fn connect(address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
        let send = runtime.block_on(async {
            let socket =
                tokio::net::TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
            let (send, connection) = h2::client::handshake(socket).await.unwrap_or_else(|error| panic!("{error}"));
            tokio::spawn(connection);
            send
        });
        Self { runtime, send }
    }

    /// Calls a method, as `package.Service/Method`, with one message, and waits for the end, or for so many messages.
    ///
    /// # Panics
    /// Where neither comes within [`PATIENCE`].
    pub fn call(&self, method: &str, message: &[u8], messages: usize) -> Called {
        let within = self.call_within(method, message, messages, PATIENCE);
        within.unwrap_or_else(|| panic!("{method}: no answer within {PATIENCE:?}"))
    }

    /// The same, within so long.
    ///
    /// # Panics
    /// Where the connection breaks.
    pub fn call_within(&self, method: &str, message: &[u8], messages: usize, within: Duration) -> Option<Called> {
        let call = called(self.send.clone(), method, message, messages);
        let called = self.runtime.block_on(async { tokio::time::timeout(within, call).await.ok() })?;
        Some(called.unwrap_or_else(|error| panic!("{method}: {error}")))
    }
}

async fn called(
    mut send: SendRequest<Bytes>,
    method: &str,
    message: &[u8],
    wanted: usize,
) -> Result<Called, h2::Error> {
    let request = Request::post(format!("http://test/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap_or_default();
    std::future::poll_fn(|cx| send.poll_ready(cx)).await?;
    let (answer, mut body) = send.send_request(request, false)?;
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend(message);
    body.send_data(framed.into(), true)?;
    let (head, mut body) = answer.await?.into_parts();
    let mut called = Called { messages: Vec::new(), status: None, said: String::new() };
    let mut read = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        read.extend_from_slice(&data);
        while read.len() >= 5 {
            let length = u32::from_be_bytes([read[1], read[2], read[3], read[4]]) as usize;
            if read.len() < 5 + length {
                break;
            }
            read.advance(5);
            called.messages.push(read.split_to(length).to_vec());
        }
        if called.messages.len() >= wanted && wanted > 0 {
            return Ok(called);
        }
    }
    let trailers = body.trailers().await?.unwrap_or(head.headers);
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    called.status = text("grpc-status").parse().ok();
    called.said = text("grpc-message");
    Ok(called)
}
