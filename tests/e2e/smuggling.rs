//! Requests made to be read one way here and another way there: what reached the replica is what counts.

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use tutti_simulator::{Fault, Scope};
use tutti_tests::{Tutti, inference, simulator};

const CHAT: &str = r#"{"model":"m","messages":[],"stream":false}"#;
const HIDDEN: &str = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-Hidden: 1\r\nContent-Length: 2\r\n\r\n{}";

/// Each: header lines, and the bytes after the head.
fn attacks() -> Vec<(String, String)> {
    let length = CHAT.len();
    let chunked = format!("{length:x}\r\n{CHAT}\r\n0\r\n\r\n{HIDDEN}");
    let whole = format!("{CHAT}{HIDDEN}");
    [
        // Two readings of where the body ends (RFC 9112, 6.3).
        (format!("Content-Length: {length}\r\nContent-Length: {}\r\n", length + HIDDEN.len()), &whole),
        (format!("Content-Length: {length}, {}\r\n", length + 1), &whole),
        (format!("Content-Length: +{length}\r\n"), &whole),
        (format!("Content-Length: 0x{length:x}\r\n"), &whole),
        (format!("Content-Length: -{length}\r\n"), &whole),
        ("Content-Length: 99999999999999999999\r\n".to_owned(), &whole),
        // Codings that one side does not know (RFC 9112, 6.1).
        ("Transfer-Encoding: xchunked\r\n".to_owned(), &chunked),
        ("Transfer-Encoding: chunked, identity\r\n".to_owned(), &chunked),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(), &chunked),
        ("Transfer-Encoding : chunked\r\n".to_owned(), &chunked),
        // A line folded onto the next (RFC 9112, 5.2).
        (format!("X-A: 1\r\n Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"), &whole),
        (format!("X-A: 1\r\n\tX-B: 2\r\nContent-Length: {length}\r\n"), &whole),
        // Bytes that end a line for some.
        (format!("X-A: 1\rX-Hidden: 2\r\nContent-Length: {length}\r\n"), &whole),
        (format!("X-A: 1\0\r\nContent-Length: {length}\r\n"), &whole),
        (format!("Host: other\r\nContent-Length: {length}\r\n"), &whole),
    ]
    .into_iter()
    .map(|(lines, body)| (lines, body.clone()))
    .collect()
}

#[test]
fn no_request_hides_in_another() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    for (lines, body) in attacks() {
        let before = inference(&replica.seen()).len();
        let mut client = tutti.client();
        let request = format!("POST /api/chat HTTP/1.1\r\nHost: {}\r\n{lines}\r\n{body}", tutti.listen());
        let _ = client.send_raw(request.as_bytes()); // it may be cut off in the middle
        let answer = client.answer();
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        assert!(status == 0 || (400..500).contains(&status), "{lines:?}: {answer:?}");
        assert_eq!(inference(&replica.seen()).len(), before, "{lines:?} reached the replica");
    }
    assert_eq!(replica.malformed(), 0);
}

/// RFC 9112, 6.3: the coding says where the body ends, and nothing after it on this connection is read.
#[test]
fn with_both_length_headers_the_coding_counts_and_the_connection_ends() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    for length in [CHAT.len(), CHAT.len() + 200, 5] {
        for swapped in [false, true] {
            let mut lines = [format!("Content-Length: {length}\r\n"), "Transfer-Encoding: chunked\r\n".to_owned()];
            if swapped {
                lines.swap(0, 1);
            }
            let before = inference(&replica.seen()).len();
            let mut client = tutti.client();
            let body = format!("{:x}\r\n{CHAT}\r\n0\r\n\r\n{HIDDEN}", CHAT.len());
            let head = format!("POST /api/chat HTTP/1.1\r\nHost: {}\r\n{}\r\n", tutti.listen(), lines.concat());
            client.send_raw(format!("{head}{body}").as_bytes()).unwrap();
            assert_eq!(client.answer().unwrap().status, 200);
            assert!(client.answer().is_err(), "{lines:?}: a second answer");
            let seen = inference(&replica.seen()).split_off(before);
            assert_eq!((seen.len(), &*seen[0].body), (1, CHAT.as_bytes()), "{lines:?}");
            assert_eq!(seen[0].header("content-length").count() + seen[0].header("transfer-encoding").count(), 1);
        }
    }
}

#[test]
fn what_follows_a_body_is_a_request_of_its_own() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let mut client = tutti.client();
    let head = format!("POST /api/chat HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", tutti.listen(), CHAT.len());
    client.send_raw(format!("{head}{CHAT}{HIDDEN}").as_bytes()).unwrap();
    assert_eq!(client.answer().unwrap().status, 200);
    assert_eq!(client.answer().unwrap().status, 400, "the second names no model");
    let seen = inference(&replica.seen());
    assert_eq!((seen.len(), &*seen[0].body), (1, CHAT.as_bytes()));
    // The replica's framing is the gateway's own.
    assert_eq!(seen[0].header("content-length").count() + seen[0].header("transfer-encoding").count(), 1);
}

#[test]
fn random_bytes_hurt_nobody() {
    let replica = simulator();
    replica.set_fault(Some((Fault::CloseBeforeHeader, Scope::Inference)));
    let tutti = Tutti::before(&[replica.url()]);
    let mut runner = TestRunner::new(Cases { cases: 200, failure_persistence: None, ..Cases::default() });
    let host = tutti.listen();
    let good = format!("POST /api/chat HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{CHAT}", CHAT.len());
    let cut = (0..good.len(), proptest::collection::vec(any::<u8>(), 0..64));
    runner
        .run(&cut, |(at, junk)| {
            let mut client = tutti.client();
            let bytes = [&good.as_bytes()[..at], &junk].concat();
            let _ = client.send_raw(&bytes);
            Ok(())
        })
        .unwrap();
    replica.set_fault(None);
    assert_eq!(tutti.ask("POST", "/api/chat", CHAT).status, 200);
    for seen in inference(&replica.seen()) {
        assert!(serde_json::from_slice::<serde_json::Value>(&seen.body).is_ok(), "{:?}", seen.body);
    }
    assert_eq!(replica.malformed(), 0);
}
