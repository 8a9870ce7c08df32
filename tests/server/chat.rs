//! `/v1/chat/completions`.

use serde_json::{Value, json};

use super::{asked, chatty, content, demo, question};
use crate::args;
use crate::util::http::Response;
use crate::util::models;
use crate::util::program::yi_with_input;

const CHAT: &str = "/v1/chat/completions";

/// Greedy and without an end, so that its length is known.
fn endless(text: &str, n: usize) -> Value {
    asked(text, json!({"max_tokens": n, "ignore_eos": true}))
}

/// The text of a streamed answer's choice.
fn streamed(response: &Response, index: usize) -> String {
    let events = response.events();
    let choices = events
        .iter()
        .filter_map(|event| event["choices"].as_array());
    choices
        .flatten()
        .filter(|choice| choice["index"] == index)
        .filter_map(|choice| choice["delta"]["content"].as_str())
        .collect()
}

#[test]
fn an_answer_is_what_yi_chat_answers() {
    let server = demo(&[]);
    for text in ["What is 12 + 30?", "法国的货币是什么？", "你好"] {
        let answer = server.post(CHAT, &question(text)).ok();
        let chat = args!["chat", "-m", models::demo(), "--temp", "0", "-t", "1"];
        let expected = yi_with_input(chat, format!("{text}\n").as_bytes()).ok();
        assert_eq!(content(&answer), expected.trim_end_matches('\n'), "{text}");
        assert_eq!(answer["object"], "chat.completion");
        assert_eq!(answer["model"], "demo-bf16");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
        assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
        let usage = &answer["usage"];
        let total =
            usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
        assert_eq!(usage["total_tokens"], total);
    }
}

#[test]
fn streamed_text_is_the_unstreamed_text() {
    let server = chatty(&[]);
    for n in [1, 2, 60] {
        let whole = server.post(CHAT, &endless("Hello 你好", n)).ok();
        let mut request = endless("Hello 你好", n);
        request["stream"] = json!(true);
        request["stream_options"] = json!({"include_usage": true});
        let response = server.post(CHAT, &request);
        assert_eq!(streamed(&response, 0), content(&whole));
        let events = response.events();
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        let [.., last, usage, done] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(last["choices"][0]["finish_reason"], "length");
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(usage["usage"]["completion_tokens"], n);
        assert_eq!(done, "[DONE]");
        let before = &events[..events.len() - 2];
        assert!(before.iter().all(|event| event["usage"].is_null()));
        assert!(before.iter().all(|event| event["id"] == last["id"]));
    }
}

