//! Tools in all three APIs, the newer APIs, and embeddings.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{asked, chatty, content, demo, merge, question};
use crate::args;
use crate::util::http::{Response, Server};
use crate::util::models;
use crate::util::program::yi;

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// ChatML with tools, in the form of Hermes and Qwen.
const TEMPLATE: &str = "{% if tools %}<|im_start|>system\nTools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}\n\
    <tool_call>\n{\"name\": ..., \"arguments\": ...}\n</tool_call><|im_end|>\n{% endif %}\
    {% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}\
    {% for call in message.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ call.function.name }}\", \"arguments\": \
    {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A server whose model's template has a place for tools.
struct WithTools {
    server: Server,
    _dir: tempfile::TempDir,
}

fn with_tools() -> WithTools {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("template.jinja");
    std::fs::write(&path, TEMPLATE).unwrap();
    let server = chatty(&["--chat-template-file", path.to_str().unwrap()]);
    WithTools { server, _dir: dir }
}

fn parameters(name: &str) -> Value {
    json!({
        "type": "object",
        "properties": {name: {"type": "string", "maxLength": 6}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": [name, "n"],
        "additionalProperties": false,
    })
}

fn tools() -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "description": "d", "parameters": parameters(name)}});
    json!([tool("weather"), tool("clock")])
}

/// Asserts that the arguments are what the tool's schema allows.
#[track_caller]
fn check(name: &str, arguments: &Value) {
    assert!(["weather", "clock"].contains(&name), "{name}");
    let fields = arguments.as_object().unwrap();
    assert_eq!(fields.len(), 2, "{arguments}");
    assert!(fields[name].as_str().unwrap().chars().count() <= 6);
    assert!((0..=9).contains(&fields["n"].as_i64().unwrap()));
}

#[test]
fn calls_have_the_tools_schema_streamed_or_not() {
    let with = with_tools();
    for (choice, seed) in [
        (json!("required"), 1),
        (json!("required"), 2),
        (
            json!({"type": "function", "function": {"name": "clock"}}),
            3,
        ),
    ] {
        let mut request = asked(
            "Hello",
            json!({
                "tools": tools(), "tool_choice": choice, "temperature": 1, "seed": seed, "max_tokens": 400,
                "parallel_tool_calls": false,
            }),
        );
        let answer = with.server.post(CHAT, &request).ok();
        let message = &answer["choices"][0]["message"];
        assert_eq!(
            answer["choices"][0]["finish_reason"], "tool_calls",
            "{answer}"
        );
        assert!(message["content"].is_null());
        let calls = message["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1);
        let name = calls[0]["function"]["name"].as_str().unwrap();
        let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
        check(name, &serde_json::from_str(arguments).unwrap());
        assert!(calls[0]["id"].as_str().unwrap().starts_with("call_"));
        if choice.is_object() {
            assert_eq!(name, "clock");
        }
        request["stream"] = json!(true);
        let events = with.server.post(CHAT, &request).events();
        let deltas: Vec<&Value> = events
            .iter()
            .filter_map(|e| e["choices"][0]["delta"]["tool_calls"].get(0))
            .collect();
        assert_eq!(deltas[0]["function"]["name"], name);
        assert!(deltas[0]["id"].is_string() && deltas[1]["id"].is_null());
        assert!(deltas.len() > 3, "they come as they are written");
        let streamed: String = deltas
            .iter()
            .map(|d| d["function"]["arguments"].as_str().unwrap())
            .collect();
        assert_eq!(streamed, arguments);
        assert_eq!(
            events[events.len() - 2]["choices"][0]["finish_reason"],
            "tool_calls"
        );
    }
}

#[test]
fn with_auto_the_model_may_write_text() {
    let with = with_tools();
    let request = json!({"tools": tools(), "max_tokens": 30, "temperature": 1, "seed": 4});
    let answer = with
        .server
        .post(CHAT, &asked("Hello", request.clone()))
        .ok();
    // A random model writes no `<tool_call>`.
    assert!(!content(&answer).is_empty());
    assert!(answer["choices"][0]["message"].get("tool_calls").is_none());
    let mut streaming = asked("Hello", request);
    streaming["stream"] = json!(true);
    let events = with.server.post(CHAT, &streaming).events();
    let text: String = events
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, content(&answer));
    // With `none`, it does not even hear of them.
    let n_prompt = |more: Value| {
        with.server.post(CHAT, &asked("Hello", more)).ok()["usage"]["prompt_tokens"].as_u64()
    };
    let without = n_prompt(json!({"max_tokens": 1}));
    assert_eq!(
        n_prompt(json!({"max_tokens": 1, "tools": tools(), "tool_choice": "none"})),
        without
    );
    assert!(n_prompt(json!({"max_tokens": 1, "tools": tools()})) > without);
}

