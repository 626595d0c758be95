//! A replica that closes its idle connections just when they are to be used again.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tutti_tests::Tutti;

/// How long the replica keeps a connection idle.
const IDLE: Duration = Duration::from_millis(20);
const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false}"#;

/// Answers requests until one is late, and closes then.
fn serve(mut stream: TcpStream, posts: &AtomicUsize) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let list = r#"{"version":"0","models":[{"name":"m"}],"done":true}"#;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{list}", list.len());
    let mut bytes = [0; 65536];
    while let read @ 1.. = stream.read(&mut bytes)? {
        posts.fetch_add(usize::from(bytes[..read].starts_with(b"POST")), Relaxed);
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

#[test]
fn what_meets_a_closing_connection_is_answered_or_refused_and_never_sent_twice() {
    const REQUESTS: u64 = 300;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (posts, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (posts.clone(), connections.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let posts = counted.0.clone();
            counted.1.fetch_add(1, Relaxed);
            std::thread::spawn(move || serve(stream, &posts));
        }
    });
    let tutti = Tutti::start_with(
        &["gateway", "--config", "tutti.yaml", "--cores", "1"],
        &tutti_tests::pool(&[url], "expose: all"),
        &[],
    );
    let mut client = tutti.client();
    let mut failed: usize = 0;
    for number in 0..REQUESTS {
        let answer = client.ask("POST", "/api/chat", &[], CHAT);
        assert!(matches!(answer.status, 200 | 502), "{}", answer.text());
        failed += usize::from(answer.status != 200);
        // From before the connection is closed to after that: the clock that closes it ticks every 4 ms.
        std::thread::sleep(IDLE - Duration::from_millis(1) + Duration::from_micros(6_000 * number / REQUESTS));
    }
    let (posts, connections) = (posts.load(Relaxed), connections.load(Relaxed));
    println!("{failed} of {REQUESTS} failed, {posts} arrived, over {connections} connections");
    assert!(connections > 20, "{connections}: they are not closed in time to be any test");
    assert!(posts <= 300 && posts + failed >= 300, "{posts} arrived, {failed} failed");
    assert!(failed <= 30, "{failed} of {REQUESTS} failed");
}
