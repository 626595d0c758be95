//! A connection to one of a replica's addresses.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Most addresses of a name that are tried for one connection. Unit: addresses.
const MAX_TRIED: usize = 8;
/// How long a connection is silent before the replica's machine is asked whether it is there; what lies between hears
/// that the connection is in use, too.
const PROBE_AFTER: Duration = Duration::from_secs(20);
/// How often the kernel asks.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// How long a machine may answer nothing.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// Connects to the first of the addresses that lets it, all within `within`: each has its share of the time that is left,
/// so that one that says nothing leaves some to the others.
///
/// # Errors
/// What the last one that was tried said.
pub(crate) async fn reach(addresses: &[SocketAddr], within: Duration) -> io::Result<TcpStream> {
    let until = Instant::now() + within;
    let tried = &addresses[..addresses.len().min(MAX_TRIED)];
    let mut failed = io::Error::other("there is no address to connect to");
    for (number, address) in tried.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(tried.len() - number).unwrap_or(u32::MAX);
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {within:?}")),
        }
    }
    Err(failed)
}

/// Sets what a connection to a replica wants of the kernel. A replica whose machine or network is gone says nothing more,
/// not even that it is gone; and who waits for a whole answer may wait long.
///
/// # Errors
/// What the system says.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?; // Nagle against delayed acknowledgements costs 40 ms
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY))?;
    // It holds for what was sent and for the kernel's questions alike (tcp(7)).
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(GONE_AFTER))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// An address where nobody answers, not even with a refusal: a backlog that is full.
    async fn silent() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut taken = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            taken.push(stream);
        }
        (listener, taken, address)
    }

    #[tokio::test]
    async fn a_machine_that_is_gone_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(
            (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap()),
            (PROBE_AFTER, PROBE_EVERY)
        );
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(GONE_AFTER));
    }

    #[tokio::test]
    async fn the_next_address_is_tried_where_one_refuses_or_says_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let refused = {
            let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
            closed.local_addr().unwrap()
        };
        let (_listener, _taken, silent) = silent().await;
        let no_way = "[2001:db8::1]:1".parse().unwrap();
        let within = Duration::from_secs(6);
        for first in [vec![], vec![refused], vec![silent], vec![no_way, refused, silent]] {
            let addresses = [first, vec![good]].concat();
            assert_eq!(reach(&addresses, within).await.unwrap().peer_addr().unwrap(), good, "{addresses:?}");
        }
        assert_eq!(reach(&[refused], within).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let error = reach(&[silent], Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(reach(&[], within).await.is_err());
        let beyond = [vec![refused; MAX_TRIED], vec![good]].concat();
        assert!(reach(&beyond, within).await.is_err(), "there is a most");
    }
}