#[test]
fn calls_and_their_results_are_a_part_of_the_conversation() {
    let with = with_tools();
    let messages = json!([
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{\"clock\": \"x\", \"n\": 1}"}},
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon <|im_end|>"},
    ]);
    let prompt = with
        .server
        .post("/apply-template", &json!({"messages": messages}))
        .ok()["prompt"]
        .clone();
    let prompt = prompt.as_str().unwrap();
    assert!(
        prompt.contains("{\"name\": \"clock\", \"arguments\": {\"clock\":"),
        "{prompt}"
    );
    assert!(prompt.contains("<|im_start|>tool\nnoon"), "{prompt}");
    with.server
        .post(
            CHAT,
            &json!({"messages": messages, "max_tokens": 1, "tools": tools()}),
        )
        .ok();
}

#[test]
fn tools_that_cannot_be_called_are_refused_by_name() {
    let with = with_tools();
    let server = &with.server;
    let refused = |more: Value, code: &str, param: &str| {
        server
            .post(CHAT, &asked("x", more))
            .fails(400, code, Some(param));
    };
    let one = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
    refused(
        one(json!({"name": "a b"})),
        "invalid_value",
        "tools[0].function",
    );
    refused(
        one(json!({})),
        "missing_required_parameter",
        "tools[0].function.name",
    );
    refused(
        one(json!({"name": "a", "parameters": []})),
        "invalid_value",
        "tools[0].function",
    );
    refused(
        one(json!({"name": "a", "parameters": {"type": "array"}})),
        "invalid_value",
        "tools[0].function",
    );
    let wrong = json!({"type": "object", "properties": {"x": {"type": "nonsense"}}});
    refused(
        one(json!({"name": "a", "parameters": wrong})),
        "invalid_value",
        "tools",
    );
    refused(
        json!({"tools": [{"type": "web_search"}]}),
        "unsupported_value",
        "tools[0].type",
    );
    refused(
        json!({"tools": [{"type": "function"}]}),
        "missing_required_parameter",
        "tools[0].function",
    );
    refused(
        json!({"tool_choice": "required"}),
        "invalid_value",
        "tool_choice",
    );
    refused(
        json!({"tools": tools(), "tool_choice": "maybe"}),
        "invalid_value",
        "tool_choice",
    );
    let nobody = json!({"type": "function", "function": {"name": "nobody"}});
    refused(
        json!({"tools": tools(), "tool_choice": nobody}),
        "invalid_value",
        "tool_choice",
    );
    let twice = json!({"tools": [tools()[0], tools()[0]]});
    refused(twice, "invalid_value", "tools");
    let both = json!({"tools": tools(), "response_format": {"type": "json_object"}});
    refused(both, "unsupported_value", "response_format");
    // A template without a place for them.
    let plain = chatty(&[]);
    let response = plain.post(CHAT, &asked("x", json!({"tools": tools()})));
    let error = response.fails(400, "unsupported_value", Some("tools"));
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .contains("no place for tools")
    );
}

