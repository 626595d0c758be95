//! A DNS server that says what a test wants, on loopback, by UDP and TCP.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinEncodable};

/// Largest answer by UDP; a longer one is cut off, and asked for again by TCP. Unit: bytes.
const MAX_DATAGRAM: usize = 1232;
/// How soon it notices that it shall end.
const LOOK: Duration = Duration::from_millis(50);

/// What is said of a name.
#[derive(Clone, Debug)]
pub enum Says {
    /// It has these addresses, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// The same, and not a word where it is asked for the other family: some networks drop such questions.
    OnlyV4(Vec<Ipv4Addr>, u32),
    /// There is such a name, without addresses, for so many seconds.
    Nothing(u32),
    /// There is no such name: NXDOMAIN.
    NoSuchName,
    /// Nobody can tell: SERVFAIL.
    Fails,
    /// Not a word.
    Silence,
    /// Bytes that are no DNS.
    Garbage,
}

/// What a test has it say, and what it was asked.
#[derive(Debug, Default)]
struct Zone {
    names: HashMap<String, Says>,
    asked: Vec<String>,
}

/// A running DNS server. Dropping it ends it.
#[derive(Debug)]
pub struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Dns {
    /// Starts one, on a free port, that knows no name.
    ///
    /// # Panics
    /// Where no port is free for both UDP and TCP.
    pub fn start() -> Self {
        let both = || {
            let tcp = TcpListener::bind("127.0.0.1:0")?;
            let udp = UdpSocket::bind(tcp.local_addr()?)?;
            udp.set_read_timeout(Some(LOOK))?;
            tcp.set_nonblocking(true)?;
            Ok::<_, io::Error>((tcp, udp))
        };
        let (tcp, udp) = (0..20).find_map(|_| both().ok()).unwrap_or_else(|| panic!("no port for a DNS server"));
        let address = udp.local_addr().unwrap_or_else(|error| panic!("a DNS server without an address: {error}"));
        let (zone, end) = (Arc::<Mutex<Zone>>::default(), Arc::<AtomicBool>::default());
        let threads = vec![
            std::thread::spawn({
                let (zone, end) = (zone.clone(), end.clone());
                move || datagrams(&udp, &zone, &end)
            }),
            std::thread::spawn({
                let (zone, end) = (zone.clone(), end.clone());
                move || connections(&tcp, &zone, &end)
            }),
        ];
        Self { address, zone, end, threads }
    }

    /// Where it is, as `gateway.nameservers` takes it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it says this of a name.
    pub fn set(&self, name: &str, says: Says) {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner).names.insert(format!("{name}."), says);
    }

    /// The same for addresses, for a second.
    pub fn set_addresses(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().filter_map(|address| address.parse().ok()).collect();
        self.set(name, Says::Addresses(addresses, 1));
    }

    /// How often it was asked for a name, A and AAAA together.
    pub fn asked(&self, name: &str) -> usize {
        let zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        zone.asked.iter().filter(|asked| **asked == format!("{name}.")).count()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn datagrams(socket: &UdpSocket, zone: &Mutex<Zone>, end: &AtomicBool) {
    let mut question = [0; 512];
    while !end.load(Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
        let Some(mut answer) = answer(&question[..length], zone) else { continue };
        if answer.len() > MAX_DATAGRAM {
            answer = cut(&question[..length]);
        }
        let _ = socket.send_to(&answer, from);
    }
}

fn connections(listener: &TcpListener, zone: &Mutex<Zone>, end: &AtomicBool) {
    while !end.load(Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => _ = connection(stream, zone),
            Err(_) => std::thread::sleep(LOOK), // nobody there: std can wait for one no other way with an end
        }
    }
}

/// Answers what comes until the client has no more to ask for a while.
fn connection(mut stream: TcpStream, zone: &Mutex<Zone>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK * 4))?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question)?;
        if let Some(answer) = answer(&question, zone) {
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())?;
        }
    }
}

/// The bytes to answer with; `None`: not a word.
fn answer(question: &[u8], zone: &Mutex<Zone>) -> Option<Vec<u8>> {
    let asked = Message::from_bytes(question).ok()?;
    let query = asked.queries.first()?.clone();
    let name = query.name().to_ascii().to_ascii_lowercase();
    let says = {
        let mut zone = zone.lock().unwrap_or_else(PoisonError::into_inner);
        zone.asked.push(name.clone());
        zone.names.get(&name).cloned().unwrap_or(Says::NoSuchName)
    };
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    message.add_query(query.clone());
    let nothing = |message: &mut Message, ttl| {
        let zone = Name::from_ascii("test.").unwrap_or_default();
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, ttl);
        message.add_authority(Record::from_rdata(zone, ttl, RData::SOA(soa)));
    };
    let says = match says {
        Says::OnlyV4(..) if query.query_type() != RecordType::A => Says::Silence,
        Says::OnlyV4(addresses, ttl) => Says::Addresses(addresses.into_iter().map(IpAddr::V4).collect(), ttl),
        says => says,
    };
    match says {
        Says::OnlyV4(..) | Says::Silence => return None,
        Says::Garbage => return Some([&question[..2], b"\xff\xffthis is no DNS"].concat()),
        Says::Fails => message.metadata.response_code = ResponseCode::ServFail,
        Says::NoSuchName => {
            message.metadata.response_code = ResponseCode::NXDomain;
            nothing(&mut message, 1);
        }
        Says::Nothing(ttl) => nothing(&mut message, ttl),
        Says::Addresses(addresses, ttl) => {
            let of_type = addresses.into_iter().filter_map(|ip| match (ip, query.query_type()) {
                (IpAddr::V4(ip), RecordType::A) => Some(RData::A(A(ip))),
                (IpAddr::V6(ip), RecordType::AAAA) => Some(RData::AAAA(AAAA(ip))),
                _ => None,
            });
            let records: Vec<Record> =
                of_type.map(|data| Record::from_rdata(query.name().clone(), ttl, data)).collect();
            if records.is_empty() {
                nothing(&mut message, ttl);
            }
            message.add_answers(records);
        }
    }
    message.to_bytes().ok()
}

/// An answer that says that it is cut off.
fn cut(question: &[u8]) -> Vec<u8> {
    let asked = Message::from_bytes(question).unwrap_or_else(|_| Message::query());
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    message.metadata.truncation = true;
    message.add_queries(asked.queries.iter().cloned());
    message.to_bytes().unwrap_or_default()
}
