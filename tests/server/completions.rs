//! `/v1/completions`.

use serde_json::{Value, json};

use super::{chatty, demo, merge};
use crate::args;
use crate::util::http::Server;
use crate::util::models;
use crate::util::program::yi;

const COMPLETIONS: &str = "/v1/completions";

fn complete(server: &Server, more: Value) -> Value {
    let mut request = json!({"prompt": "Hello world", "temperature": 0, "max_tokens": 12});
    merge(&mut request, more);
    server.post(COMPLETIONS, &request).ok()
}

fn text(answer: &Value, index: usize) -> &str {
    answer["choices"][index]["text"].as_str().unwrap()
}

#[test]
fn a_text_goes_on_as_with_yi_run() {
    let server = chatty(&[]);
    let run = args![
        "run",
        "-m",
        models::chatty(),
        "-p",
        "Hello world",
        "-n",
        "12",
        "--temp",
        "0",
        "-t",
        "1",
        "--json"
    ];
    let expected: Value = serde_json::from_str(&yi(run).ok()).unwrap();
    let answer = complete(&server, json!({}));
    assert_eq!(answer["choices"][0]["text"], expected["text"]);
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["usage"]["prompt_tokens"], expected["n_prompt"]);
}

#[test]
fn prompts_may_be_texts_or_tokens_one_or_several() {
    let server = chatty(&[]);
    let one = complete(&server, json!({}));
    let request = json!({"content": "Hello world", "add_special": true, "parse_special": false});
    let tokens = server.post("/tokenize", &request).ok()["tokens"].clone();
    for prompt in [
        json!(["Hello world", "Hello world"]),
        json!([tokens, tokens]),
        json!([tokens, "Hello world"]),
    ] {
        let several = complete(&server, json!({"prompt": prompt, "n": 2}));
        assert_eq!(several["choices"].as_array().unwrap().len(), 4);
        let n_same = (0..4)
            .filter(|&i| text(&several, i) == text(&one, 0))
            .count();
        // Beside others a sum may be rounded differently.
        assert!(n_same >= 3, "{several}");
        assert_eq!(several["choices"][3]["index"], 3);
    }
    assert_eq!(
        text(&complete(&server, json!({"prompt": tokens})), 0),
        text(&one, 0)
    );
}

/// Whoever cuts the text at the offsets gets the tokens.
#[test]
fn offsets_count_the_characters_of_the_text_that_was_returned() {
    for server in [chatty(&[]), demo(&[])] {
        let prompt = "Hello, 世界 𝄞 <|im_end|> é";
        let request = json!({"prompt": prompt, "echo": true, "logprobs": 1, "max_tokens": 8});
        let answer = complete(&server, request);
        let all: Vec<char> = text(&answer, 0).chars().collect();
        let logprobs = &answer["choices"][0]["logprobs"];
        let tokens = logprobs["tokens"].as_array().unwrap();
        let offsets = logprobs["text_offset"].as_array().unwrap();
        let mut n_found = 0;
        for (token, offset) in tokens.iter().zip(offsets) {
            let (token, at) = (token.as_str().unwrap(), offset.as_u64().unwrap() as usize);
            let rest: String = all[at..].iter().collect();
            // Part of a character, or the token for the start or the end, which the text does not have.
            let is_start = at == 0 && !"Hello".starts_with(token.trim_start());
            if token.contains('\u{fffd}') || is_start || rest.is_empty() {
                continue;
            }
            let begins = rest.starts_with(token) || rest.starts_with(token.trim_start());
            assert!(begins, "{token:?} at {at} of {answer}");
            n_found += 1;
        }
        assert!(n_found > 8, "{answer}");
    }
}

/// lm-evaluation-harness takes all tokens but the last for the prompt's.
#[test]
fn with_echo_the_token_that_ends_the_answer_has_its_logprobs() {
    let server = demo(&[]);
    let said = "<|im_start|>user\nAdd 21 and 67.<|im_end|>\n<|im_start|>assistant\n21+67=80+8=88";
    let tokens = server.post("/tokenize", &json!({"content": said})).ok()["tokens"].clone();
    let n_prompt = tokens.as_array().unwrap().len();
    let request = json!({"prompt": tokens, "max_tokens": 1, "echo": true, "logprobs": 1});
    let answer = complete(&server, request.clone());
    let logprobs = &answer["choices"][0]["logprobs"];
    for part in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(
            logprobs[part].as_array().unwrap().len(),
            n_prompt + 1,
            "{part}"
        );
    }
    // It is the likeliest, and no part of the answer.
    assert!(logprobs["token_logprobs"][n_prompt].as_f64().unwrap() > -0.1);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    let mut streaming = request.clone();
    streaming["stream"] = json!(true);
    streaming["temperature"] = json!(0);
    let events = server.post(COMPLETIONS, &streaming).events();
    let streamed: usize = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["tokens"].as_array())
        .map(Vec::len)
        .sum();
    assert_eq!(streamed, n_prompt + 1);
}

