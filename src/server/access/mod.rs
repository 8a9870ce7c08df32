//! Who may do what: keys, scopes, and limits for each key.

pub mod guard;
pub mod key;
pub mod limits;
pub mod store;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::api_error::ApiError;

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Asking the model, and what belongs to it: models, tokens, templates.
    Chat,
    /// Embeddings.
    Embeddings,
    /// Metrics and settings; all else, too.
    Admin,
}

/// What a key may use; absent = as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyLimits {
    /// Requests in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens of prompts and answers in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Requests at the same time, those that wait included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    /// Tokens of one request, prompt and answer together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key's id; [`NOBODY`] where no keys are used.
    pub id: Arc<str>,
    scopes: Arc<[Scope]>,
    /// What it may use.
    pub limits: KeyLimits,
}

/// The id of callers where no keys are used.
pub const NOBODY: &str = "-";

impl Caller {
    /// Whoever reaches a server without keys: all scopes and no limits.
    pub fn nobody() -> Self {
        Caller {
            id: NOBODY.into(),
            scopes: [Scope::Admin].into(),
            limits: KeyLimits::default(),
        }
    }

    /// Whether its key has the scope.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// The most tokens of each of a request's answers: what the limit of one request's tokens leaves beside all of its
    /// prompts. `asked`: those of each answer, where the request says it.
    ///
    /// # Errors
    /// When that is not as many as asked for, or none.
    pub fn answer_tokens(
        &self,
        n_prompt: usize,
        n_answers: usize,
        asked: Option<usize>,
    ) -> Result<usize, ApiError> {
        let Some(most) = self.limits.context.map(|most| most as usize) else {
            return Ok(usize::MAX);
        };
        let left = most.checked_sub(n_prompt);
        let each = left.map(|left| left / n_answers.max(1));
        each.filter(|&each| each >= asked.unwrap_or(1))
            .ok_or_else(|| {
                let n_more = asked.unwrap_or(1).saturating_mul(n_answers);
                ApiError::over_context(n_prompt, n_more, most)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_prompts_and_answers_of_a_request_share_the_keys_limit() {
        let mut caller = Caller::nobody();
        assert_eq!(caller.answer_tokens(1 << 40, 9, None).unwrap(), usize::MAX);
        caller.limits.context = Some(40);
        let each = |n_prompt, n_answers, asked| {
            let most = caller.answer_tokens(n_prompt, n_answers, asked);
            most.map_err(|error| (error.code, error.message().to_owned()))
        };
        assert_eq!(each(30, 1, None), Ok(10));
        assert_eq!(each(30, 4, None), Ok(2));
        assert_eq!(each(30, 4, Some(2)), Ok(2));
        assert_eq!(each(40, 0, Some(0)), Ok(0));
        for (n_prompt, n_answers, asked, counts) in [
            (41, 0, Some(0), "the prompt has 41 tokens; "),
            (
                40,
                1,
                None,
                "the prompt has 40 tokens and 1 more are asked for; ",
            ),
            (
                30,
                4,
                Some(3),
                "the prompt has 30 tokens and 12 more are asked for; ",
            ),
        ] {
            let (code, message) = each(n_prompt, n_answers, asked).unwrap_err();
            assert_eq!(code, Some("context_length_exceeded"));
            let expected = "the key may use 40 tokens in a request (context_length_exceeded)";
            assert_eq!(message, format!("{counts}{expected}"));
        }
    }
}
