//! From requests to the engine to what it answers: each waits for its turn, all are read at the same time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::access::Caller;
use super::admit::{Place, Turn};
use super::api_error::ApiError;
use super::app::{App, Phase, reached};
use super::json::Fields;
use super::record::Record;
use super::tokens::blocking;
use crate::engine::{Answer, Event, Finished, Piece, Prepared, Stats, StopReason};

/// What every handler needs to know of a request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub app: Arc<App>,
    pub caller: Caller,
    pub record: Arc<Record>,
}

/// The answers to one HTTP request: one for each prompt and choice.
pub struct Answers {
    all: Vec<Choice>,
    /// Where to look first, so that none is always the last.
    turn: usize,
}

struct Choice {
    state: State,
    tally: Tally,
}

/// A request that waits for its turn.
type Submitting = Pin<Box<dyn Future<Output = Result<(Turn, Answer), ApiError>> + Send>>;

enum State {
    Waiting(Submitting),
    Running { answer: Answer, _turn: Turn },
    Ended,
}

/// What an answer has taken so far; it counts however the answer ends.
struct Tally {
    asked: Asked,
    stats: Stats,
    has_started: bool,
}

impl Drop for Tally {
    fn drop(&mut self) {
        if self.has_started {
            self.asked.record.add(&self.stats);
            if let Some(running) = self.asked.record.running() {
                running.charge(self.stats.n_generated);
            }
        }
    }
}

impl Answers {
    /// From the fields of a request to answers that have begun; `prepare` reads the fields, and says besides
    /// how to answer. It may take a while, and its thread is one for that.
    ///
    /// # Errors
    /// When there is no room in the queue, the fields are wrong, or the engine refuses.
    pub async fn begin<R: Send + 'static>(
        asked: &Asked,
        fields: Fields,
        prepare: impl FnOnce(&App, &Caller, &Record, Fields) -> Result<(Vec<Prepared>, R), ApiError>
        + Send
        + 'static,
    ) -> Result<(Self, R), ApiError> {
        let place = asked.app.enter(&asked.caller)?;
        let (caller, record) = (asked.caller.clone(), asked.record.clone());
        let app = Arc::clone(&asked.app);
        let (requests, reply) =
            blocking(app, move |app| prepare(app, &caller, &record, fields)).await?;
        let mut answers = Self::start(asked, place, requests)?;
        answers.begun().await?;
        Ok((answers, reply))
    }

    /// Asks for answers. `place` is the place in the queue that the first one has already.
    ///
    /// # Errors
    /// At once, when there is no room for all of them in the queue, or the key's tokens are used up.
    fn start(asked: &Asked, place: Place, requests: Vec<Prepared>) -> Result<Self, ApiError> {
        let n_tokens = requests.iter().map(Prepared::n_prompt).sum();
        if let Some(running) = asked.record.running() {
            running.charge_prompt(n_tokens)?;
        }
        let mut places = vec![place];
        while places.len() < requests.len() {
            places.push(asked.app.enter(&asked.caller)?);
        }
        let choice = |(place, request): (Place, Prepared)| Choice {
            tally: Tally {
                stats: Stats {
                    n_prompt: request.n_prompt(),
                    ..Stats::default()
                },
                asked: asked.clone(),
                has_started: false,
            },
            state: State::Waiting(Box::pin(submit(asked.clone(), place, request))),
        };
        Ok(Answers {
            all: places.into_iter().zip(requests).map(choice).collect(),
            turn: 0,
        })
    }

    /// Waits until an answer has begun, so that what goes wrong before is told by the status.
    ///
    /// # Errors
    /// When the queue does not move, or the engine refuses.
    async fn begun(&mut self) -> Result<(), ApiError> {
        std::future::poll_fn(|context| {
            for choice in &mut self.all {
                if let Poll::Ready(begun) = choice.poll_begin(context) {
                    return Poll::Ready(begun);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next event of any answer, with the answer's index; `None` after the last one. After an error
    /// nothing follows.
    pub async fn next(&mut self) -> Option<Result<(usize, Event), ApiError>> {
        let next = std::future::poll_fn(|context| {
            let n = self.all.len();
            let mut all_ended = true;
            for i in (0..n).map(|i| (self.turn + i) % n) {
                match self.all[i].poll(context) {
                    Poll::Ready(Some(event)) => {
                        self.turn = i + 1;
                        return Poll::Ready(Some(event.map(|event| (i, event))));
                    }
                    Poll::Ready(None) => {}
                    Poll::Pending => all_ended = false,
                }
            }
            if all_ended {
                Poll::Ready(None)
            } else {
                Poll::Pending
            }
        })
        .await;
        if matches!(next, Some(Err(_))) {
            self.all.clear();
        }
        next
    }
}

impl Choice {
    fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ApiError>> {
        if let State::Waiting(waiting) = &mut self.state {
            match waiting.as_mut().poll(context) {
                Poll::Ready(Ok((turn, answer))) => {
                    self.tally.has_started = true;
                    self.state = State::Running {
                        answer,
                        _turn: turn,
                    };
                }
                Poll::Ready(Err(error)) => {
                    self.state = State::Ended;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Event, ApiError>>> {
        match self.poll_begin(context) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
            Poll::Pending => return Poll::Pending,
        }
        let State::Running { answer, .. } = &mut self.state else {
            return Poll::Ready(None);
        };
        let event = match answer.poll_event(context) {
            Poll::Ready(Some(Ok(event))) => event,
            Poll::Ready(Some(Err(error))) => {
                self.state = State::Ended;
                return Poll::Ready(Some(Err(error.into())));
            }
            Poll::Ready(None) => {
                self.state = State::Ended;
                return Poll::Ready(None);
            }
            Poll::Pending => return Poll::Pending,
        };
        let record = &self.tally.asked.record;
        match &event {
            Event::Prompt(_) => {}
            Event::Piece(piece) => self.tally.piece(piece),
            Event::Done(Finished { stop, stats }) => {
                self.tally.stats = *stats;
                record.ended(*stop);
                // The slot is free for the next one now, and not when the client has read everything.
                self.state = State::Ended;
                if *stop == StopReason::Interrupted {
                    return Poll::Ready(Some(Err(ApiError::shutting_down())));
                }
            }
        }
        Poll::Ready(Some(Ok(event)))
    }
}

impl Tally {
    fn piece(&mut self, piece: &Piece) {
        self.stats.n_generated += usize::from(piece.token.is_some());
        let record = &self.asked.record;
        if let Some(time) = record.token() {
            self.asked.app.metrics.first_token_s.observe(time);
        }
        record.answer_text(&piece.text);
    }
}

async fn submit(asked: Asked, place: Place, request: Prepared) -> Result<(Turn, Answer), ApiError> {
    let app = &asked.app;
    let since = Instant::now();
    let mut phase = app.phase.subscribe();
    let turn = tokio::select! {
        turn = place.turn() => turn,
        () = tokio::time::sleep(app.settings.bounds.queue_time) => {
            return Err(ApiError::unavailable("the request has waited too long for its turn", "queue_timeout", 5));
        }
        () = reached(&mut phase, Phase::Closed) => return Err(ApiError::shutting_down()),
    };
    asked.record.queued(since.elapsed());
    let answer = app.model()?.engine.start(request)?;
    Ok((turn, answer))
}
