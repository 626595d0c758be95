//! A request handed to the gateway that schedules its pool.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, StatusCode};
use http_body::{Body, Frame as BodyFrame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::frames::{Declined, Decoder, Frame, MAX_DATA};
use super::line::connected;
use super::{Outcome, Peers, Reach};
use crate::classify::Api;
use crate::errors::{Code, Failure};
use crate::schedule::Ticket;

/// Headers of a request between gateways. No client and no replica sees them, so the table of headers is silent on them.
pub(super) mod header {
    use http::header::HeaderName;

    const fn own(name: &'static str) -> HeaderName {
        HeaderName::from_static(name)
    }

    pub(in crate::peer) const API: HeaderName = own("tutti-api");
    pub(in crate::peer) const MODEL: HeaderName = own("tutti-model");
    pub(in crate::peer) const POOL: HeaderName = own("tutti-pool");
    pub(in crate::peer) const PRIORITY: HeaderName = own("tutti-priority");
    /// Who asks, by number, and for how many tokens of its share.
    pub(in crate::peer) const TENANT: HeaderName = own("tutti-tenant");
    pub(in crate::peer) const COST: HeaderName = own("tutti-cost");
    /// What it has in common with others, if anything.
    pub(in crate::peer) const SESSION: HeaderName = own("tutti-session");
    /// After how long its answer is of no use, if it said so. Unit: milliseconds.
    pub(in crate::peer) const DEADLINE: HeaderName = own("tutti-deadline-ms");
    /// Its lot among its model's revisions, if it has drawn one; the revision that it has been put together for; and the one
    /// that it names.
    pub(in crate::peer) const LOT: HeaderName = own("tutti-lot");
    pub(in crate::peer) const PREFERS: HeaderName = own("tutti-prefers");
    pub(in crate::peer) const REVISION: HeaderName = own("tutti-revision");
    /// How long it may wait. Unit: milliseconds.
    pub(in crate::peer) const LEFT: HeaderName = own("tutti-left-ms");
    /// The gateways that it has been at, beside the one that holds the client.
    pub(in crate::peer) const HOPS: HeaderName = own("tutti-hops");
    pub(in crate::peer) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
}

/// Where requests are handed over. It changes with whatever another version could misunderstand.
pub(super) const PATH: &str = "/1/forward";
/// HTTP/2 wants an authority; peers look at none.
const URI: &str = "https://peer/1/forward";
/// Where copies of requests are handed over that nobody waits for.
pub(super) const MIRROR: &str = "/1/mirror";
const MIRROR_URI: &str = "https://peer/1/mirror";
/// What is answered to who has handed one over that is for here.
pub(super) const TAKEN: Bytes = Bytes::from_static(b"taken");

/// What is asked of another gateway.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) api: Api,
    /// The name that the client used.
    pub(crate) model: &'a str,
    pub(crate) pool: &'a str,
    /// Its lot among the model's revisions; 0 where it has drawn none.
    pub(crate) lot: u64,
    /// The revision that it has been put together for, and has while that gets requests.
    pub(crate) prefers: Option<&'a str>,
    /// The revision that it names.
    pub(crate) revision: Option<&'a str>,
    pub(crate) ticket: Ticket,
    /// How long it may wait.
    pub(crate) left: Duration,
    /// The gateways that it has been at, beside the one that holds the client, and with the one that is asked.
    pub(crate) hops: u8,
    pub(crate) request_id: &'a HeaderValue,
    /// What a replica sees of its headers.
    pub(crate) headers: &'a [(HeaderName, HeaderValue)],
    pub(crate) body: &'a Bytes,
}

/// What came of offering a request.
pub(crate) enum Offer {
    /// It has a slot, and waits to be sent.
    Taken(Box<Taken>),
    /// It was not sent to a replica, and never will be from there.
    Declined(Declined),
    /// The peer is not reached, or went away before it had a slot: it was not sent to a replica, and never will be.
    Unreached(String),
    /// It ends with this error.
    Failed(Failure),
}

/// A request that has a slot at another gateway.
pub(crate) struct Taken {
    /// The name of the replica, for clients.
    pub(crate) replica: HeaderValue,
    go: oneshot::Sender<()>,
    answer: Answering,
}

/// The head of an answer that another gateway has.
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) streamed: bool,
    pub(crate) headers: HeaderMap,
}

