//! A bucket that can be listed and nothing else, of as many keys as a test wants. A real MinIO keeps each object as a file in a
//! folder of its own, and 100,000 of them take many minutes: what is looked at here is how lists are walked, and who walks this
//! one walks a real one of fewer keys in the same test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use percent_encoding::percent_decode_str;

/// Largest head of a request. Unit: bytes.
const MAX_HEAD: usize = 16 << 10;
/// Keys of a page: S3's own bound.
const PAGE: usize = 1000;

/// The bucket. It can be listed for as long as the process runs.
#[derive(Debug)]
pub struct Lister {
    addr: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Lister {
    /// One with these keys.
    ///
    /// # Panics
    /// Where it cannot listen.
    pub fn of(mut keys: Vec<String>) -> Self {
        keys.sort_unstable();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("no port: {error}"));
        let addr = listener.local_addr().unwrap_or_else(|error| panic!("no port: {error}"));
        let asked = Arc::<AtomicUsize>::default();
        let count = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = answer(stream, &keys);
            }
        });
        Self { addr, asked }
    }

    /// Where it is reached.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// How many pages were asked for since this was last called.
    pub fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

fn answer(mut stream: TcpStream, keys: &[String]) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") && head.len() < MAX_HEAD {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            read => head.extend_from_slice(&chunk[..read]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let query = head.split(' ').nth(1).and_then(|path| path.split_once('?')).map_or("", |(_, query)| query);
    let word = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.replace('+', " ")).next();
        percent_decode_str(&value.unwrap_or_default()).decode_utf8_lossy().into_owned()
    };
    let (prefix, after) = (word("prefix"), word("start-after"));
    let most = word("max-keys").parse().unwrap_or(PAGE).min(PAGE);
    let from = keys.partition_point(|key| *key <= after || *key < prefix);
    let page: Vec<&String> = keys[from..].iter().take_while(|key| key.starts_with(&prefix)).take(most + 1).collect();
    let contents: String = page.iter().take(most).map(|key| {
        format!("<Contents><Key>{key}</Key><ETag>&#34;d41d8cd98f00b204e9800998ecf8427e&#34;</ETag><Size>0</Size></Contents>")
    }).collect();
    let page = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <MaxKeys>{most}</MaxKeys><EncodingType>url</EncodingType><IsTruncated>{}</IsTruncated>{contents}</ListBucketResult>",
        page.len() > most
    );
    let length = page.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{page}"
    )
}
