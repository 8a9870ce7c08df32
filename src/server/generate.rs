//! From requests to the engine to what it answers: each waits for its turn, all are read at the same time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::access::Caller;
use super::access::limits::Charge;
use super::admit::{Place, Turn};
use super::api_error::ApiError;
use super::app::{App, Phase, reached};
use super::body::JsonBody;
use super::fleet::{Lease, Offer};
use super::json::Fields;
use super::pace::Pace;
use super::record::Record;
use crate::engine::{Answer, Event, Finished, Piece, Prepared, Stats, StopReason, WakeAt};

/// What every handler needs to know of a request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub app: Arc<App>,
    pub caller: Caller,
    pub record: Arc<Record>,
}

/// A request with a place in the queue of a model that is loaded.
#[derive(Debug)]
pub struct Admitted {
    pub place: Place,
    pub model: Lease,
    /// How long it has waited for the model.
    pub waited: Duration,
}

impl Asked {
    /// Takes a place in the queue of the body's model, and waits until the model is loaded.
    ///
    /// # Errors
    /// When there is no such model, no room in its queue, it cannot be loaded, or that takes too long.
    pub async fn admit(&self, body: &JsonBody) -> Result<Admitted, ApiError> {
        self.admit_if(body, |_| Ok(())).await
    }

    /// The same, unless `check` refuses the model.
    ///
    /// # Errors
    /// Also what `check` says.
    pub async fn admit_if(
        &self,
        body: &JsonBody,
        check: impl FnOnce(&Offer) -> Result<(), ApiError>,
    ) -> Result<Admitted, ApiError> {
        let at = self.app.fleet.find(body.model.as_deref())?;
        let offer = &self.app.fleet.models()[at].offer;
        self.record.set_model(&offer.id, None);
        check(offer)?;
        let place = self.app.enter(at, &self.caller)?;
        let since = Instant::now();
        let acquired = self.in_time(Duration::ZERO, self.app.fleet.acquire(at));
        let model = acquired.await??;
        self.record.set_model(&offer.id, model.sha256.as_deref());
        Ok(Admitted {
            place,
            model,
            waited: since.elapsed(),
        })
    }

    /// The same for what needs no turn.
    ///
    /// # Errors
    /// See [`Asked::admit`].
    pub async fn model(&self, body: &JsonBody) -> Result<Lease, ApiError> {
        Ok(self.admit(body).await?.model)
    }

    /// Charges the tokens of all prompts to the key; those that are not computed are given back.
    ///
    /// # Errors
    /// When the key may not use so many now, or ever.
    pub fn charge_prompt(&self, n_tokens: usize) -> Result<Option<Charge>, ApiError> {
        let running = self.record.running();
        running
            .map(|running| running.charge_prompt(n_tokens))
            .transpose()
    }

    /// Waits for something, but no longer than a request may wait, of which `waited` has passed.
    ///
    /// # Errors
    /// When the time is over, or the server ends.
    pub async fn in_time<T>(
        &self,
        waited: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, ApiError> {
        let mut phase = self.app.phase.subscribe();
        let left = self.app.settings.bounds.queue_time.saturating_sub(waited);
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = tokio::time::sleep(left) => {
                let message = "the request has waited too long for its turn";
                Err(ApiError::unavailable(message, "queue_timeout", 5))
            }
            () = reached(&mut phase, Phase::Closed) => Err(ApiError::shutting_down()),
        }
    }
}

/// What is asked of the engine: `n` answers to each prompt, one prompt after the other.
pub struct Requests {
    pub all: Vec<Prepared>,
    pub n: usize,
}

