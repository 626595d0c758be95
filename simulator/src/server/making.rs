//! The endpoints that make models, where the replica has a disk to keep them on.

use bytes::Bytes;
use http::{Method, Response};

use super::Replica;
use super::answer::Answer;
use super::handler::{CREATE, reply, wrong_method};
use crate::faults::Fault;
use crate::records::Entry;
use crate::store::Created;
use crate::wire::Reply;

/// Answers where the path is one of these; else the entry comes back.
pub(super) async fn answer(
    replica: &Replica,
    entry: Entry,
    head: &http::request::Parts,
    body: &Bytes,
    fault: Option<Fault>,
) -> Result<Response<Answer>, Entry> {
    let Some(store) = &replica.store else { return Err(entry) };
    let path = head.uri.path();
    if let Some(digest) = path.strip_prefix("/api/blobs/") {
        let body = match head.method {
            Method::HEAD => None,
            Method::POST => Some(&body[..]),
            _ => return Ok(wrong_method(entry, "HEAD, POST")),
        };
        return Ok(reply(entry, store.blob(digest, body), fault));
    }
    Ok(match (path, &head.method) {
        (CREATE, &Method::POST) => {
            let found = create(replica, body, fault).await;
            reply(entry, found, fault)
        }
        ("/api/copy", &Method::POST) => reply(entry, store.copy(body), fault),
        ("/api/delete", &Method::DELETE) => reply(entry, store.delete(body), fault),
        (CREATE | "/api/copy", _) => wrong_method(entry, "POST"),
        ("/api/delete", _) => wrong_method(entry, "DELETE"),
        _ => return Err(entry),
    })
}

async fn create(replica: &Replica, body: &Bytes, fault: Option<Fault>) -> Reply {
    let Some(store) = replica.store.clone() else { return Reply::text(404, "404 page not found") };
    let asked = match store.asked(body) {
        Ok(asked) => asked,
        Err(refusal) => return refusal,
    };
    let streams = asked.streams();
    let work = async move {
        if let Some(Fault::SlowFirstByte(wait)) = fault {
            tokio::time::sleep(wait).await;
        }
        match fault {
            Some(Fault::RunnerDied) => Created::failed("write: no space left on device"),
            _ => store.create(&asked),
        }
    };
    let created = if replica.config.takes_adapters {
        // Whoever has asked may have gone.
        tokio::task::spawn_local(work).await.unwrap_or_else(|_| Created::failed("it broke off"))
    } else {
        work.await
    };
    created.reply(streams)
}
