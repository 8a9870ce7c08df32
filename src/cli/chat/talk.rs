//! A conversation with a model.

use std::ops::ControlFlow;

use crate::engine::sample::SamplingParams;
use crate::engine::template::{ChatTemplate, Message, Role};
use crate::engine::{Constraint, Engine, Limits, Outcome, Overflow, Request, StopReason};
use crate::error::Error;

/// What has been said, and all that is needed to go on.
pub struct Talk {
    engine: Engine,
    template: ChatTemplate,
    params: SamplingParams,
    limits: Limits,
    overflow: Overflow,
    constraint: Option<Constraint>,
    /// The user chose the seed: the same conversation then gives the same answers.
    seed_fixed: bool,
    n_answers: u32,
    system: String,
    messages: Vec<Message>,
}

impl Talk {
    pub fn new(
        engine: Engine,
        template: ChatTemplate,
        params: SamplingParams,
        limits: Limits,
        overflow: Overflow,
        constraint: Option<Constraint>,
        seed_fixed: bool,
    ) -> Self {
        Talk {
            engine,
            template,
            params,
            limits,
            overflow,
            constraint,
            seed_fixed,
            n_answers: 0,
            system: String::new(),
            messages: Vec::new(),
        }
    }

    /// Tokens that the context holds.
    pub fn n_ctx(&self) -> usize {
        self.engine.n_ctx()
    }

    /// The system message; empty when there is none.
    pub fn system(&self) -> &str {
        &self.system
    }

    /// Sets the system message, from the next answer on; empty for none.
    pub fn set_system(&mut self, text: &str) {
        text.clone_into(&mut self.system);
    }

    /// Forgets what was said. The system message stays.
    pub fn clear(&mut self) {
        self.messages.clear();
        if self.seed_fixed {
            self.n_answers = 0;
        }
    }

    /// The seed of the next answer: another one for each, or the same question would always get the same.
    pub fn next_seed(&self) -> u32 {
        // Never u32::MAX, which llama.cpp takes for "choose one".
        let seed = u64::from(self.params.seed) + u64::from(self.n_answers);
        (seed % u64::from(u32::MAX)) as u32
    }

    /// Says something and gives the model's answer, piece by piece to `on_text`.
    ///
    /// After an error the conversation is as before. What the model had written when it was interrupted
    /// stays a part of the conversation.
    pub fn answer(
        &mut self,
        text: &str,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Outcome, Error> {
        let n_before = self.messages.len();
        self.messages.push(Message::new(Role::User, text));
        let answered = self.generate(on_text);
        match &answered {
            Ok(outcome) if outcome.stop == StopReason::Interrupted && outcome.text.is_empty() => {
                self.messages.truncate(n_before);
            }
            Ok(outcome) => {
                self.messages
                    .push(Message::new(Role::Assistant, outcome.text.as_str()));
                self.n_answers = self.n_answers.wrapping_add(1);
            }
            Err(_) => self.messages.truncate(n_before),
        }
        answered
    }

    fn generate(&mut self, on_text: impl FnMut(&str) -> ControlFlow<()>) -> Result<Outcome, Error> {
        let system =
            (!self.system.is_empty()).then(|| Message::new(Role::System, self.system.as_str()));
        let all: Vec<Message> = system
            .into_iter()
            .chain(self.messages.iter().cloned())
            .collect();
        let rendered = self.template.render(&all, true)?;
        let mut request = Request::new(self.engine.tokenizer().encode_rendered(&rendered)?);
        request.sampling = SamplingParams {
            seed: self.next_seed(),
            ..self.params.clone()
        };
        request.limits = self.limits;
        request.overflow = self.overflow;
        request.constraint.clone_from(&self.constraint);
        Ok(self.engine.submit(request)?.finish_with(on_text)?)
    }
}