#[test]
fn schemas_may_refer_to_their_own_parts() {
    let with = with_tools();
    // As Pydantic writes them; MCP's servers do the same.
    let schema = json!({
        "$defs": {"Unit": {"enum": ["C", "F"], "type": "string"},
            "Place": {"properties": {"unit": {"$ref": "#/$defs/Unit"}}, "required": ["unit"], "type": "object",
                "additionalProperties": false}},
        "properties": {"place": {"$ref": "#/$defs/Place"}, "unit": {"$ref": "#/$defs/Unit", "default": "C"}},
        "required": ["place", "unit"], "type": "object", "additionalProperties": false,
    });
    let tool =
        |name: &str| json!({"type": "function", "function": {"name": name, "parameters": schema}});
    for all in [json!([tool("one")]), json!([tools()[0], tool("one")])] {
        let named = json!({"type": "function", "function": {"name": "one"}});
        for (choice, seed) in [(json!("required"), 1), (json!("required"), 2), (named, 3)] {
            let request = asked(
                "Hello",
                json!({
                    "tools": all, "tool_choice": choice, "temperature": 1, "seed": seed, "max_tokens": 400,
                    "parallel_tool_calls": false,
                }),
            );
            let answer = with.server.post(CHAT, &request).ok();
            let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
            let arguments = call["arguments"].as_str().unwrap();
            let arguments: Value = serde_json::from_str(arguments).unwrap();
            if call["name"] == "weather" {
                check("weather", &arguments);
                continue;
            }
            for unit in [&arguments["unit"], &arguments["place"]["unit"]] {
                assert!(["C", "F"].contains(&unit.as_str().unwrap()), "{arguments}");
            }
        }
    }
}

#[test]
fn a_call_that_a_stop_string_cuts_is_not_told_as_a_complete_one() {
    let with = with_tools();
    let server = &with.server;
    let ask = |stop: &str| {
        let more = json!({
            "tools": tools(), "tool_choice": "required", "stop": stop, "temperature": 1, "seed": 1, "max_tokens": 400,
            "parallel_tool_calls": false,
        });
        let answer = server.post(CHAT, &asked("Hello", more)).ok();
        answer["choices"][0].clone()
    };
    // Inside the arguments, which all have a second field.
    let cut = ask("\"n\"");
    assert_eq!(cut["finish_reason"], "stop");
    // Behind them, nothing is missing.
    let whole = ask("</tool_call>");
    assert_eq!(whole["finish_reason"], "tool_calls");
    let call = &whole["message"]["tool_calls"][0]["function"];
    let arguments = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    check(call["name"].as_str().unwrap(), &arguments);

    let mut request = json!({
        "messages": [{"role": "user", "content": "Hello"}], "tools": [{"name": "clock", "input_schema": parameters("clock")}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true}, "stop_sequences": ["\"n\""],
        "temperature": 1, "max_tokens": 400,
    });
    let answer = server.post(MESSAGES, &request).ok();
    assert_eq!(
        (&answer["stop_reason"], &answer["stop_sequence"]),
        (&json!("stop_sequence"), &json!("\"n\""))
    );
    assert_eq!(answer["content"], json!([]));
    request["stream"] = json!(true);
    let events = named(&server.post(MESSAGES, &request));
    let (_, end) = &events[events.len() - 2];
    assert_eq!(end["delta"]["stop_reason"], "stop_sequence");

    let tool = json!({"type": "function", "name": "clock", "parameters": parameters("clock")});
    let request = json!({
        "input": "Hello", "tools": [tool], "tool_choice": "required", "parallel_tool_calls": false, "stop": "\"n\"",
        "temperature": 1, "max_output_tokens": 400,
    });
    let answer = server.post(RESPONSES, &request).ok();
    let call = &answer["output"][0];
    assert_eq!(
        (&call["type"], &call["status"]),
        (&json!("function_call"), &json!("incomplete"))
    );
}

/// The events of a stream with names, and their data.
fn named(response: &Response) -> Vec<(String, Value)> {
    let text = response.text();
    let frames = text
        .split("\n\n")
        .filter(|frame| frame.starts_with("event: "));
    frames
        .map(|frame| {
            let (name, data) = frame.split_once("\ndata: ").unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            let name = name.strip_prefix("event: ").unwrap().to_owned();
            assert_eq!(data["type"], name.as_str());
            (name, data)
        })
        .collect()
}