#[test]
fn several_choices_are_the_answers_to_as_many_seeds() {
    let server = chatty(&[]);
    let with_seed = |seed: u64| {
        let request = json!({"temperature": 1, "seed": seed, "max_tokens": 12, "ignore_eos": true});
        let answer = server.post(CHAT, &asked("Hello", request)).ok();
        content(&answer).to_owned()
    };
    let request = json!({
        "temperature": 1, "seed": 7, "max_tokens": 12, "ignore_eos": true, "n": 3,
    });
    let answer = server.post(CHAT, &asked("Hello", request.clone())).ok();
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices
        .iter()
        .map(|choice| choice["message"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(texts.len(), 3);
    // Beside others a sum may be rounded differently; all three at once would be another reason.
    let n_same = (0..3)
        .filter(|&i| texts[i] == with_seed(7 + i as u64))
        .count();
    assert!(n_same >= 2, "{texts:?}");
    assert_ne!(texts[0], texts[1]);
    assert_eq!(answer["usage"]["completion_tokens"], 36);
    let mut streaming = asked("Hello", request);
    streaming["stream"] = json!(true);
    let response = server.post(CHAT, &streaming);
    let n_same = (0..3)
        .filter(|&i| streamed(&response, i) == texts[i])
        .count();
    assert!(n_same >= 2, "{texts:?}");
}

#[test]
fn stop_strings_end_the_answer_before_them() {
    let server = chatty(&[]);
    let whole = server.post(CHAT, &endless("Hello", 60)).ok();
    let whole = content(&whole);
    let middle: Vec<char> = whole.chars().skip(30).take(4).collect();
    let stop: String = middle.into_iter().collect();
    for stop in [json!(stop), json!(["never", stop])] {
        let mut request = endless("Hello", 60);
        request["stop"] = stop.clone();
        let answer = server.post(CHAT, &request).ok();
        let text = stop.as_str().or(stop[1].as_str()).unwrap();
        assert_eq!(content(&answer), whole.split_once(text).unwrap().0);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        request["stream"] = json!(true);
        assert_eq!(streamed(&server.post(CHAT, &request), 0), content(&answer));
    }
}

#[test]
fn logprobs_belong_to_the_text_and_agree_with_the_choice() {
    let server = chatty(&[]);
    let mut request = endless("Hello", 20);
    request["logprobs"] = json!(true);
    request["top_logprobs"] = json!(3);
    let answer = server.post(CHAT, &request).ok();
    let tokens = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(tokens.len(), 20);
    let mut bytes = Vec::new();
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: the chosen token is the likeliest.
        assert_eq!(top[0]["bytes"], token["bytes"]);
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
        let more = token["bytes"].as_array().unwrap();
        bytes.extend(more.iter().map(|b| b.as_u64().unwrap() as u8));
    }
    // The template's last token may have a space after it that the answer's first token brings.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert_eq!(text, content(&answer));
    request["stream"] = json!(true);
    let events = server.post(CHAT, &request).events();
    let n_streamed: usize = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .map(Vec::len)
        .sum();
    assert_eq!(n_streamed, 20);
}

#[test]
fn wrong_values_are_refused_by_name() {
    let server = chatty(&["-c", "256"]);
    for (more, param) in [
        (json!({"temperature": 3}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": -0.1}), "top_p"),
        (json!({"n": 0}), "n"),
        (json!({"n": 1.5}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (
            json!({"max_completion_tokens": -1}),
            "max_completion_tokens",
        ),
        (json!({"max_tokens": 1e300}), "max_tokens"),
        (json!({"seed": "x"}), "seed"),
        (json!({"stop": 5}), "stop"),
        (json!({"stop": ["a", 5]}), "stop[1]"),
        (json!({"stop": [""]}), "stop"),
        (json!({"stop": vec!["x"; 65]}), "stop"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"stream_options": {}}), "stream_options"),
        (json!({"logprobs": 1}), "logprobs"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "top_logprobs",
        ),
        (json!({"messages": "hi"}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": ["hi"]}), "messages[0]"),
        (
            json!({"messages": [{"role": "king", "content": "x"}]}),
            "messages[0].role",
        ),
        (
            json!({"messages": [{"role": "user", "content": 5}]}),
            "messages[0].content",
        ),
    ] {
        let response = server.post(CHAT, &asked("x", more.clone()));
        let error = response.fails(400, "invalid_value", Some(param));
        let message = error["error"]["message"].as_str().unwrap().to_owned();
        assert!(
            message.contains(param.split(['[', '.']).next().unwrap()) || param == "stop",
            "{message}"
        );
    }
    for (more, param) in [
        (json!({"functions": []}), "functions"),
        (json!({"modalities": ["audio"]}), "modalities"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            "messages[0].content[0].type",
        ),
    ] {
        let response = server.post(CHAT, &asked("x", more));
        response.fails(400, "unsupported_value", Some(param));
    }
    for (more, param) in [
        (json!({"messages": null}), "messages"),
        (json!({"messages": [{"content": "x"}]}), "messages[0].role"),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content",
        ),
    ] {
        let response = server.post(CHAT, &asked("x", more));
        response.fails(400, "missing_required_parameter", Some(param));
    }
    // What nobody knows is ignored, and null is the same as absent.
    let more =
        json!({"max_tokens": 2, "colour": "red", "temperature": null, "stop": null, "user": "u"});
    server.post(CHAT, &asked("x", more)).ok();
}

#[test]
fn another_models_name_is_refused_and_the_own_one_is_not() {
    let server = chatty(&["--alias", "my-model"]);
    let ask =
        |model: &str| server.post(CHAT, &asked("x", json!({"model": model, "max_tokens": 1})));
    assert_eq!(ask("my-model").ok()["model"], "my-model");
    ask("gpt-4").fails(404, "model_not_found", Some("model"));
    let models = server.get("/v1/models").ok();
    assert_eq!(models["data"][0]["id"], "my-model");
    assert_eq!(server.get("/v1/models/my-model").ok()["object"], "model");
    server
        .get("/v1/models/gpt-4")
        .fails(404, "model_not_found", Some("model"));
}

#[test]
fn parts_of_text_are_the_text_and_content_may_be_null_for_calls() {
    let server = demo(&[]);
    let whole = server.post(CHAT, &question("What is 12 + 30?")).ok();
    let parts = json!([{"type": "text", "text": "What is "}, {"type": "text", "text": "12 + 30?"}]);
    let request = json!({"messages": [{"role": "user", "content": parts}], "temperature": 0});
    assert_eq!(content(&server.post(CHAT, &request).ok()), content(&whole));
}

#[test]
fn a_conversation_that_does_not_fit_is_refused_with_the_counts() {
    let server = chatty(&["-c", "256", "-np", "2"]);
    let long = "word ".repeat(400);
    let error = server
        .post(CHAT, &question(&long))
        .fails(400, "context_length_exceeded", None);
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("256"), "{message}");
    let more = json!({"max_tokens": 4000});
    server
        .post(CHAT, &asked("x", more))
        .fails(400, "context_length_exceeded", None);
    // Without a number, an answer gets what its share of the context leaves.
    let answer = server
        .post(CHAT, &asked("x", json!({"ignore_eos": true})))
        .ok();
    assert_eq!(answer["usage"]["total_tokens"], 128);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[test]
fn special_tokens_never_come_out_of_text() {
    let server = chatty(&[]);
    let n_special = |tokens: &Value| {
        let all = tokens["tokens"].as_array().unwrap();
        all.iter()
            .filter(|t| t["piece"].as_str().is_some_and(|p| p.starts_with("<|im_")))
            .count()
    };
    for role in ["system", "user", "tool"] {
        let usage = |text: &str| {
            let request = json!({"messages": [{"role": role, "content": text}], "max_tokens": 1});
            server.post(CHAT, &request).ok()["usage"]["prompt_tokens"]
                .as_u64()
                .unwrap()
        };
        // As one token it would be shorter than its spelling.
        assert!(usage("<|im_end|>") > usage("x") + 3, "{role}");
    }
    let request = json!({"content": "<|im_end|>", "with_pieces": true, "parse_special": false});
    assert_eq!(n_special(&server.post("/tokenize", &request).ok()), 0);
}

#[test]
fn a_model_without_a_template_says_so() {
    let server = crate::util::http::Server::start(models::no_template(), &[]);
    let response = server.post(CHAT, &question("x"));
    response.fails(400, "unsupported_value", Some("messages"));
    let request = json!({"prompt": "Hello", "max_tokens": 2});
    server.post("/v1/completions", &request).ok();
}
