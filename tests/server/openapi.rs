//! The OpenAPI document: all routes are in it, and requests and answers are as it says.

use serde_json::{Value, json};

use super::{asked, chatty};
use crate::util::http::{Response, Server};

/// The defects of a value under a schema, by the keywords that the document uses.
fn defects(document: &Value, schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let fields = schema.as_object().unwrap();
    let mut wrong = |what: &str| found.push(format!("{path}: {what}: {value}"));
    for (keyword, rule) in fields {
        match keyword.as_str() {
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                let target = document.pointer(pointer).unwrap();
                defects(document, target, value, path, found);
                return;
            }
            "type" => {
                let is = match rule.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    // 3.0 is one, too.
                    "integer" => value.as_f64().is_some_and(|v| v.fract() == 0.0),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    other => panic!("{other}"),
                };
                if !is {
                    wrong(rule.as_str().unwrap());
                }
            }
            "const" if value != rule => wrong("const"),
            "enum" if !rule.as_array().unwrap().contains(value) => wrong("enum"),
            "minimum" if value.as_f64().is_some_and(|v| v < rule.as_f64().unwrap()) => {
                wrong("minimum")
            }
            "maximum" if value.as_f64().is_some_and(|v| v > rule.as_f64().unwrap()) => {
                wrong("maximum")
            }
            "minItems"
                if value
                    .as_array()
                    .is_some_and(|v| (v.len() as u64) < rule.as_u64().unwrap()) =>
            {
                wrong("minItems")
            }
            "maxLength"
                if value
                    .as_str()
                    .is_some_and(|v| v.chars().count() as u64 > rule.as_u64().unwrap()) =>
            {
                wrong("maxLength")
            }
            "pattern"
                if value.as_str().is_some_and(|v| {
                    !regex::Regex::new(rule.as_str().unwrap())
                        .unwrap()
                        .is_match(v)
                }) =>
            {
                wrong("pattern")
            }
            "required" => {
                for name in rule.as_array().unwrap() {
                    if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                        wrong(name.as_str().unwrap());
                    }
                }
            }
            _ => {}
        }
    }
    for (keyword, rule) in fields {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(map)) => {
                for (name, schema) in rule.as_object().unwrap() {
                    if let Some(value) = map.get(name) {
                        defects(document, schema, value, &format!("{path}.{name}"), found);
                    }
                }
            }
            ("propertyNames", Value::Object(map)) => {
                for name in map.keys() {
                    defects(document, rule, &json!(name), path, found);
                }
            }
            ("items", Value::Array(items)) => {
                for (i, item) in items.iter().enumerate() {
                    defects(document, rule, item, &format!("{path}[{i}]"), found);
                }
            }
            ("if", _) => {
                let mut unlike = Vec::new();
                defects(document, rule, value, path, &mut unlike);
                if unlike.is_empty() {
                    defects(document, &fields["then"], value, path, found);
                }
            }
            ("allOf", _) => {
                for schema in rule.as_array().unwrap() {
                    defects(document, schema, value, path, found);
                }
            }
            ("anyOf", _) => {
                let fits = |schema| {
                    let mut found = Vec::new();
                    defects(document, schema, value, path, &mut found);
                    found.is_empty()
                };
                if !rule.as_array().unwrap().iter().any(fits) {
                    found.push(format!("{path}: anyOf: {value}"));
                }
            }
            _ => {}
        }
    }
}

struct Documented {
    server: Server,
    document: Value,
}

impl Documented {
    fn schema_of(&self, path: &str, method: &str, status: u16) -> &Value {
        let operation = &self.document["paths"][path][method];
        let response = &operation["responses"][status.to_string()];
        assert!(
            response.is_object(),
            "{method} {path}: {status} is not documented"
        );
        &response["content"]["application/json"]["schema"]
    }