/// The answers to one HTTP request: one for each prompt and choice.
pub struct Answers {
    all: Vec<Choice>,
    /// Answers to each prompt.
    n: usize,
    asked: Asked,
    charge: Option<Charge>,
    /// Where to look first, so that none is always the last.
    turn: usize,
    pace: Pace,
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

/// What an answer has taken so far.
struct Tally {
    asked: Asked,
    model: Lease,
    stats: Stats,
    has_started: bool,
}

impl Drop for Answers {
    /// What the answers have taken counts however they end. A prompt counts once, as in the usage that the client is
    /// told, and not at all where no answer to it has begun.
    fn drop(&mut self) {
        for choices in self.all.chunks(self.n.max(1)) {
            let tallies = choices.iter().map(|choice| &choice.tally);
            for (i, tally) in tallies.filter(|tally| tally.has_started).enumerate() {
                let mut stats = tally.stats;
                if i > 0 {
                    (stats.n_prompt, stats.n_cached) = (0, 0);
                }
                if let Some(charge) = &mut self.charge {
                    charge.used(stats.n_prompt);
                }
                self.asked.record.add(&stats);
                if let Some(running) = self.asked.record.running() {
                    running.charge(stats.n_generated);
                }
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
        body: JsonBody,
        prepare: impl FnOnce(&Asked, &Lease, Fields) -> Result<(Requests, R), ApiError> + Send + 'static,
    ) -> Result<(Self, R), ApiError> {
        let admitted = asked.admit(&body).await?;
        let (asker, model) = (asked.clone(), admitted.model.clone());
        let prepared = body.read(move |fields| prepare(&asker, &model, fields));
        let (requests, reply) = prepared.await?;
        let mut answers = Self::start(asked, admitted, requests)?;
        answers.begun().await?;
        Ok((answers, reply))
    }

    /// Asks for answers. The first one has its place in the queue already.
    ///
    /// # Errors
    /// At once, when there is no room for all of them in the queue, or the key's tokens are used up.
    fn start(asked: &Asked, admitted: Admitted, requests: Requests) -> Result<Self, ApiError> {
        let Admitted {
            place,
            model,
            waited,
        } = admitted;
        let Requests { all, n } = requests;
        let mut places = vec![place];
        let at = model.at();
        while places.len() < all.len() {
            places.push(asked.app.enter(at, &asked.caller)?);
        }
        let prompts = all.iter().step_by(n.max(1));
        let charge = asked.charge_prompt(prompts.map(Prepared::n_prompt).sum())?;
        let choice = |(place, request): (Place, Prepared)| Choice {
            tally: Tally {
                stats: Stats {
                    n_prompt: request.n_prompt(),
                    ..Stats::default()
                },
                asked: asked.clone(),
                model: model.clone(),
                has_started: false,
            },
            state: State::Waiting(Box::pin(submit(
                asked.clone(),
                model.clone(),
                waited,
                place,
                request,
            ))),
        };
        Ok(Answers {
            pace: Pace::new(all.len()),
            all: places.into_iter().zip(all).map(choice).collect(),
            n,
            asked: asked.clone(),
            charge,
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
            let wake_at = self.pace.poll(context);
            let mut all_ended = true;
            for i in (0..n).map(|i| (self.turn + i) % n) {
                match self.all[i].poll(context, wake_at) {
                    Poll::Ready(Some(event)) => {
                        self.turn = i + 1;
                        if let Ok(Event::Piece(piece)) = &event {
                            // What shows nothing is not what the client waits for.
                            if !piece.text.is_empty() {
                                self.pace.said(i, Instant::now().into());
                            }
                            self.all[i].tally.asked.record.answer_text(i, &piece.text);
                        }
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
            for choice in &mut self.all {
                choice.state = State::Ended;
            }
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

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        wake_at: WakeAt,
    ) -> Poll<Option<Result<Event, ApiError>>> {
        match self.poll_begin(context) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
            Poll::Pending => return Poll::Pending,
        }
        let State::Running { answer, .. } = &mut self.state else {
            return Poll::Ready(None);
        };
        let event = match answer.poll_event(context, wake_at) {
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
            let metrics = &self.asked.app.metrics;
            metrics.of(&self.model.id, |of| of.first_token_s.observe(time));
        }
    }
}

async fn submit(
    asked: Asked,
    model: Lease,
    waited: Duration,
    place: Place,
    request: Prepared,
) -> Result<(Turn, Answer), ApiError> {
    let since = Instant::now();
    let turn = asked.in_time(waited, place.turn()).await?;
    asked.record.queued(waited + since.elapsed());
    let answer = model.engine.start(request)?;
    Ok((turn, answer))
}
