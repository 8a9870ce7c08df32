//! A conversation's next turn, whatever API it was asked for in: from messages to the engine, and from tokens to
//! text and calls.

use std::collections::VecDeque;

use super::api_error::ApiError;
use super::app::Served;
use super::audit::digest::Digests;
use super::generate::{Answers, Asked, Requests};
use super::openai::messages;
use super::openai::options::Options;
use super::tools::{CallReader, Part, Tools};
use crate::engine::template::Message;
use crate::engine::{Event, Finished, StopReason, TokenLogprobs};

/// What is asked for.
#[derive(Debug)]
pub struct Conversation {
    pub messages: Vec<Message>,
    pub tools: Option<Tools>,
    pub options: Options,
    /// The most tokens of an answer.
    pub max_tokens: Option<usize>,
    /// `Some(n)`: logprobs, with the `n` likeliest tokens.
    pub logprobs: Option<usize>,
}

impl Conversation {
    /// Renders the messages and prepares a request for each choice.
    pub fn prepare(&self, asked: &Asked, model: &Served) -> Result<Requests, ApiError> {
        let Asked {
            app,
            caller,
            record,
        } = asked;
        let template = messages::template(model)?;
        let n = self.options.n;
        app.check_places(model, 1, n)?;
        let tools = self.tools.as_ref();
        if tools.is_some() && self.options.constraint.is_some() {
            let message = "tools and response_format exclude each other";
            return Err(ApiError::unsupported("response_format", message));
        }
        let described = tools.map(Tools::for_template);
        let rendered = template.render_with_tools(&self.messages, described.as_ref(), true)?;
        if let Some(salt) = app.audit.as_ref().and_then(|audit| audit.salt()) {
            record.set_digests(Digests::new(salt, &rendered.text));
        }
        let prompt = model.engine.tokenizer().encode_rendered(&rendered)?;
        let n_predict = model.n_predict(self.max_tokens, &[prompt.len()], n, caller)?;
        let constraint = tools.map(Tools::constraint);
        let requests = (0..n).map(|i| {
            let mut request = self
                .options
                .request(prompt.clone(), n_predict, &caller.id, i);
            request.logprobs = self.logprobs;
            if let Some(constraint) = &constraint {
                request.constraint = Some(constraint.clone());
            }
            request
        });
        let all = model.engine.prepare_all(requests);
        let all = all.map_err(|error| match tools {
            Some(_) => ApiError::from(error).about("response_format", "tools"),
            None => error.into(),
        })?;
        Ok(Requests { all, n })
    }
}

/// Something that an answer says.
#[derive(Debug)]
pub enum Said {
    /// Text, perhaps none, and the logprobs of the token that it came from.
    Text(String, Option<TokenLogprobs>),
    /// A call of a tool begins.
    Call { name: String },
    /// More of the call's arguments.
    Arguments(String),
    /// The call is complete.
    CallEnd,
    /// The answer ends.
    End(Ending),
}

/// How an answer ended.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    pub finished: Finished,
    /// It ends with calls.
    pub calls: bool,
}

/// The answers to a conversation, as they come.
pub struct Speech {
    answers: Answers,
    choices: Vec<Choice>,
    /// What one event has said and nobody has taken yet.
    said: VecDeque<(usize, Said)>,
}

struct Choice {
    reader: Option<CallReader>,
    calls: bool,
}

impl Speech {
    pub fn new(answers: Answers, n: usize, tools: Option<&Tools>) -> Self {
        let choice = |_| Choice {
            reader: tools.map(|tools| CallReader::new(tools.format)),
            calls: false,
        };
        Speech {
            answers,
            choices: (0..n).map(choice).collect(),
            said: VecDeque::new(),
        }
    }

    /// What is said next, and by which choice; `None` after the last end.
    pub async fn next(&mut self) -> Option<Result<(usize, Said), ApiError>> {
        loop {
            if let Some(said) = self.said.pop_front() {
                return Some(Ok(said));
            }
            let (i, event) = match self.answers.next().await? {
                Ok(event) => event,
                Err(error) => return Some(Err(error)),
            };
            match event {
                Event::Prompt(_) => {}
                Event::Piece(piece) => self.piece(i, piece.text, piece.logprobs),
                Event::Done(finished) => self.end(i, finished),
            }
        }
    }

    fn piece(&mut self, i: usize, text: String, logprobs: Option<TokenLogprobs>) {
        let choice = &mut self.choices[i];
        let Some(reader) = &mut choice.reader else {
            if !text.is_empty() || logprobs.is_some() {
                self.said.push_back((i, Said::Text(text, logprobs)));
            }
            return;
        };
        let parts = reader.push(&text);
        if logprobs.is_some() {
            self.said
                .push_back((i, Said::Text(String::new(), logprobs)));
        }
        self.parts(i, parts);
    }

    fn parts(&mut self, i: usize, parts: Vec<Part>) {
        for part in parts {
            let said = match part {
                Part::Text(text) => Said::Text(text, None),
                Part::Call { name } => {
                    self.choices[i].calls = true;
                    Said::Call { name }
                }
                Part::Arguments(json) => Said::Arguments(json),
                Part::CallEnd => Said::CallEnd,
            };
            self.said.push_back((i, said));
        }
    }

    fn end(&mut self, i: usize, finished: Finished) {
        if let Some(reader) = &mut self.choices[i].reader {
            let rest = reader.finish();
            self.parts(i, rest);
        }
        let is_whole = !matches!(finished.stop, StopReason::Limit | StopReason::ContextFull);
        let calls = self.choices[i].calls && is_whole;
        self.said
            .push_back((i, Said::End(Ending { finished, calls })));
    }
}