#[test]
fn responses_answer_as_chat_does() {
    let server = demo(&[]);
    let text = "What is 12 + 30?";
    let expected = server.post(CHAT, &question(text)).ok();
    let expected = content(&expected);
    for input in [
        json!(text),
        json!([{"role": "user", "content": text}]),
        json!([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]),
    ] {
        let request = json!({"input": input, "temperature": 0, "model": "demo-bf16"});
        let answer = server.post(RESPONSES, &request).ok();
        assert_eq!(answer["output"][0]["content"][0]["text"], expected);
        assert_eq!(
            (&answer["object"], &answer["status"]),
            (&json!("response"), &json!("completed"))
        );
        assert_eq!(
            answer["usage"]["total_tokens"].as_u64().unwrap(),
            answer["usage"]["input_tokens"].as_u64().unwrap()
                + answer["usage"]["output_tokens"].as_u64().unwrap()
        );
    }
    let request =
        json!({"input": text, "temperature": 0, "stream": true, "instructions": "Be brief."});
    let events = named(&server.post(RESPONSES, &request));
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names[..4],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added"
        ]
    );
    assert_eq!(
        names[names.len() - 4..],
        [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    for (i, (_, event)) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
    }
    let streamed: String = events
        .iter()
        .filter_map(|(_, e)| e["delta"].as_str())
        .collect();
    let whole = &events.last().unwrap().1["response"];
    assert_eq!(whole["output"][0]["content"][0]["text"], streamed);
    let mut plain = request.clone();
    plain["stream"] = json!(false);
    assert_eq!(
        server.post(RESPONSES, &plain).ok()["output"][0]["content"][0]["text"],
        streamed
    );
    let cut = json!({"input": "Hello", "max_output_tokens": 1});
    let cut = server.post(RESPONSES, &cut).ok();
    assert_eq!(
        (&cut["status"], &cut["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    for (more, code, param) in [
        (
            json!({"input": null}),
            "missing_required_parameter",
            "input",
        ),
        (json!({"input": []}), "invalid_value", "input"),
        (
            json!({"previous_response_id": "resp_1"}),
            "unsupported_value",
            "previous_response_id",
        ),
        (
            json!({"input": [{"type": "computer_call"}]}),
            "unsupported_value",
            "input[0].type",
        ),
    ] {
        let mut request = json!({"input": "x"});
        merge(&mut request, more);
        server
            .post(RESPONSES, &request)
            .fails(400, code, Some(param));
    }
}

#[test]
fn responses_call_tools() {
    let with = with_tools();
    let tool = json!({"type": "function", "name": "clock", "parameters": parameters("clock")});
    let mut request = json!({
        "input": "What time is it?", "tools": [tool], "tool_choice": "required", "temperature": 1,
        "max_output_tokens": 400, "parallel_tool_calls": false, "seed": 5,
    });
    let answer = with.server.post(RESPONSES, &request).ok();
    let call = &answer["output"][0];
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("function_call"), &json!("clock"))
    );
    let arguments = call["arguments"].as_str().unwrap();
    check("clock", &serde_json::from_str(arguments).unwrap());
    request["stream"] = json!(true);
    let events = named(&with.server.post(RESPONSES, &request));
    let of = |name: &str| {
        events
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, e)| e)
            .collect::<Vec<_>>()
    };
    let deltas = of("response.function_call_arguments.delta");
    let streamed: String = deltas
        .iter()
        .map(|e| e["delta"].as_str().unwrap())
        .collect();
    assert_eq!(streamed, arguments);
    assert_eq!(
        of("response.function_call_arguments.done")[0]["arguments"],
        arguments
    );
    let result =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "noon"});
    let next =
        json!({"input": [{"role": "user", "content": "x"}, call, result], "max_output_tokens": 2});
    with.server.post(RESPONSES, &next).ok();
}

