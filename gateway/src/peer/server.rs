//! What other gateways ask of this one.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame as BodyFrame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tutti_api::Priority;

use super::frames::{Declined, Decoder, Frame, MAX_DATA};
use super::offer::{self, header};
use super::{Outcome, Peers, poll, told};
use crate::budget::Room;
use crate::classify::Api;
use crate::ending::{self, Phase};
use crate::errors::{Code, Failure};
use crate::exchange::ResponseBody;
use crate::handle::{forwarded, taken_over};
use crate::limits::{self, Limit};
use crate::schedule::Ticket;
use crate::shared::Shared;
use crate::traffic::Choice;

/// How long a gateway may take to say that a request may be sent: the slot waits for it.
const GO_WITHIN: Duration = Duration::from_secs(2);
/// How long a body may pause: it lies whole with who sends it.
const BODY_PAUSE: Duration = Duration::from_secs(10);
/// Longest time that a request is let wait, whatever its sender says.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Answers what a peer asks. `place` is taken for a request, and held until it has ended; without one there is no room.
pub(crate) fn answer<P: Unpin + Send + 'static>(
    shared: &Arc<Shared>,
    peers: &Arc<Peers>,
    request: Request<Incoming>,
    place: impl FnOnce() -> Option<P>,
) -> Response<Answered<P>> {
    let (head, body) = request.into_parts();
    match (&head.method, head.uri.path()) {
        (&Method::GET, poll::PATH) => Response::new(Answered::Whole(peers.hello())),
        (&Method::GET, told::HEARD) => Response::new(Answered::Whole(told::told(shared, peers))),
        (&Method::POST, told::HEARD) => {
            Response::new(Answered::Later(Box::pin(told::told_to(shared.clone(), peers.clone(), body))))
        }
        (&Method::GET, told::TRAFFIC) => Response::new(Answered::Whole(told::word(peers))),
        (&Method::PUT, told::TRAFFIC) => {
            let taken = told::taken(peers.control.get().cloned(), body);
            Response::new(Answered::Later(Box::pin(taken)))
        }
        (&Method::POST, offer::MIRROR) => {
            let (said, _) = mpsc::unbounded_channel();
            let Some(inbound) = Inbound::of(&head, body, said, peers) else { return nothing(StatusCode::BAD_REQUEST) };
            let Some(place) = place() else { return nothing(StatusCode::SERVICE_UNAVAILABLE) };
            let shared = shared.clone();
            Response::new(Answered::Later(Box::pin(async move {
                let Some(copy) = taken_over(shared, head.headers, inbound).await else { return Bytes::new() };
                tokio::spawn(async move {
                    copy.run().await;
                    drop(place);
                });
                offer::TAKEN
            })))
        }
        (&Method::POST, offer::PATH) => {
            let (said, frames) = mpsc::unbounded_channel();
            let Some(inbound) = Inbound::of(&head, body, said, peers) else { return nothing(StatusCode::BAD_REQUEST) };
            let Some(place) = place() else { return nothing(StatusCode::SERVICE_UNAVAILABLE) };
            let (run, ending) = (forwarded(shared.clone(), head.headers, inbound), shared.ending.clone());
            Response::new(Answered::Running(Box::new(Serving {
                state: State::Running(Box::pin(run)),
                frames,
                declined: false,
                over: Box::pin(async move { ending.reached(Phase::Over).await }),
                _place: place,
            })))
        }
        _ => nothing(StatusCode::NOT_FOUND),
    }
}

