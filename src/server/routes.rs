//! All routes, and what each needs; and the door that every request goes through.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::access::{Caller, Scope};
use super::api_error::{AUDIT_FAILED, ApiError};
use super::app::{App, random_id};
use super::generate::Asked;
use super::openai::{chat, completions, models, responses};
use super::record::{Finish, Record};
use super::{anthropic, embeddings, health, page, tokens};

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Public,
    Needs(Scope),
}

/// Routes by their paths. Whatever is not here needs a key, too, even to learn that it is not there.
#[derive(Default)]
struct Routes {
    router: Router<Arc<App>>,
    access: HashMap<String, (&'static str, Access)>,
}

impl Routes {
    fn add(mut self, access: Access, path: &'static str, handler: MethodRouter<Arc<App>>) -> Self {
        // The names of models in folders have slashes.
        let pattern = path.replace("{model}", "{*model}");
        self.router = self.router.route(&pattern, handler);
        self.access.insert(pattern, (path, access));
        self
    }

    fn public(self, path: &'static str, handler: MethodRouter<Arc<App>>) -> Self {
        self.add(Access::Public, path, handler)
    }

    fn needs(self, scope: Scope, path: &'static str, handler: MethodRouter<Arc<App>>) -> Self {
        self.add(Access::Needs(scope), path, handler)
    }
}

/// The whole service.
pub fn router(app: &Arc<App>) -> Router {
    let mut routes = Routes::default();
    if app.settings.has_page {
        routes = routes.public("/", get(page::serve));
    }
    let Routes { router, access } = routes
        .public("/health", get(health::ready))
        .public("/openapi.json", get(openapi))
        .public("/health/live", get(health::live))
        .public("/health/ready", get(health::ready))
        .needs(Scope::Chat, "/v1/chat/completions", post(chat::create))
        .needs(Scope::Chat, "/v1/completions", post(completions::create))
        .needs(Scope::Chat, "/v1/responses", post(responses::create))
        .needs(Scope::Chat, "/v1/messages", post(anthropic::create))
        .needs(
            Scope::Embeddings,
            "/v1/embeddings",
            post(embeddings::create),
        )
        .needs(Scope::Chat, "/v1/models", get(models::list))
        .needs(Scope::Chat, "/v1/models/{model}", get(models::retrieve))
        .needs(Scope::Chat, "/tokenize", post(tokens::tokenize))
        .needs(Scope::Chat, "/detokenize", post(tokens::detokenize))
        .needs(Scope::Chat, "/apply-template", post(tokens::apply_template))
        .needs(Scope::Chat, "/props", get(health::props))
        .needs(Scope::Admin, "/metrics", get(health::metrics));
    let door = Door {
        app: Arc::clone(app),
        access: Arc::new(access),
    };
    let router = router
        .fallback(async || ApiError::no_route())
        .method_not_allowed_fallback(async || ApiError::wrong_method())
        .layer(middleware::from_fn_with_state(door, pass))
        .with_state(Arc::clone(app));
    match cors(&app.settings.cors_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// The document that describes all routes; tests hold requests and answers against it.
async fn openapi() -> Response {
    let json = HeaderValue::from_static("application/json");
    let document = include_str!("openapi.json");
    ([(header::CONTENT_TYPE, json)], document).into_response()
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|o| o.parse().ok()).collect();
    if origins.is_empty() {
        return None;
    }
    let headers = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        HeaderName::from_static("x-api-key"),
        HeaderName::from_static("anthropic-version"),
    ];
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(headers)
            .expose_headers([HeaderName::from_static("x-request-id")]),
    )
}

#[derive(Clone)]
struct Door {
    app: Arc<App>,
    access: Arc<HashMap<String, (&'static str, Access)>>,
}

/// Lets a request in or refuses it, before its body is read, and follows it to its end.
async fn pass(State(door): State<Door>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let route = path.and_then(|path| door.access.get(path.as_str()));
    // A route that is not known is protected like the strictest one.
    let (endpoint, access) = route
        .copied()
        .unwrap_or(("unknown", Access::Needs(Scope::Chat)));
    let id = random_id("req_");
    let record = Arc::new(Record::new(id, endpoint));
    let finish = Finish::new(Arc::clone(&door.app), Arc::clone(&record));
    let is_head = request.method() == Method::HEAD;
    let answered = match door.check(&request, access, &record) {
        Ok(caller) => {
            run(
                next,
                request,
                Asked {
                    app: Arc::clone(&door.app),
                    caller,
                    record: Arc::clone(&record),
                },
            )
            .await
        }
        Err(error) => error.into_response(),
    };
    let mut response = match answered.extensions().get::<ApiError>() {
        Some(error) if endpoint == "/v1/messages" => {
            let body = error.anthropic();
            error.clone().into_response_with(&body)
        }
        _ => answered,
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&record.id) {
        headers.insert("x-request-id", id);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    finish.follow(response, is_head)
}

impl Door {
    fn check(
        &self,
        request: &Request,
        access: Access,
        record: &Record,
    ) -> Result<Caller, ApiError> {
        let app = &self.app;
        self.check_host(request)?;
        let Access::Needs(scope) = access else {
            return Ok(Caller::nobody());
        };
        let caller = app
            .guard
            .caller(request.headers())
            .ok_or_else(ApiError::unauthorized)?;
        record.set_caller(Arc::clone(&caller.id));
        // First, for any other refusal would have a record.
        if app.audit.as_ref().is_some_and(|audit| !audit.is_working()) {
            return Err(ApiError::unavailable(
                "the audit log cannot be written",
                AUDIT_FAILED,
                60,
            ));
        }
        record.set_running(app.meter.begin(&caller)?);
        if !caller.may(scope) {
            return Err(ApiError::forbidden(format!(
                "the key does not have the scope {scope:?} that this route needs"
            )));
        }
        app.check_open()?;
        Ok(caller)
    }

    /// A web page of an attacker may have its own name point to this machine. Its requests then name that.
    fn check_host(&self, request: &Request) -> Result<(), ApiError> {
        let Some(known) = &self.app.hosts else {
            return Ok(());
        };
        let host = request.headers().get(header::HOST);
        let Some(host) = host.and_then(|host| host.to_str().ok()) else {
            return Ok(());
        };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        if known.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            Ok(())
        } else {
            Err(ApiError::forbidden(
                "without keys, only this machine's own names are answered",
            ))
        }
    }
}

/// Runs a handler. A fault in it is an answer, not a connection that closes.
async fn run(next: Next, mut request: Request, asked: Asked) -> Response {
    request.extensions_mut().insert(asked);
    let mut running = pin!(next.run(request));
    std::future::poll_fn(|context| {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(context)));
        polled.unwrap_or_else(|_| {
            Poll::Ready(ApiError::internal("a fault in the server").into_response())
        })
    })
    .await
}