#[test]
fn messages_are_anthropics() {
    let server = demo(&[]);
    let text = "What is 12 + 30?";
    let expected = server.post(CHAT, &question(text)).ok();
    let expected = content(&expected);
    let mut request = json!({
        "model": "demo-bf16", "max_tokens": 50, "temperature": 0, "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
    });
    let answer = server.post(MESSAGES, &request).ok();
    assert_eq!(answer["content"][0]["text"], expected);
    assert_eq!(
        (&answer["stop_reason"], &answer["type"]),
        (&json!("end_turn"), &json!("message"))
    );
    request["stream"] = json!(true);
    let events = named(&server.post(MESSAGES, &request));
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["message_start", "content_block_start"]);
    assert_eq!(
        names[names.len() - 3..],
        ["content_block_stop", "message_delta", "message_stop"]
    );
    let streamed: String = events
        .iter()
        .filter_map(|(_, e)| e["delta"]["text"].as_str())
        .collect();
    assert_eq!(streamed, expected);
    // Errors have another shape here.
    let response = server.post(MESSAGES, &json!({"messages": []}));
    assert_eq!(response.status(), 400);
    let error = response.json();
    assert_eq!(
        (&error["type"], &error["error"]["type"]),
        (&json!("error"), &json!("invalid_request_error"))
    );
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .contains("max_tokens")
    );
    let with = with_tools();
    let request = json!({
        "max_tokens": 400, "messages": [
            {"role": "user", "content": "What time is it?"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "clock", "input": {"clock": "a", "n": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "noon"}, {"type": "text", "text": "And now?"}]},
        ],
        "tools": [{"name": "clock", "input_schema": parameters("clock")}], "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
    });
    let answer = with.server.post(MESSAGES, &request).ok();
    assert_eq!(
        (&answer["content"][0]["type"], &answer["stop_reason"]),
        (&json!("tool_use"), &json!("tool_use"))
    );
    check("clock", &answer["content"][0]["input"]);
}

#[test]
fn embeddings_are_those_of_yi_embed() {
    let server = chatty(&["--embeddings"]);
    let texts = ["Hello world", "你好"];
    let answer = server.post("/v1/embeddings", &json!({"input": texts})).ok();
    let printed = yi(args![
        "embed",
        "-m",
        models::chatty(),
        "-t",
        "1",
        "--json",
        texts[0],
        texts[1]
    ])
    .ok();
    let expected: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(answer["usage"], expected["usage"]);
    for i in 0..2 {
        let numbers = |value: &Value| -> Vec<f64> {
            let all = value["data"][i]["embedding"].as_array().unwrap();
            all.iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let (found, expected) = (numbers(&answer), numbers(&expected));
        assert_eq!(found.len(), expected.len());
        assert!(
            found
                .iter()
                .zip(&expected)
                .all(|(a, b)| (a - b).abs() < 1e-4)
        );
    }
    let as_base64 = json!({"input": texts[0], "encoding_format": "base64"});
    let as_base64 = server.post("/v1/embeddings", &as_base64).ok();
    let n_base64 = as_base64["data"][0]["embedding"].as_str().unwrap().len();
    let n = answer["data"][0]["embedding"].as_array().unwrap().len();
    assert_eq!(n_base64, (4 * n).div_ceil(3) * 4);
    let refused = |more: Value, code: &str, param: &str| {
        let mut request = json!({"input": "x"});
        merge(&mut request, more);
        server
            .post("/v1/embeddings", &request)
            .fails(400, code, Some(param));
    };
    refused(json!({"input": []}), "invalid_value", "input");
    refused(json!({"input": ""}), "invalid_value", "input");
    refused(
        json!({"encoding_format": "hex"}),
        "invalid_value",
        "encoding_format",
    );
    refused(json!({"dimensions": 5}), "unsupported_value", "dimensions");
    let without = chatty(&[]);
    without
        .post("/v1/embeddings", &json!({"input": "x"}))
        .fails(400, "unsupported_value", Some("model"));
}
