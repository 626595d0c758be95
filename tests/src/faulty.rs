//! A way to a server that does what networks and servers do on bad days. It takes one request a connection, so that each is
//! seen and can be treated by itself.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest head of a request. Unit: bytes.
const MAX_HEAD: usize = 64 << 10;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is passed on, and the answer back.
    Pass,
    /// The connection is closed.
    Close,
    /// Nothing is said, for ever.
    Silence,
    /// It is answered with this status and this S3 error.
    Answer(u16, &'static str),
    /// The answer is cut after so many bytes, its head among them.
    Cut(usize),
    /// The answer stops after so many bytes, and the connection stays.
    Stall(usize),
    /// The answer comes at so many bytes a second.
    Slow(u64),
    /// The byte at this place of the answer is another.
    Flip(usize),
}

/// Decides, by the request's line and how many came before it.
type Decide = Box<dyn FnMut(&str, usize) -> Fault + Send>;

/// The way. Dropping it closes it.
pub struct Faulty {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: SocketAddr,
    seen: Mutex<Vec<String>>,
    decide: Mutex<Decide>,
    closed: AtomicBool,
}

impl Faulty {
    /// A way to a server at this port of this machine, without faults yet.
    ///
    /// # Panics
    /// Where it cannot listen.
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("no way: {error}"));
        let addr = listener.local_addr().unwrap_or_else(|error| panic!("no way: {error}"));
        let shared = Arc::new(Shared {
            to: SocketAddr::from(([127, 0, 0, 1], port)),
            seen: Mutex::default(),
            decide: Mutex::new(Box::new(|_, _| Fault::Pass)),
            closed: AtomicBool::new(false),
        });
        let each = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if each.closed.load(Ordering::Relaxed) {
                    return;
                }
                let shared = each.clone();
                std::thread::spawn(move || drop(one(client, &shared)));
            }
        });
        Self { addr, shared }
    }

    /// Where it is reached.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Has every request from now on treated so. The count begins anew.
    pub fn set(&self, decide: impl FnMut(&str, usize) -> Fault + Send + 'static) {
        *lock(&self.shared.decide) = Box::new(decide);
        lock(&self.shared.seen).clear();
    }

    /// The lines of the requests since the last [`Self::set`].
    pub fn seen(&self) -> Vec<String> {
        lock(&self.shared.seen).clone()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn one(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let (head, body) = head(&mut client)?;
    let line = head.split("\r\n").next().unwrap_or_default().to_owned();
    let fault = {
        // Counted before the decision, so that one that waits does not hide that it came.
        let count = {
            let mut seen = lock(&shared.seen);
            seen.push(line.clone());
            seen.len() - 1
        };
        (lock(&shared.decide))(&line, count)
    };
    match fault {
        Fault::Close => return Ok(()),
        Fault::Silence => return wait(&mut client),
        Fault::Answer(status, code) => {
            let body = format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>secret-of-the-store</Message></Error>"
            );
            let answer = format!(
                "HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            return client.write_all(answer.as_bytes());
        }
        _ => {}
    }
    let mut server = TcpStream::connect(shared.to)?;
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes())?;
    server.write_all(&body)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let passed = pass(&mut server, &mut client, &fault);
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    passed
}

/// A request's head with the empty line behind it, and what of its body came with it.
fn head(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let read = client.read(&mut chunk)?;
        if read == 0 || bytes.len() > MAX_HEAD {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..read]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
    }
}

fn pass(server: &mut TcpStream, client: &mut TcpStream, fault: &Fault) -> io::Result<()> {
    let (mut chunk, mut passed, begun) = (vec![0; 64 << 10], 0, Instant::now());
    loop {
        let read = server.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        let bytes = &mut chunk[..read];
        match *fault {
            Fault::Cut(after) if passed + read >= after => return client.write_all(&bytes[..after - passed]),
            Fault::Stall(after) if passed + read >= after => {
                client.write_all(&bytes[..after - passed])?;
                return wait(client);
            }
            Fault::Flip(at) if (passed..passed + read).contains(&at) => bytes[at - passed] ^= 1,
            Fault::Slow(rate) => {
                let due = Duration::from_secs_f64((passed + read) as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(begun.elapsed())); // that is the fault
            }
            _ => {}
        }
        client.write_all(bytes)?;
        passed += read;
    }
}

/// Waits until the client has gone.
fn wait(client: &mut TcpStream) -> io::Result<()> {
    let mut nothing = [0; 1024];
    while client.read(&mut nothing)? > 0 {}
    Ok(())
}