/// What came of giving a copy to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    /// It is the peer's.
    Over,
    /// It is not, and never will be.
    Not,
    /// It was sent, and the word of what became of it is lost.
    Unheard,
}

/// Gives the copy of a request to a peer, whose it is from then on. Nobody waits for an answer.
pub(crate) async fn hand_over(peers: &Peers, reach: &Reach, asked: Asked<'_>, within: Duration) -> Handed {
    let Ok(Ok(mut sender)) = tokio::time::timeout(within, connected(&peers.mutual, reach.address)).await else {
        return Handed::Not;
    };
    let (go, body) = Upward::of(asked.body);
    drop(go); // it is sent without a word
    let handed = async {
        let response = match sender.send_request(asked.request(MIRROR_URI, body)).await {
            Ok(response) if response.status() == StatusCode::OK => response,
            Ok(_) => return Handed::Not,
            Err(error) if error.is_canceled() => return Handed::Not, // the connection had ended before
            Err(_) => return Handed::Unheard,
        };
        match response.into_body().collect().await.map(|said| said.to_bytes()) {
            Ok(said) if said == TAKEN => Handed::Over,
            Ok(_) => Handed::Not,
            Err(_) => Handed::Unheard,
        }
    };
    tokio::time::timeout(within, handed).await.unwrap_or(Handed::Unheard)
}

/// Offers a request to a peer and waits for its turn there. Dropping this takes it out of the queue there.
pub(crate) async fn offer(peers: &Peers, reach: &Reach, asked: Asked<'_>) -> Offer {
    let offered = offered(peers, reach, asked).await;
    peers.counts.count(match &offered {
        Offer::Taken(_) => Outcome::SentDispatched,
        Offer::Declined(Declined::Moved) => Outcome::SentMoved,
        Offer::Declined(Declined::Unknown) => Outcome::SentUnknown,
        Offer::Unreached(_) => Outcome::SentUnreached,
        Offer::Failed(_) => Outcome::SentRefused,
    });
    offered
}

async fn offered(peers: &Peers, reach: &Reach, asked: Asked<'_>) -> Offer {
    let mut sender = match connected(&peers.mutual, reach.address).await {
        Ok(sender) => sender,
        Err(why) => return Offer::Unreached(why),
    };
    let (go, body) = Upward::of(asked.body);
    let sent = sender.send_request(asked.request(URI, body)).await;
    let response = match sent {
        Ok(response) if response.status() == StatusCode::OK => response,
        Ok(response) => return Offer::Unreached(format!("it answers {}", response.status())),
        Err(error) => return Offer::Unreached(error.to_string()),
    };
    let mut answer = Answering { incoming: response.into_body(), decoder: Decoder::default() };
    loop {
        match answer.next().await {
            Some(Ok(Frame::Queued)) => {}
            Some(Ok(Frame::Dispatched { replica })) => return Offer::Taken(Box::new(Taken { replica, go, answer })),
            Some(Ok(Frame::Declined(why))) => return Offer::Declined(why),
            Some(Ok(Frame::Failed(failure))) => return Offer::Failed(*failure),
            Some(Ok(_)) => return Offer::Unreached("it speaks out of turn".to_owned()),
            Some(Err(why)) => return Offer::Unreached(why),
            None => return Offer::Unreached("it broke off".to_owned()),
        }
    }
}

impl Asked<'_> {
    fn request(&self, uri: &'static str, body: Upward) -> Request<Upward> {
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(uri);
        let headers = request.headers_mut();
        let text = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap_or(HeaderValue::from_static(""));
        headers.insert(header::API, HeaderValue::from_static(self.api.path()));
        headers.insert(header::MODEL, text(self.model));
        headers.insert(header::POOL, text(self.pool));
        headers.insert(header::LOT, HeaderValue::from(self.lot));
        headers.extend(self.prefers.map(|revision| (header::PREFERS, text(revision))));
        headers.extend(self.revision.map(|revision| (header::REVISION, text(revision))));
        let Ticket { class, tenant, cost, deadline, session } = self.ticket;
        headers.insert(header::PRIORITY, HeaderValue::from_static(class.name()));
        headers.insert(header::TENANT, HeaderValue::from(tenant));
        headers.insert(header::COST, HeaderValue::from(cost));
        let within = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()).as_millis());
        if let Some(within) = within.and_then(|within| u64::try_from(within).ok()) {
            headers.insert(header::DEADLINE, HeaderValue::from(within));
        }
        if let Some(session) = session {
            headers.insert(header::SESSION, HeaderValue::from(session));
        }
        let left = u64::try_from(self.left.as_millis()).unwrap_or(u64::MAX);
        headers.insert(header::LEFT, HeaderValue::from(left));
        headers.insert(header::HOPS, HeaderValue::from(u16::from(self.hops)));
        headers.insert(header::REQUEST_ID, self.request_id.clone());
        headers.extend(self.headers.iter().cloned());
        request
    }
}

