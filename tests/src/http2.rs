//! A client of HTTP/2, in clear, with one connection.

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response};
use tokio::runtime::{Builder, Runtime};

use crate::{PATIENCE, eventually};

/// A client with one connection. Where something cannot be done that a test counts on, it panics.
#[derive(Debug)]
pub struct Http2 {
    /// Waits for what the connection brings.
    pub runtime: Runtime,
    /// Sends requests.
    pub sender: SendRequest<Bytes>,
    /// What requests name as their authority.
    pub authority: String,
    /// The thread that drives the connection to its end.
    ended: std::thread::JoinHandle<()>,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

impl Http2 {
    /// Connects to `host:port`.
    ///
    /// # Panics
    /// Where nobody speaks HTTP/2 there.
    pub fn connect(address: &str) -> Self {
        let (driver, authority) = (runtime(), address.to_owned());
        let (sender, connection) = driver.block_on(async {
            let stream = tokio::net::TcpStream::connect(&authority).await.expect("a connection");
            stream.set_nodelay(true).expect("set");
            // Room on the connection beside streams that are not read.
            let mut builder = h2::client::Builder::new();
            builder.data_frame_budget(usize::MAX >> 1).initial_connection_window_size(1 << 20);
            builder.handshake(stream).await.expect("HTTP/2")
        });
        let ended = std::thread::spawn(move || drop(driver.block_on(connection)));
        Self { runtime: runtime(), sender, authority, ended }
    }

    /// Sends a request with these headers and this body.
    ///
    /// # Panics
    /// Where the connection does not take it.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.authority));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sender = self.sender.clone();
        self.sender = self.runtime.block_on(sender.ready()).expect("the connection stands");
        let request = request.body(()).expect("a request");
        let (answer, mut stream) = self.sender.send_request(request, body.is_empty()).expect("sent");
        if !body.is_empty() {
            // An answer that does not need the body can be there first, and closes the stream (RFC 9113, 8.1).
            let _ = stream.send_data(Bytes::from(body.to_owned()), true);
        }
        (answer, stream)
    }

    /// Waits for the head of an answer.
    ///
    /// # Panics
    /// Where there is none.
    pub fn head(&self, answer: ResponseFuture) -> Response<h2::RecvStream> {
        let head = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
        head.expect("in time").expect("an answer")
    }

    /// Asks and reads the whole answer.
    ///
    /// # Panics
    /// Where there is none.
    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, HeaderMap, String) {
        let (answer, _stream) = self.send(method, path, headers, body);
        let (head, body) = self.head(answer).into_parts();
        (head.status.as_u16(), head.headers, self.rest(body).expect("a whole body"))
    }

    /// Reads a body to its end.
    ///
    /// # Errors
    /// Why it broke off.
    pub fn rest(&self, mut body: h2::RecvStream) -> Result<String, h2::Error> {
        self.runtime.block_on(async {
            let mut all = Vec::new();
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                all.extend_from_slice(&data);
            }
            Ok(String::from_utf8_lossy(&all).into_owned())
        })
    }

    /// Waits until the connection has ended.
    ///
    /// # Panics
    /// Where it does not.
    pub fn ends(self) {
        eventually("the end of the connection", || self.ended.is_finished().then_some(()));
    }
}
