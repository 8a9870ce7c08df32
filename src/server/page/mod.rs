//! The chat page: one HTML file that `scripts/build_page` makes of `web/`, and the headers that bind a browser to it.
//!
//! The policy lets the page run its own script and style, known by their hashes, and talk to this server; nothing
//! else is loaded, framed or submitted to. Strings become elements only through DOMPurify (`trusted-types`). So
//! text that a model was told to write has no way to run, to fetch or to report.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const HTML: &str = include_str!("dist/index.html");

/// Headers that follow from the page's bytes.
struct Headers {
    etag: HeaderValue,
    policy: HeaderValue,
}

static HEADERS: LazyLock<Headers> = LazyLock::new(|| {
    let value = |text: String| HeaderValue::try_from(text).expect("base64 is ASCII");
    Headers {
        etag: value(format!("\"{}\"", sha256(HTML))),
        policy: value(policy(HTML)),
    }
});

const ALWAYS: [(HeaderName, &str); 7] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    // Kept by the browser, and asked about each time: a new version is seen at once.
    (header::CACHE_CONTROL, "no-cache"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // For browsers that do not know frame-ancestors.
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
];

/// The page, or "not modified" to a browser that has it.
pub async fn serve(asked: HeaderMap) -> Response {
    let known = asked.get_all(header::IF_NONE_MATCH).iter();
    let is_known = known
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim().trim_start_matches("W/") == HEADERS.etag);
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        HTML.into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::ETAG, HEADERS.etag.clone());
    headers.insert(header::CONTENT_SECURITY_POLICY, HEADERS.policy.clone());
    response
}

/// What the browser may do with the page.
fn policy(html: &str) -> String {
    let hash = |start, end| sha256(between(html, start, end));
    let script = hash("<script type=\"module\">", "</script>");
    let style = hash("<style>", "</style>");
    format!(
        "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types dompurify"
    )
}

fn sha256(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}

/// What an element holds. The build makes sure that its end is the first one.
fn between<'a>(html: &'a str, start: &str, end: &str) -> &'a str {
    let inside = html.split_once(start).map_or("", |(_, rest)| rest);
    inside.split_once(end).map_or("", |(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_build_makes_of_its_sources() {
        let made_of: std::collections::BTreeMap<String, String> =
            serde_json::from_str(include_str!("dist/made-of.json")).unwrap();
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/page");
        for (name, known) in &made_of {
            let found = Sha256::digest(std::fs::read(folder.join(name)).unwrap());
            let found = super::super::access::key::hex(&found);
            assert_eq!(
                &found, known,
                "{name} has changed since: run scripts/build_page"
            );
        }
        let mut sources = Vec::new();
        names_below(&folder.join("web/src"), "web/src", &mut sources);
        for name in &sources {
            assert!(
                made_of.contains_key(name),
                "{name} is new: run scripts/build_page"
            );
        }
        assert!(sources.len() > 10 && made_of.contains_key("dist/index.html"));
    }

    fn names_below(folder: &std::path::Path, name: &str, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{name}/{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                names_below(&entry.path(), &name, names);
            } else {
                names.push(name);
            }
        }
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_runs_nothing_but_its_script() {
        let script = between(HTML, "<script type=\"module\">", "</script>");
        let style = between(HTML, "<style>", "</style>");
        assert!(script.len() > 100_000 && style.len() > 5_000);
        // The parts that a browser reads as markup.
        let licences = HTML.rfind("<!--\n").unwrap();
        let markup = HTML[..licences]
            .replacen(script, "", 1)
            .replacen(style, "", 1);
        assert_eq!(markup.matches("<script").count(), 1);
        for wanting in [
            " src=",
            "<link rel=\"stylesheet",
            "<iframe",
            "<img",
            " style=",
            " onclick",
            "javascript:",
        ] {
            assert!(!markup.contains(wanting), "{wanting}");
        }
        let mut addresses = markup.split("href=\"").skip(1);
        assert!(
            addresses
                .all(|address| address.starts_with('#')
                    || address.starts_with("data:image/svg+xml,"))
        );
        assert!(!style.contains("url(") && !style.contains("@import"));
    }
}