impl Taken {
    /// Has it sent to the replica. From now on it is nobody else's.
    pub(crate) fn go(self) -> Answering {
        let _ = self.go.send(()); // a stream that is gone shows in the answer
        self.answer
    }
}

/// What comes from a gateway that has a request.
pub(crate) struct Answering {
    incoming: Incoming,
    decoder: Decoder,
}

impl Answering {
    async fn next(&mut self) -> Option<Result<Frame, String>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, String>>> {
        loop {
            match self.decoder.next() {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) => {}
                Err(_) => return Poll::Ready(Some(Err("it sends what is no frame".to_owned()))),
            }
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.decoder.push(&data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.to_string()))),
                None if self.decoder.is_within() => return Poll::Ready(Some(Err("it broke off".to_owned()))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// The answer's head.
    ///
    /// # Errors
    /// What to answer in its place.
    pub(crate) async fn head(&mut self) -> Result<Head, Failure> {
        let lost = |why: &str| {
            let message = format!("the gateway that had sent it to a replica was lost: {why}");
            Failure::new(Code::UpstreamError, message).blaming_none()
        };
        match self.next().await {
            Some(Ok(Frame::Head { status, streamed, headers })) => Ok(Head { status, streamed, headers }),
            Some(Ok(Frame::Failed(failure))) => Err(*failure),
            Some(Ok(_)) => Err(lost("it speaks out of turn")),
            Some(Err(why)) => Err(lost(&why)),
            None => Err(lost("it broke off")),
        }
    }

    /// The next piece of the answer; `None` where that was all.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        let lost = |why: &str| Some(Err(format!("the gateway that had sent it to a replica was lost: {why}")));
        Poll::Ready(match ready!(self.poll_next(cx)) {
            Some(Ok(Frame::Data(data))) => Some(Ok(data)),
            Some(Ok(Frame::End)) => None,
            Some(Ok(Frame::Failed(failure))) => Some(Err(failure.message)),
            Some(Ok(_)) => lost("it speaks out of turn"),
            Some(Err(why)) => lost(&why),
            None => lost("it broke off"),
        })
    }
}

/// What goes to the owner: the body, in frames that are made as they are wanted, and once it may be sent, the word for that.
pub(crate) struct Upward {
    /// What of the body is not sent yet; `None` once its end was said.
    body: Option<Bytes>,
    go: Option<oneshot::Receiver<()>>,
    /// What goes as it is.
    raw: Bytes,
}

impl Upward {
    fn of(body: &Bytes) -> (oneshot::Sender<()>, Self) {
        let (go, goes) = oneshot::channel();
        (go, Self { body: Some(body.clone()), go: Some(goes), raw: Bytes::new() })
    }

    /// Asks how the peer stands.
    pub(super) fn nothing() -> Self {
        Self::raw(Bytes::new())
    }

    /// Says this.
    pub(super) fn raw(raw: Bytes) -> Self {
        Self { body: None, go: None, raw }
    }
}

impl Body for Upward {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        let mut word = BytesMut::new();
        if !self.raw.is_empty() {
            return Poll::Ready(Some(Ok(BodyFrame::data(std::mem::take(&mut self.raw)))));
        }
        if let Some(body) = &mut self.body {
            let piece = body.split_to(body.len().min(MAX_DATA));
            let is_last = body.is_empty();
            if !piece.is_empty() {
                Frame::Data(piece).write(&mut word);
            }
            if is_last {
                Frame::End.write(&mut word);
                self.body = None;
            }
            return Poll::Ready(Some(Ok(BodyFrame::data(word.freeze()))));
        }
        let Some(go) = &mut self.go else { return Poll::Ready(None) };
        let gone = ready!(Pin::new(go).poll(cx));
        self.go = None;
        Poll::Ready(gone.ok().map(|()| {
            Frame::Go.write(&mut word);
            Ok(BodyFrame::data(word.freeze()))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none() && self.go.is_none() && self.raw.is_empty()
    }
}
