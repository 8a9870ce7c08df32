//! The answer's form: JSON, schemas, grammars, biases, penalties.

use serde_json::{Value, json};

use super::{asked, chatty, content, question};

const CHAT: &str = "/v1/chat/completions";

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "kind": {"enum": ["a", "b"]},
            "n": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "kind", "n"],
        "additionalProperties": false,
    })
}

#[test]
fn an_answer_has_the_schema_that_is_asked_for() {
    let server = chatty(&[]);
    for seed in 0..4 {
        let request = json!({
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema(), "strict": true}},
            "temperature": 1, "seed": seed, "max_tokens": 300,
        });
        let answer = server.post(CHAT, &asked("Hello", request)).ok();
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        let value: Value = serde_json::from_str(content(&answer)).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 3);
        assert!(["a", "b"].contains(&value["kind"].as_str().unwrap()));
        assert!((0..=99).contains(&value["n"].as_i64().unwrap()));
    }
    // Several choices have it, each by itself.
    let request = json!({
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema()}},
        "temperature": 1, "seed": 1, "max_tokens": 300, "n": 8,
    });
    let answer = server.post(CHAT, &asked("Hello", request)).ok();
    let mut texts: Vec<&str> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["message"]["content"].as_str().unwrap())
        .collect();
    for text in &texts {
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 3, "{text}");
    }
    texts.sort();
    texts.dedup();
    assert!(texts.len() > 4, "{texts:?}");
    let grammar =
        json!({"grammar": "root ::= \"yes\" | \"no\"", "temperature": 1, "max_tokens": 20});
    let answer = server.post(CHAT, &asked("Hello", grammar)).ok();
    assert!(["yes", "no"].contains(&content(&answer)));
}

#[test]
fn forms_that_are_none_are_refused_by_name() {
    let server = chatty(&[]);
    let with = |format: Value| server.post(CHAT, &asked("x", json!({"response_format": format})));
    with(json!({"type": "xml"})).fails(400, "invalid_value", Some("response_format.type"));
    with(json!({})).fails(
        400,
        "missing_required_parameter",
        Some("response_format.type"),
    );
    with(json!({"type": "json_schema"})).fails(
        400,
        "missing_required_parameter",
        Some("response_format.json_schema"),
    );
    let schema = |schema: Value| {
        with(json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}))
    };
    schema(json!("x")).fails(
        400,
        "invalid_value",
        Some("response_format.json_schema.schema"),
    );
    schema(json!({"type": "nonsense"})).fails(400, "invalid_value", Some("response_format"));
    let mut deep = json!({"type": "string"});
    for _ in 0..110 {
        deep = json!({"items": deep});
    }
    assert_eq!(schema(deep).status(), 400);
    let both = json!({"response_format": {"type": "json_object"}, "grammar": "root ::= \"x\""});
    server
        .post(CHAT, &asked("x", both))
        .fails(400, "invalid_value", Some("response_format"));
}

#[test]
fn a_bias_forbids_a_token_or_forces_it() {
    let server = chatty(&[]);
    let free = server
        .post(
            CHAT,
            &asked("Hello", json!({"max_tokens": 1, "ignore_eos": true})),
        )
        .ok();
    let first = content(&free).to_owned();
    let request = json!({"content": first, "add_special": false, "parse_special": false});
    let tokens = server.post("/tokenize", &request).ok()["tokens"].clone();
    let token = tokens.as_array().unwrap().last().unwrap().to_string();
    let with = |bias: f64| {
        let more =
            json!({"max_tokens": 3, "ignore_eos": true, "logit_bias": {token.as_str(): bias}});
        content(&server.post(CHAT, &asked("Hello", more)).ok()).to_owned()
    };
    assert!(!with(-100.0).contains(&first));
    assert_eq!(with(100.0), first.repeat(3));
    for (bias, param) in [
        (json!({"x": 1}), "logit_bias"),
        (json!({"-1": 1}), "logit_bias"),
        (json!({"99999999": 1}), "logit_bias"),
        (json!({"5": 101}), "logit_bias.5"),
        (json!([1]), "logit_bias"),
    ] {
        server
            .post(CHAT, &asked("x", json!({"logit_bias": bias})))
            .fails(400, "invalid_value", Some(param));
    }
}

#[test]
fn penalties_keep_an_answer_from_repeating_itself() {
    let server = chatty(&[]);
    let repeats = |more: Value| {
        let mut request = question("Hello");
        super::merge(
            &mut request,
            json!({
                "max_tokens": 60, "ignore_eos": true, "logit_bias": {"300": 6, "301": 6, "302": 6}, "logprobs": true,
            }),
        );
        super::merge(&mut request, more);
        let answer = server.post(CHAT, &request).ok();
        let tokens = answer["choices"][0]["logprobs"]["content"]
            .as_array()
            .unwrap()
            .clone();
        let mut different: Vec<String> = tokens.iter().map(|t| t["token"].to_string()).collect();
        let n = different.len();
        different.sort();
        different.dedup();
        n - different.len()
    };
    let free = repeats(json!({}));
    assert!(repeats(json!({"frequency_penalty": 2.0})) < free, "{free}");
    assert!(
        repeats(json!({"presence_penalty": 2.0, "repeat_last_n": 64})) < free,
        "{free}"
    );
    // Each token is a repetition of at least no tokens.
    let dry = json!({"dry_multiplier": 50.0, "dry_base": 1.0, "dry_allowed_length": 0,
        "dry_penalty_last_n": 64, "dry_sequence_breakers": []});
    assert!(repeats(dry) < free, "{free}");
    for (field, value) in [
        ("dry_sequence_breakers", json!("\n")),
        ("dry_sequence_breakers", json!(vec!["a"; 65])),
    ] {
        server.post(CHAT, &asked("x", json!({field: value}))).fails(
            400,
            "invalid_value",
            Some(field),
        );
    }
    server
        .post(
            CHAT,
            &asked("x", json!({"dry_sequence_breakers": ["a", ""]})),
        )
        .fails(400, "invalid_value", Some("dry_sequence_breakers[1]"));
}