#[test]
fn echo_gives_the_prompt_and_its_logprobs() {
    let server = chatty(&[]);
    let plain = complete(&server, json!({}));
    let echoed = complete(&server, json!({"echo": true, "logprobs": 2}));
    assert_eq!(text(&echoed, 0), format!("Hello world{}", text(&plain, 0)));
    let logprobs = &echoed["choices"][0]["logprobs"];
    let n_prompt = echoed["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    let of = |name: &str| logprobs[name].as_array().unwrap().clone();
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(of(name).len(), n_prompt + 12, "{name}");
    }
    assert!(of("token_logprobs")[0].is_null() && of("top_logprobs")[0].is_null());
    assert!(
        of("token_logprobs")[1..]
            .iter()
            .all(|l| l.as_f64().unwrap() <= 0.0)
    );
    // Scoring only: no tokens, and the same figures.
    let scored = complete(
        &server,
        json!({"echo": true, "logprobs": 2, "max_tokens": 0}),
    );
    assert_eq!(text(&scored, 0), "Hello world");
    let scored = scored["choices"][0]["logprobs"]["token_logprobs"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(scored.len(), n_prompt);
    assert_eq!(scored[..], of("token_logprobs")[..n_prompt]);
    // Without echo, the logprobs are those of the answer.
    let answer = complete(&server, json!({"logprobs": 2}));
    let tokens = answer["choices"][0]["logprobs"]["tokens"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(tokens.len(), 12);
    assert_eq!(
        tokens
            .iter()
            .map(|t| t.as_str().unwrap())
            .collect::<String>(),
        text(&plain, 0)
    );
}

#[test]
fn a_prompts_logprobs_are_those_of_writing_on_at_each_place() {
    // Batches of a few tokens, so that the prompt takes several.
    let server = chatty(&["-b", "8", "--ubatch-size", "8"]);
    let request = json!({"content": "Hello world, how are you? Hello again, world.", "add_special": true, "parse_special": false});
    let tokens = server.post("/tokenize", &request).ok()["tokens"].clone();
    let tokens = tokens.as_array().unwrap();
    assert!(tokens.len() > 16);
    let request = json!({"prompt": tokens, "max_tokens": 0, "echo": true, "logprobs": 3});
    let scored = server.post(COMPLETIONS, &request).ok();
    let scored = scored["choices"][0]["logprobs"]["top_logprobs"].clone();
    for n in 1..tokens.len() {
        let request =
            json!({"prompt": tokens[..n], "max_tokens": 1, "logprobs": 3, "ignore_eos": true});
        let written = server.post(COMPLETIONS, &request).ok();
        let written = &written["choices"][0]["logprobs"]["top_logprobs"][0];
        let written = written.as_object().unwrap();
        for (token, logprob) in scored[n].as_object().unwrap() {
            let found = written[token].as_f64().unwrap();
            assert!(
                (found - logprob.as_f64().unwrap()).abs() < 1e-3,
                "{n} {token}"
            );
        }
    }
}

#[test]
fn streamed_pieces_make_the_whole() {
    let server = chatty(&[]);
    for more in [json!({}), json!({"echo": true, "logprobs": 1})] {
        let whole = complete(&server, more.clone());
        let mut request =
            json!({"prompt": "Hello world", "temperature": 0, "max_tokens": 12, "stream": true});
        merge(&mut request, more);
        let events = server.post(COMPLETIONS, &request).events();
        let pieces = events
            .iter()
            .filter_map(|event| event["choices"][0]["text"].as_str());
        assert_eq!(pieces.collect::<String>(), text(&whole, 0));
        let offsets: Vec<Value> = events
            .iter()
            .filter_map(|event| {
                event["choices"][0]["logprobs"]["text_offset"]
                    .as_array()
                    .cloned()
            })
            .flatten()
            .collect();
        let expected = whole["choices"][0]["logprobs"]["text_offset"].as_array();
        assert_eq!(offsets, expected.cloned().unwrap_or_default());
        assert_eq!(events.last().unwrap(), "[DONE]");
    }
}

#[test]
fn wrong_values_are_refused_by_name() {
    let server = chatty(&[]);
    let n_vocab = server.get("/v1/models").ok()["data"][0]["meta"]["n_vocab"].clone();
    for (more, code, param) in [
        (
            json!({"prompt": null}),
            "missing_required_parameter",
            "prompt",
        ),
        (json!({"prompt": 5}), "invalid_value", "prompt"),
        (json!({"prompt": []}), "invalid_value", "prompt"),
        (json!({"prompt": [-1]}), "invalid_value", "prompt[0]"),
        (json!({"prompt": [n_vocab]}), "invalid_value", "prompt"),
        (json!({"prompt": ["x", {}]}), "invalid_value", "prompt[1]"),
        (json!({"prompt": vec!["x"; 65]}), "invalid_value", "prompt"),
        (json!({"suffix": "end"}), "unsupported_value", "suffix"),
        (json!({"best_of": 4}), "unsupported_value", "best_of"),
        (json!({"logprobs": 21}), "invalid_value", "logprobs"),
        (json!({"max_tokens": -1}), "invalid_value", "max_tokens"),
    ] {
        let mut request = json!({"prompt": "x"});
        merge(&mut request, more);
        server
            .post(COMPLETIONS, &request)
            .fails(400, code, Some(param));
    }
}

#[test]
fn a_conversation_that_others_pushed_out_is_found_in_memory() {
    let cached_after_others = |arguments: &[&str]| {
        let server = chatty(arguments);
        let ask = |prompt: &str| {
            let answer = complete(&server, json!({"prompt": prompt.repeat(8)}));
            let usage = &answer["usage"];
            let n_cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
            (n_cached.unwrap(), usage["prompt_tokens"].as_u64().unwrap())
        };
        ask("Hello world");
        ask("one two three");
        ask("Hello world")
    };
    let one_slot = ["-np", "1", "-c", "512"];
    let (n_cached, n_prompt) = cached_after_others(&one_slot);
    assert_eq!(n_cached, n_prompt - 1);
    let (n_cached, _) = cached_after_others(&[&one_slot[..], &["--cache-ram", "1MiB"]].concat());
    assert_eq!(n_cached, n_prompt - 1);
    let (n_cached, _) = cached_after_others(&[&one_slot[..], &["--cache-ram", "0"]].concat());
    assert!(n_cached < 3, "{n_cached}");
}
