//! What a client is told when its request is refused, in OpenAI's shape.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use crate::engine::template::TemplateError;
use crate::engine::tokenize::TextError;
use crate::engine::{ConstraintError, EngineError};

/// A refusal: an HTTP status and OpenAI's `error` object.
#[derive(Debug, Clone, Serialize)]
pub struct ApiError {
    #[serde(skip)]
    pub status: StatusCode,
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field that is wrong, as a path: `messages[0].content`.
    param: Option<String>,
    pub code: Option<&'static str>,
    /// Seconds after which it may be possible.
    #[serde(skip)]
    retry_after_s: Option<u64>,
}

/// The code of what is refused because the audit log cannot be written.
pub const AUDIT_FAILED: &str = "audit_failed";

const INVALID: &str = "invalid_request_error";

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            status,
            message: message.into(),
            kind,
            param: None,
            code: None,
            retry_after_s: None,
        }
    }

    fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    fn after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// A field with a wrong value. `message` names it.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        ApiError {
            param: Some(param.into()),
            code: Some("invalid_value"),
            ..Self::new(StatusCode::BAD_REQUEST, INVALID, message)
        }
    }

    /// A field that must be there.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("{param} is missing");
        ApiError {
            code: Some("missing_required_parameter"),
            ..Self::invalid(param, message)
        }
    }

    /// Something that this model or this server cannot do.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        ApiError {
            code: Some("unsupported_value"),
            ..Self::invalid(param, message)
        }
    }

    /// A request that cannot be read at all.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, message)
    }

    /// No key, or none that is known. One answer for all cases.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            INVALID,
            "a valid API key is needed: Authorization: Bearer KEY",
        )
        .code("invalid_api_key")
    }

    /// The key is known and may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
            .code("insufficient_permissions")
    }

    /// There is no such route.
    pub fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, INVALID, "there is no such route").code("unknown_url")
    }

    /// The route takes another method.
    pub fn wrong_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            INVALID,
            "the route takes another method",
        )
        .code("method_not_allowed")
    }

    /// There is no such model. `known` lists those that there are.
    pub fn no_model(name: &str, known: &str) -> Self {
        ApiError {
            param: Some("model".to_owned()),
            ..Self::new(
                StatusCode::NOT_FOUND,
                INVALID,
                format!("there is no model {name:?} here; there is {known}"),
            )
            .code("model_not_found")
        }
    }

    /// The model cannot be loaded; with `is_passing`, perhaps later.
    pub fn not_loaded(message: impl Into<String>, is_passing: bool) -> Self {
        let error = if is_passing {
            Self::unavailable(message, "model_load_failed", 30)
        } else {
            Self::internal(message).code("model_load_failed")
        };
        ApiError {
            param: Some("model".to_owned()),
            ..error
        }
    }

    /// A body that is not JSON by its type.
    pub fn media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            INVALID,
            "the body must be JSON, with Content-Type: application/json",
        )
        .code("unsupported_media_type")
    }

    /// A body that is too large.
    pub fn too_large(max_bytes: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            INVALID,
            format!("the body has more than {max_bytes} bytes"),
        )
        .code("request_too_large")
    }

    /// A body that does not arrive.
    pub fn slow_body() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            INVALID,
            "the body did not arrive in time",
        )
        .code("request_timeout")
    }

    /// As many requests wait as may.
    pub fn queue_full(n_waiting: usize, retry_after_s: u64) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "requests",
            format!("{n_waiting} requests are waiting already"),
        )
        .code("queue_full")
        .after(retry_after_s)
    }

    /// More tokens than one request of the key may have, prompts and answers together.
    pub fn over_context(n_prompt: usize, n_answers: usize, most: usize) -> Self {
        let more = match n_answers {
            0 => String::new(),
            n => format!(" and {n} more are asked for"),
        };
        let message = format!(
            "the prompt has {n_prompt} tokens{more}; the key may use {most} tokens in a request (context_length_exceeded)"
        );
        Self::malformed(message).code("context_length_exceeded")
    }

    /// The key has used up what it may.
    pub fn rate_limited(message: impl Into<String>, retry_after_s: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "requests", message)
            .code("rate_limit_exceeded")
            .after(retry_after_s)
    }

    /// Not now: the model loads, the server ends, the queue did not move.
    pub fn unavailable(message: impl Into<String>, code: &'static str, retry_after_s: u64) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message)
            .code(code)
            .after(retry_after_s)
    }

    /// Other large bodies have the memory there is for them.
    pub fn no_room() -> Self {
        let message = "too many large bodies have come at once";
        Self::unavailable(message, "queue_timeout", 5)
    }

    /// A fault of the server.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message).code("internal_error")
    }

    /// The server ends before the answer does.
    pub fn shutting_down() -> Self {
        Self::unavailable("the server is shutting down", "shutting_down", 5)
    }

    /// What is wrong, in words.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Calls a field as this API calls it.
    pub fn about(mut self, param: &str, here: &str) -> Self {
        if self.param.as_deref() == Some(param) {
            self.param = Some(here.to_owned());
        }
        self
    }

    /// The same in Anthropic's shape.
    pub fn anthropic(&self) -> serde_json::Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500..=599 => "api_error",
            _ => INVALID,
        };
        json!({"type": "error", "error": {"type": kind, "message": self.message}})
    }

    /// The body in OpenAI's shape.
    pub fn body(&self) -> serde_json::Value {
        json!({"error": self})
    }

    /// The error as an answer with this body.
    pub fn into_response_with(self, body: &serde_json::Value) -> Response {
        let mut response = (self.status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.body();
        self.into_response_with(&body)
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::ContextLengthExceeded { .. } => ApiError {
                code: Some("context_length_exceeded"),
                ..ApiError::malformed(message)
            },
            EngineError::QueueFull { n_waiting } => ApiError::queue_full(n_waiting, 1),
            EngineError::EmptyPrompt | EngineError::TokenOutOfRange { .. } => {
                ApiError::invalid("prompt", message)
            }
            EngineError::StopStrings { .. } | EngineError::StopStringLength { .. } => {
                ApiError::invalid("stop", message)
            }
            EngineError::Logprobs { .. } => ApiError::invalid("logprobs", message),
            EngineError::Sampling(error) => {
                ApiError::invalid(error.name.replace('-', "_"), message)
            }
            EngineError::BiasOutOfRange { .. } => ApiError::invalid("logit_bias", message),
            EngineError::Constraint(
                ConstraintError::DeadEnd | ConstraintError::TooComplex { .. },
            ) => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, INVALID, message)
                .code("constraint_failed"),
            EngineError::Constraint(ConstraintError::Thread(_)) => ApiError::internal(message),
            EngineError::Constraint(_) => ApiError::invalid("response_format", message),
            EngineError::ShutDown => ApiError::shutting_down(),
            _ => ApiError::internal(message),
        }
    }
}

impl From<TemplateError> for ApiError {
    fn from(error: TemplateError) -> Self {
        let message = error.to_string();
        match error {
            TemplateError::Random(_) => ApiError::internal(message),
            _ => ApiError::invalid("messages", message),
        }
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::OnlyControl { .. } => ApiError::malformed(error.to_string()),
            TextError::Tokenize(_) => ApiError::internal(error.to_string()),
        }
    }
}
