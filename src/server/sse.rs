//! Server-sent events, made by a task that lives and dies with the response.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::Stream;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// A proxy cuts connections that are silent, often after a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where events are written to.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Bytes>);

impl Events {
    /// Sends `data: {…}`. Waits while the client does not read.
    pub async fn data(&self, data: &impl Serialize) {
        self.event(None, data).await;
    }

    /// Sends an event with a name.
    pub async fn named(&self, name: &str, data: &impl Serialize) {
        self.event(Some(name), data).await;
    }

    /// Sends OpenAI's end of the stream.
    pub async fn done(&self) {
        self.send("data: [DONE]\n\n".into()).await;
    }

    async fn event(&self, name: Option<&str>, data: &impl Serialize) {
        let mut frame = Vec::with_capacity(256);
        if let Some(name) = name {
            frame.extend_from_slice(format!("event: {name}\n").as_bytes());
        }
        frame.extend_from_slice(b"data: ");
        // JSON has no raw line ends; strings and maps with text keys always have a form in it.
        if serde_json::to_writer(&mut frame, data).is_ok() {
            frame.extend_from_slice(b"\n\n");
            self.send(frame.into()).await;
        }
    }

    async fn send(&self, frame: Bytes) {
        // Nobody reads any more only when the whole stream is dropped, and this task with it.
        let _ = self.0.send(frame).await;
    }
}

/// A response whose events `write` sends. When the client leaves, `write` is dropped at once.
pub fn response<F: Future<Output = ()> + Send + 'static>(
    write: impl FnOnce(Events) -> F,
) -> Response {
    let (sender, receiver) = mpsc::channel(16);
    let mut ticks = interval(KEEP_ALIVE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    let stream = EventStream {
        writer: Some(Box::pin(write(Events(sender)))),
        receiver,
        ticks,
    };
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx passes events on as they come.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct EventStream {
    writer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    receiver: mpsc::Receiver<Bytes>,
    ticks: Interval,
}

impl Stream for EventStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(writer) = &mut this.writer
            && writer.as_mut().poll(context).is_ready()
        {
            this.writer = None;
        }
        match this.receiver.poll_recv(context) {
            Poll::Ready(Some(first)) => {
                this.ticks.reset();
                let mut next = || this.receiver.try_recv().ok();
                let Some(second) = next() else {
                    return Poll::Ready(Some(Ok(first)));
                };
                // What has come together goes out together.
                let mut all = first.to_vec();
                all.extend_from_slice(&second);
                while let Some(frame) = next() {
                    all.extend_from_slice(&frame);
                }
                // Room for the writer, which waits for it.
                context.waker().wake_by_ref();
                Poll::Ready(Some(Ok(all.into())))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if this.ticks.poll_tick(context).is_ready() {
                    // Registers for the next tick.
                    context.waker().wake_by_ref();
                    return Poll::Ready(Some(Ok(Bytes::from_static(b": still here\n\n"))));
                }
                Poll::Pending
            }
        }
    }
}
