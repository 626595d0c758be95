//! One connection: HTTP by hyper, and the endings that no HTTP library can be asked for.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{End, Replica, handler};

/// The bytes that a fault wants written by hand before the connection closes.
pub(super) type RawEnding = Rc<Cell<Option<&'static [u8]>>>;

/// Serves a connection to its end, or until the replica ends.
pub(super) async fn serve(replica: &Rc<Replica>, stream: TcpStream, mut ended: watch::Receiver<Option<End>>) {
    // Nagle with delayed acknowledgements is the 40 ms tail of many a server.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let number = replica.records.connections.fetch_add(1, Relaxed);
    let ending = RawEnding::default();
    let service = service_fn(|request| Box::pin(handler::answer(replica.clone(), ending.clone(), number, request)));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let (result, end) = tokio::select! {
        result = poll_fn(|cx| connection.poll_without_shutdown(cx)) => (result, End::Close),
        end = ended.wait_for(Option::is_some) => (Ok(()), end.ok().and_then(|e| *e).unwrap_or(End::Close)),
    };
    if result.is_err_and(|error| error.is_parse()) {
        replica.records.malformed.fetch_add(1, Relaxed);
    }
    let mut stream = connection.into_parts().io.into_inner();
    if let Some(bytes) = ending.take() {
        // The client may have gone by now; there is nobody to tell.
        let _ = stream.write_all(bytes).await;
    }
    match end {
        End::Close => {
            let _ = stream.shutdown().await;
        }
        End::Reset => {
            let _ = stream.set_zero_linger();
        }
    }
}
