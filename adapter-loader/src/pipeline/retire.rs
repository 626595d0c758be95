//! Names go from the engine that no model wants and no gateway has a lease on any more. The artefact stays for as long as
//! there is room: it may be wanted again.

use std::sync::Arc;
use std::time::Instant;

use tutti_api::EngineName;

use super::{Failure, Tools, seconds};
use crate::fault::{Point, point};
use crate::store::Record;

/// What a retirement came to.
#[derive(Debug)]
pub(crate) struct Retired {
    /// What is known of the path now.
    pub(crate) record: Record,
    /// The names that have gone.
    pub(crate) gone: Vec<EngineName>,
}

/// Takes names from the engine, and then out of the record. One that a gateway has asked for since it was decided stays: a
/// model that is being made, which may take long, is waited for in between.
pub(crate) async fn step(tools: Arc<Tools>, mut record: Record, names: Vec<EngineName>) -> Result<Retired, Failure> {
    point(Point::RetireBefore);
    let mut gone = Vec::new();
    for name in names {
        tools.engine.delete(&tools.engine.staging().name(&name)).await?;
        if tools.engine.delete_if(&name, || tools.board.let_go(&name, Instant::now())).await? {
            point(Point::RetireAfterDelete);
            gone.push(name);
        } else {
            tracing::info!(path = %record.path, %name, "it was to go, and stays: a gateway has asked for it");
        }
    }
    let is_gone = |name: &EngineName| gone.contains(name);
    record.leaving.retain(|name| !is_gone(name));
    if let Some(served) = record.served.take_if(|served| is_gone(&served.engine_name)) {
        let kept = crate::store::Made { proven: None, ..served };
        record.candidate = record.candidate.or(Some(kept).filter(|made| made.on_disk));
        record.used = seconds();
    }
    tools.store.keep(&record)?;
    point(Point::RetireAfterRecord);
    tracing::info!(path = %record.path, names = ?gone, "retired");
    Ok(Retired { record, gone })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tutti_api::{Leases, ReplicaUrl};

    use super::*;
    use crate::board::Board;
    use crate::engine::Ollama;
    use crate::store::Store;

    /// An engine that does whatever it is asked to; and what that was.
    async fn engine() -> (ReplicaUrl, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a URL");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (mut request, mut chunk) = (Vec::<u8>::new(), [0_u8; 4096]);
                // Its bodies are one object, and nothing else in a request ends so.
                while !request.ends_with(b"}") {
                    match socket.read(&mut chunk).await {
                        Ok(read) if read > 0 => request.extend_from_slice(&chunk[..read]),
                        _ => break,
                    }
                }
                seen.lock().expect("a lock").push(String::from_utf8_lossy(&request).into_owned());
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
        (url, asked)
    }

    #[tokio::test]
    async fn a_name_that_a_gateway_asks_for_while_others_are_made_stays() {
        let (url, asked) = engine().await;
        let folder = tempfile::tempdir().unwrap();
        let (rooms, _room) = mpsc::channel(1);
        let board = Arc::new(Board::new(Instant::now()));
        let store = Store::open(folder.path()).unwrap();
        let tools = Arc::new(Tools::new(store, board.clone(), Ollama::new(&url, "p"), rooms));
        let names: [EngineName; 2] = ["risk:v1-aaaaaaaaaaaa", "risk:v1-bbbbbbbbbbbb"].map(|name| name.parse().unwrap());
        let [asked_for, other] = names.clone();
        let mut record = Record::new("risk/v1".parse().unwrap());
        record.leaving = names.to_vec();

        let right = tools.engine.making().await;
        let retires = tokio::spawn(step(tools.clone(), record, names.to_vec()));
        tokio::task::yield_now().await;
        let lease = Leases { holder: "g".to_owned(), names: vec![asked_for.clone()], ttl_ms: 60_000 };
        board.lease(lease, Instant::now()).unwrap();
        drop(right);

        let Retired { record, gone } = retires.await.unwrap().unwrap();
        assert_eq!((gone, record.leaving), (vec![other.clone()], vec![asked_for.clone()]));
        let asked = asked.lock().unwrap();
        let deleted =
            |name: &EngineName| asked.iter().any(|asked| asked.contains(&format!("{{\"model\":\"{name}\"}}")));
        assert!(deleted(&other) && !deleted(&asked_for), "{asked:?}");
        // What has gone is going no more.
        let lease = Leases { holder: "g".to_owned(), names: vec![other], ttl_ms: 60_000 };
        board.lease(lease, Instant::now()).unwrap();
    }
}