    #[track_caller]
    fn check(&self, schema: &Value, value: &Value) {
        let mut found = Vec::new();
        defects(&self.document, schema, value, "", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }

    /// Sends what the document allows and checks the answer.
    fn ask(&self, path: &str, body: Value) -> Response {
        let operation = &self.document["paths"][path]["post"];
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        self.check(schema, &body);
        let response = self.server.post(path, &body);
        self.check(
            self.schema_of(path, "post", response.status()),
            &response.json(),
        );
        response
    }

    /// Sends what the document forbids: it is refused, and the error is documented, too.
    fn refused(&self, path: &str, body: Value) {
        let operation = &self.document["paths"][path]["post"];
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let mut found = Vec::new();
        defects(&self.document, schema, &body, "", &mut found);
        assert!(!found.is_empty(), "the document allows {body}");
        let response = self.server.post(path, &body);
        assert_eq!(response.status(), 400, "{body}: {}", response.text());
        self.check(self.schema_of(path, "post", 400), &response.json());
    }
}

#[test]
fn requests_and_answers_are_as_documented() {
    let server = chatty(&["--embeddings"]);
    let document = server.get("/openapi.json").ok();
    assert_eq!(document["openapi"], "3.1.0");
    let all = Documented { server, document };
    let more = json!({
        "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "seed": 1, "n": 2, "stop": ["x", "y"], "logprobs": true,
        "top_logprobs": 2, "frequency_penalty": 0.5, "logit_bias": {"5": -1}, "stream": false, "user": "u",
    });
    let chat = "/v1/chat/completions";
    all.ask(chat, asked("Hello", more)).ok();
    let object = json!({"max_completion_tokens": 50, "response_format": {"type": "json_object"}});
    all.ask(chat, asked("Hello", object)).ok();
    all.ask(
        "/v1/completions",
        json!({"prompt": ["a", [5, 6]], "max_tokens": 2, "echo": true, "logprobs": 1}),
    )
    .ok();
    all.ask(
        "/v1/responses",
        json!({"input": "Hello", "max_output_tokens": 3}),
    )
    .ok();
    let messages = json!([{"role": "user", "content": "Hello"}]);
    all.ask(
        "/v1/messages",
        json!({"max_tokens": 3, "messages": messages}),
    )
    .ok();
    all.ask("/v1/embeddings", json!({"input": ["a", "b"]})).ok();
    all.ask(
        "/tokenize",
        json!({"content": "Hello", "with_pieces": true}),
    )
    .ok();
    all.ask("/tokenize", json!({"content": "Hello"})).ok();
    all.ask("/detokenize", json!({"tokens": [5, 6]})).ok();
    all.ask("/apply-template", json!({"messages": messages}))
        .ok();
    for path in [
        "/health",
        "/health/live",
        "/health/ready",
        "/props",
        "/v1/models",
    ] {
        all.check(all.schema_of(path, "get", 200), &all.server.get(path).ok());
    }
    let model = all.server.get("/v1/models/chatty").ok();
    all.check(all.schema_of("/v1/models/{model}", "get", 200), &model);
    let nothing = all.server.get("/v1/models/x");
    all.check(
        all.schema_of("/v1/models/{model}", "get", nothing.status()),
        &nothing.json(),
    );
    // A stream's events.
    let mut streaming = asked(
        "Hello",
        json!({"max_tokens": 3, "stream": true, "logprobs": true}),
    );
    streaming["stream_options"] = json!({"include_usage": true});
    let chunk = json!({"$ref": "#/components/schemas/ChatChunk"});
    for event in all.server.post(chat, &streaming).events() {
        if event != "[DONE]" {
            all.check(&chunk, &event);
        }
    }
    // Each field of each request with a value of each kind: what the document forbids is refused.
    let values = [
        json!("x"),
        json!(-7),
        json!(1.5),
        json!(1e9),
        json!(true),
        json!([{}]),
        json!({"x": {}}),
    ];
    for (path, good) in [
        (chat, asked("Hello", json!({"max_tokens": 1}))),
        ("/v1/completions", json!({"prompt": "a", "max_tokens": 1})),
        (
            "/v1/responses",
            json!({"input": "a", "max_output_tokens": 1}),
        ),
        (
            "/v1/messages",
            json!({"max_tokens": 1, "messages": messages}),
        ),
        ("/v1/embeddings", json!({"input": "a"})),
        ("/tokenize", json!({"content": "a"})),
        ("/detokenize", json!({"tokens": [5]})),
        ("/apply-template", json!({"messages": messages})),
    ] {
        let operation = &all.document["paths"][path]["post"];
        let name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            .as_str()
            .unwrap();
        let schema = all.document.pointer(&name[1..]).unwrap();
        for field in schema["properties"].as_object().unwrap().keys() {
            for value in &values {
                let mut body = good.clone();
                body[field] = value.clone();
                let mut found = Vec::new();
                defects(&all.document, schema, &body, "", &mut found);
                // A name that is no model's is 404, and what no model could do is told as such.
                if !found.is_empty() && field != "model" {
                    all.refused(path, body);
                }
            }
        }
    }
}

/// schemathesis found that wrong values went unseen where the answer does not depend on them.
#[test]
fn a_wrong_value_is_refused_where_nothing_needs_it() {
    let server = chatty(&[]);
    let document = server.get("/openapi.json").ok();
    let all = Documented { server, document };
    let chat = |more| asked("Hello", more);
    for more in [
        json!({"logit_bias": {"+5": 1}}),
        json!({"response_format": {"type": "text", "json_schema": 5}}),
        json!({"response_format": {"type": "json_object", "json_schema": {"schema": 5}}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": 5}}}),
        json!({
            "tools": [{"type": "function", "function": {"name": "f", "strict": 5}}], "tool_choice": "none",
        }),
    ] {
        all.refused("/v1/chat/completions", chat(more));
    }
    all.refused(
        "/v1/responses",
        json!({"input": "a", "text": {"format": {"type": "text", "schema": 5}}}),
    );
    let messages = json!([{"role": "user", "content": "Hello"}]);
    for more in [
        json!({"tool_choice": {"type": "auto", "name": 5}}),
        json!({"tools": [{"name": "f", "input_schema": 5}], "tool_choice": {"type": "none"}}),
    ] {
        let mut body = json!({"max_tokens": 1, "messages": messages});
        super::merge(&mut body, more);
        all.refused("/v1/messages", body);
    }
}

#[test]
fn every_route_is_documented_with_what_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys.json");
    let add = crate::args!["keys", "add", "--keys", &keys, "tests"];
    crate::util::program::yi(add).ok();
    let server = chatty(&["--keys", keys.to_str().unwrap()]);
    let document = server.get("/openapi.json").ok();
    // The routes as the program's source has them.
    let source = include_str!("../../src/server/routes.rs");
    let routes: Vec<&str> = source
        .split('"')
        .filter(|text| {
            text.starts_with('/') && text.len() > 1 && !text.contains(char::is_whitespace)
        })
        .collect();
    assert!(routes.len() > 12);
    let paths = document["paths"].as_object().unwrap();
    for route in routes {
        assert!(paths.contains_key(route), "{route} is not documented");
    }
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let path = path.replace("{model}", "x");
            let response = server.request(&method.to_uppercase(), &path, &[], b"");
            let is_public = operation["security"] == json!([]);
            assert_eq!(response.status() == 401, !is_public, "{method} {path}");
        }
    }
}
