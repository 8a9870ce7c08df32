//! The chat page, as a browser gets it. `scripts/test_page` has the tests with a browser.

use base64::Engine as _;
use sha2::Digest as _;

use super::{chatty, demo};
use crate::util::http::Response;

fn sha256(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(text))
}

/// The text of the first element with this start.
fn inside<'a>(html: &'a str, start: &str, end: &str) -> &'a str {
    let rest = html.split_once(start).unwrap().1;
    rest.split_once(end).unwrap().0
}

fn directive<'a>(page: &'a Response, name: &str) -> &'a str {
    let policy = page.head.header("content-security-policy").unwrap();
    let mut directives = policy.split("; ");
    let found = directives.find_map(|d| d.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {name} in {policy}"))
}

#[test]
fn the_page_comes_with_a_policy_that_fits_its_script_and_style_and_nothing_else() {
    let server = chatty(&[]);
    let page = server.get("/");
    assert_eq!(page.status(), 200);
    let header = |name| page.head.header(name).unwrap();
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("referrer-policy"), "no-referrer");
    assert_eq!(header("x-frame-options"), "DENY");
    assert_eq!(header("cross-origin-opener-policy"), "same-origin");
    let html = page.text();
    let style = inside(&html, "<style>", "</style>");
    let script = inside(&html, "<script type=\"module\">", "</script>");
    assert_eq!(
        directive(&page, "script-src"),
        format!("'sha256-{}'", sha256(script))
    );
    assert_eq!(
        directive(&page, "style-src"),
        format!("'sha256-{}'", sha256(style))
    );
    for name in ["default-src", "base-uri", "form-action", "frame-ancestors"] {
        assert_eq!(directive(&page, name), "'none'");
    }
    assert_eq!(directive(&page, "connect-src"), "'self'");
    assert_eq!(directive(&page, "require-trusted-types-for"), "'script'");
    let policy = header("content-security-policy");
    assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'));
}

#[test]
fn the_page_can_be_left_out() {
    let server = chatty(&["--no-page"]);
    server.get("/").fails(404, "unknown_url", None);
    server.get("/health").ok();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("serve.toml");
    std::fs::write(&config, "no-page = true\n").unwrap();
    let from_file = chatty(&["--config", config.to_str().unwrap()]);
    from_file.get("/").fails(404, "unknown_url", None);
}

#[test]
fn a_browser_that_has_the_page_is_not_sent_it_again() {
    let server = chatty(&[]);
    let page = server.get("/");
    let tag = page.head.header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", sha256(&page.text())));
    assert_eq!(page.head.header("cache-control"), Some("no-cache"));
    let ask = |tags: &str| server.request("GET", "/", &[&format!("If-None-Match: {tags}")], b"");
    for tags in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
        let again = ask(&tags);
        assert_eq!(again.status(), 304, "{tags}");
        assert!(again.body.is_empty());
        assert_eq!(again.head.header("etag"), Some(tag.as_str()));
        assert!(again.head.header("content-security-policy").is_some());
    }
    assert_eq!(ask("\"other\"").body, page.body);
    server
        .request("POST", "/", &[], b"")
        .fails(405, "method_not_allowed", None);
    server.get("/index.html").fails(404, "unknown_url", None);
}

#[test]
fn the_page_needs_no_key_and_what_it_asks_for_does() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.toml");
    let added = crate::util::program::yi_command()
        .args(["keys", "add", "someone", "--keys"])
        .arg(&keys)
        .output()
        .unwrap();
    assert!(added.status.success());
    let server = demo(&["--keys", keys.to_str().unwrap()]);
    assert_eq!(server.get("/").status(), 200);
    for path in ["/v1/models", "/props"] {
        server.get(path).fails(401, "invalid_api_key", None);
    }
}