fn nothing<P>(status: StatusCode) -> Response<Answered<P>> {
    let mut response = Response::new(Answered::Whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// A request that another gateway hands over, as far as it concerns that one.
pub(crate) struct Inbound {
    /// By what its client speaks.
    pub(crate) api: Api,
    /// The name that its client used.
    pub(crate) model: String,
    /// The pool that it is meant for.
    pub(crate) pool: Box<str>,
    /// What its revision is chosen by.
    pub(crate) choice: Choice,
    pub(crate) ticket: Ticket,
    /// Until when it may wait.
    pub(crate) until: Instant,
    /// Gateways that it has been at, beside the one that holds the client, and with this one.
    pub(crate) hops: u8,
    /// It may be sent: whatever becomes of the pool, it is this gateway's.
    pub(crate) confirmed: bool,
    frames: mpsc::UnboundedSender<Frame>,
    body: Incoming,
    decoder: Decoder,
    peers: Arc<Peers>,
}

impl Inbound {
    /// `None`: the head is not that of a request.
    fn of(head: &Parts, body: Incoming, frames: mpsc::UnboundedSender<Frame>, peers: &Arc<Peers>) -> Option<Self> {
        let text = |name: &HeaderName| std::str::from_utf8(head.headers.get(name)?.as_bytes()).ok();
        let number = |name: &HeaderName| text(name)?.parse::<u64>().ok();
        let (path, class) = (text(&header::API)?, text(&header::PRIORITY)?);
        Some(Self {
            api: Api::ALL.iter().find(|api| api.path() == path).copied()?,
            model: text(&header::MODEL)?.to_owned(),
            pool: text(&header::POOL)?.into(),
            choice: Choice::drawn(number(&header::LOT).unwrap_or(0))
                .naming(text(&header::REVISION).map(Into::into))
                .having(text(&header::PREFERS).map(Into::into)),
            ticket: Ticket {
                class: Priority::ALL.into_iter().find(|known| known.name() == class)?,
                tenant: number(&header::TENANT).unwrap_or(0),
                cost: number(&header::COST).and_then(|cost| u32::try_from(cost).ok()).unwrap_or(0),
                deadline: number(&header::DEADLINE)
                    .map(|within| Instant::now() + Duration::from_millis(within).min(LONGEST_WAIT)),
                session: number(&header::SESSION),
            },
            until: Instant::now() + Duration::from_millis(number(&header::LEFT)?).min(LONGEST_WAIT),
            hops: u8::try_from(number(&header::HOPS)?).ok()?,
            confirmed: false,
            frames,
            body,
            decoder: Decoder::default(),
            peers: peers.clone(),
        })
    }

    /// Reads the request's body.
    ///
    /// # Errors
    /// Too large, too slow, no frames, broken off, or no memory left for it.
    pub(crate) async fn read(&mut self, max: usize, room: &mut Room) -> Result<Bytes, Failure> {
        let broken = || Failure::new(Code::InvalidBody, "what the other gateway sends is not whole");
        let mut body = BytesMut::new();
        loop {
            match timeout(BODY_PAUSE, self.next()).await.map_err(|_| broken())? {
                Some(Frame::Data(data)) => {
                    room.grow(data.len())?;
                    if body.len() + data.len() > max {
                        limits::hit(Limit::Body);
                        let message = format!(
                            "the body has more than the {max} bytes that are allowed where its pool is scheduled"
                        );
                        return Err(Failure::new(Code::BodyTooLarge, message));
                    }
                    body.extend_from_slice(&data);
                }
                Some(Frame::End) => return Ok(body.freeze()),
                _ => return Err(broken()),
            }
        }
    }

    /// The next frame; `None` where there is none, or what is none.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.next() {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(_) => return None,
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.decoder.push(&data);
            }
        }
    }

    /// It has a place in the queue.
    pub(crate) fn queued(&self) {
        self.say(Frame::Queued);
    }

    /// It has a slot on this replica: waits for the word that it may be sent. Without it, it is not, here or ever.
    ///
    /// # Errors
    /// It may not.
    pub(crate) async fn confirm(&mut self, replica: &HeaderValue) -> Result<(), Failure> {
        if self.confirmed {
            return Ok(()); // a retry
        }
        self.say(Frame::Dispatched { replica: replica.clone() });
        match timeout(GO_WITHIN, self.next()).await {
            Ok(Some(Frame::Go)) => {
                self.confirmed = true;
                self.peers.counts.count(Outcome::TakenDispatched);
                Ok(())
            }
            _ => Err(self.decline(Declined::Moved)),
        }
    }

    /// It is not sent from here, now or ever; whatever this failure says, the sender goes by the frame.
    pub(crate) fn decline(&self, why: Declined) -> Failure {
        self.peers.counts.count(match why {
            Declined::Moved => Outcome::TakenMoved,
            Declined::Unknown => Outcome::TakenUnknown,
        });
        self.say(Frame::Declined(why));
        Failure::new(Code::NoReplica, "another gateway schedules the pool")
    }

    /// It ends with an error before it was sent.
    pub(crate) fn refused(&self) {
        if !self.confirmed {
            self.peers.counts.count(Outcome::TakenRefused);
        }
    }

    fn say(&self, frame: Frame) {
        let _ = self.frames.send(frame); // a sender that has gone takes this with it
    }
}

/// The body of an answer to a peer.
pub(crate) enum Answered<P> {
    Whole(Bytes),
    /// What is not known yet.
    Later(Pin<Box<dyn Future<Output = Bytes> + Send>>),
    Running(Box<Serving<P>>),
}

/// A request at work for another gateway; dropping it ends the work, in whatever phase.
pub(crate) struct Serving<P> {
    state: State,
    frames: mpsc::UnboundedReceiver<Frame>,
    /// It was said that it is not sent from here.
    declined: bool,
    /// Wakes when the gateway is over.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: P,
}

enum State {
    Running(Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Failure>> + Send>>),
    Answering(ResponseBody, Bytes),
    Ended,
}

impl<P> Serving<P> {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let over = self.over.as_mut().poll(cx).is_ready();
        let mut bytes = BytesMut::new();
        if let State::Running(run) = &mut self.state {
            let ended = match run.as_mut().poll(cx) {
                Poll::Pending if over => Poll::Ready(Err(ending::over())),
                other => other,
            };
            while let Poll::Ready(Some(frame)) = self.frames.poll_recv(cx) {
                self.declined |= matches!(frame, Frame::Declined(_));
                frame.write(&mut bytes);
            }
            match ended {
                Poll::Pending if bytes.is_empty() => return Poll::Pending,
                Poll::Pending => {}
                Poll::Ready(Ok(response)) => {
                    let (head, body) = response.into_parts();
                    let streamed = body.is_stream();
                    Frame::Head { status: head.status, streamed, headers: passed(head.headers) }.write(&mut bytes);
                    self.state = State::Answering(body, Bytes::new());
                }
                Poll::Ready(Err(failure)) => {
                    if !self.declined {
                        Frame::Failed(Box::new(failure)).write(&mut bytes);
                    }
                    self.state = State::Ended;
                }
            }
            return Poll::Ready(Some(bytes.freeze()).filter(|bytes| !bytes.is_empty()));
        }
        let State::Answering(body, rest) = &mut self.state else { return Poll::Ready(None) };
        while rest.is_empty() {
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => *rest = frame.into_data().unwrap_or_default(),
                None => {
                    Frame::End.write(&mut bytes);
                    self.state = State::Ended;
                    return Poll::Ready(Some(bytes.freeze()));
                }
            }
        }
        Frame::Data(rest.split_to(rest.len().min(MAX_DATA))).write(&mut bytes);
        Poll::Ready(Some(bytes.freeze()))
    }
}

/// Longest value of a header that goes with an answer. Unit: bytes.
const MAX_VALUE: usize = 4 << 10;

fn passed(mut headers: HeaderMap) -> HeaderMap {
    let long: Vec<HeaderName> =
        headers.iter().filter(|(_, value)| value.len() > MAX_VALUE).map(|(name, _)| name.clone()).collect();
    long.iter().for_each(|name| _ = headers.remove(name));
    headers
}

impl<P: Unpin> Body for Answered<P> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Answered::Whole(bytes) => Poll::Ready(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            Answered::Later(later) => {
                let bytes = ready!(later.as_mut().poll(cx));
                *self = Answered::Whole(Bytes::new());
                Poll::Ready(Some(bytes).filter(|bytes| !bytes.is_empty()))
            }
            Answered::Running(serving) => serving.poll_bytes(cx),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(BodyFrame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Answered::Whole(bytes) if bytes.is_empty())
    }
}
