//! Answers in a given form.

use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use llama_cpp_sys_2 as sys;
use regex::Regex;
use serde_json::{Value, json};
use yi::engine::constrain::MAX_CONSTRAINT_BYTES;
use yi::{
    Constraint, ConstraintError, ContextParams, Engine, EngineError, EngineParams, Model, Outcome,
    Request, StopReason,
};

use crate::util::models;

/// Random weights: nothing but the constraint makes the answer what it is.
fn chatty() -> &'static Model {
    static MODEL: LazyLock<Model> = LazyLock::new(|| Model::open(models::chatty()).unwrap());
    &MODEL
}

fn engine(model: &Model) -> Engine {
    let context = ContextParams {
        n_ctx: 8192,
        n_seq_max: 4,
        ..ContextParams::default()
    };
    model
        .engine(&context, &EngineParams::default(), Arc::default())
        .unwrap()
}

fn request(model: &Model, constraint: Constraint, seed: u32, n_predict: usize) -> Request {
    let mut request = Request::new(model.tokenizer().encode("Hello", true).unwrap());
    request.sampling.temp = 1.0;
    request.sampling.seed = seed;
    request.limits.n_predict = Some(n_predict);
    request.constraint = Some(constraint);
    request
}

/// Answers with several seeds at once.
fn answers(model: &Model, constraint: &Constraint, n_seeds: u32, n_predict: usize) -> Vec<Outcome> {
    let engine = engine(model);
    let asked: Vec<_> = (0..n_seeds)
        .map(|seed| {
            let request = request(model, constraint.clone(), seed, n_predict);
            engine.submit(request).unwrap()
        })
        .collect();
    asked
        .into_iter()
        .map(|answer| answer.finish().unwrap())
        .collect()
}

fn refused(constraint: Constraint) -> ConstraintError {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| engine(chatty()));
    let error = ENGINE
        .submit(request(chatty(), constraint, 0, 4))
        .unwrap_err();
    match error {
        EngineError::Constraint(error) => error,
        other => panic!("{other}"),
    }
}

fn schema(schema: Value) -> Constraint {
    Constraint::JsonSchema(schema)
}

/// Whether a value fulfils a schema: the few keywords that these tests use, written from the standard.
fn fulfils(value: &Value, schema: &Value, root: &Value) -> bool {
    let Some(schema) = schema.as_object() else {
        return schema == &Value::Bool(true);
    };
    schema.iter().all(|(keyword, rule)| match keyword.as_str() {
        "$defs" => true,
        "$ref" => {
            let path = rule.as_str().unwrap().strip_prefix('#').unwrap();
            fulfils(value, root.pointer(path).unwrap(), root)
        }
        "type" => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.as_f64().is_some_and(|v| v.fract() == 0.0),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("{other}"),
        },
        "properties" => rule.as_object().unwrap().iter().all(|(name, rule)| {
            value
                .get(name)
                .is_none_or(|value| fulfils(value, rule, root))
        }),
        "required" => rule
            .as_array()
            .unwrap()
            .iter()
            .all(|name| value.get(name.as_str().unwrap()).is_some()),
        "additionalProperties" => {
            assert_eq!(rule, &Value::Bool(false));
            let known = schema["properties"].as_object().unwrap();
            value
                .as_object()
                .is_none_or(|fields| fields.keys().all(|name| known.contains_key(name)))
        }
        "items" => value
            .as_array()
            .is_none_or(|items| items.iter().all(|item| fulfils(item, rule, root))),
        "minItems" => value
            .as_array()
            .is_none_or(|a| a.len() as u64 >= rule.as_u64().unwrap()),
        "maxItems" => value
            .as_array()
            .is_none_or(|a| a.len() as u64 <= rule.as_u64().unwrap()),
        "maxLength" => value
            .as_str()
            .is_none_or(|s| s.chars().count() as u64 <= rule.as_u64().unwrap()),
        "minimum" => value.as_f64().is_none_or(|v| v >= rule.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|v| v <= rule.as_f64().unwrap()),
        "enum" => rule.as_array().unwrap().contains(value),
        "anyOf" => rule
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| fulfils(value, rule, root)),
        other => panic!("{other}"),
    })
}

#[test]
fn json_fulfils_its_schema_with_any_seed() {
    let person = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "漢", 7, null]}, "minItems": 1, "maxItems": 3},
            "next": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    });
    let tree = json!({
        "$defs": {"node": {
            "type": "object",
            "properties": {"value": {"type": "boolean"}, "next": {"$ref": "#/$defs/node"}},
            "required": ["value"],
            "additionalProperties": false,
        }},
        "$ref": "#/$defs/node",
    });
    for expected in [person, tree] {
        let mut n_whole = 0;
        for outcome in answers(chatty(), &schema(expected.clone()), 24, 400) {
            if outcome.stop == StopReason::Limit {
                // Cut by the limit, and it says so.
                assert!(serde_json::from_str::<Value>(&outcome.text).is_err());
                continue;
            }
            assert_eq!(outcome.stop, StopReason::EndToken, "{outcome:?}");
            if let Some(value) = parsed(&outcome.text) {
                assert!(fulfils(&value, &expected, &expected), "{value}");
            }
            n_whole += 1;
        }
        assert!(n_whole >= 12, "{n_whole} of 24 for {expected}");
    }
}

/// Asserts that a text is JSON; the value, unless a number in it is larger than any f64.
#[track_caller]
fn parsed(text: &str) -> Option<Value> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).expect(text);
    serde_json::from_str(text).ok()
}

#[test]
fn any_json_object_is_one() {
    let mut n_whole = 0;
    for outcome in answers(chatty(), &Constraint::JsonObject, 12, 300) {
        if outcome.stop == StopReason::EndToken {
            assert!(parsed(&outcome.text).is_none_or(|value| value.is_object()));
            n_whole += 1;
        }
    }
    assert!(n_whole > 0);
}

#[test]
fn a_regular_expression_is_matched_as_a_whole() {
    let rule = r"(yes|no), [A-Z][a-z]{2,5}( 漢字)?!";
    let whole = Regex::new(&format!("^(?:{rule})$")).unwrap();
    for outcome in answers(chatty(), &Constraint::Regex(rule.to_owned()), 32, 60) {
        assert_eq!(outcome.stop, StopReason::EndToken);
        assert!(whole.is_match(&outcome.text), "{:?}", outcome.text);
    }
}

#[test]
fn a_lark_grammar_is_followed() {
    let lark = "start: item (\", \" item){1,3} \".\"\nitem: /[a-c]+/ | \"(\" item \")\"\n";
    let flat = Regex::new(r"^[(a-c)]+(, [(a-c)]+){1,3}\.$").unwrap();
    let mut n_whole = 0;
    for outcome in answers(chatty(), &Constraint::Lark(lark.to_owned()), 24, 120) {
        if outcome.stop == StopReason::EndToken {
            assert!(flat.is_match(&outcome.text), "{:?}", outcome.text);
            let n = |c| outcome.text.matches(c).count();
            assert_eq!(n('('), n(')'));
            n_whole += 1;
        }
    }
    assert!(n_whole > 8, "{n_whole}");
}

#[test]
fn gbnf_without_recursion_and_with() {
    let flat = r#"
        # a comment
        root ::= greeting ", " name{1,2} "!"? [^a-zA-Z"\n] | "\x41\u6f22\t"
        greeting ::= "Hello" | ("Good " ("morning" |
            "night"))
        name ::= [A-C]+ [-x\]]"#;
    let whole = Regex::new(
        "^((Hello|Good morning|Good night), ([A-C]+[-x\\]]){1,2}!?[^a-zA-Z\"\n]|A漢\t)$",
    )
    .unwrap();
    for outcome in answers(chatty(), &Constraint::Gbnf(flat.to_owned()), 24, 80) {
        if outcome.stop == StopReason::EndToken {
            assert!(whole.is_match(&outcome.text), "{:?}", outcome.text);
        }
    }
    // "ab" is "a" and then "b": a lexer that takes the longest word first would want another "b".
    let nested = "root ::= \"[\" (root | word) \"]\"\nword ::= (\"a\" | \"ab\") \"b\"\n";
    let (mut n_whole, mut n_short) = (0, 0);
    for outcome in answers(chatty(), &Constraint::Gbnf(nested.to_owned()), 48, 80) {
        if outcome.stop == StopReason::EndToken {
            let inner = outcome.text.trim_start_matches('[').trim_end_matches(']');
            let depth = (outcome.text.len() - inner.len()) / 2;
            let text = format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(outcome.text, text);
            assert!(["ab", "abb"].contains(&inner), "{inner:?}");
            n_short += usize::from(inner == "ab");
            n_whole += 1;
        }
    }
    assert!(
        n_whole > 10 && n_short > 0 && n_short < n_whole,
        "{n_short} {n_whole}"
    );
}

/// llama.cpp's own example, which is JSON.
#[test]
fn llama_cpps_json_grammar_makes_json() {
    let gbnf = r##"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"##;
    // JSON has no largest number; the parser has.
    let exponents = Regex::new("[eE][-+]?[0-9]+").unwrap();
    let mut n_whole = 0;
    for outcome in answers(chatty(), &Constraint::Gbnf(gbnf.to_owned()), 16, 200) {
        if outcome.stop == StopReason::EndToken {
            let text = exponents.replace_all(&outcome.text, "");
            let value: Result<Value, _> = serde_json::from_str(&text);
            // A surrogate on its own is a word of the grammar, and no JSON text.
            if !outcome.text.contains("\\u") {
                assert!(value.expect(&outcome.text).is_object());
            }
            n_whole += 1;
        }
    }
    assert!(n_whole > 4, "{n_whole}");
}

#[test]
fn wrong_gbnf_says_where() {
    let refused = |text: &str| refused(Constraint::Gbnf(text.to_owned())).to_string();
    for (text, words) in [
        ("", "no rule \"root\""),
        ("start ::= \"a\"", "no rule \"root\""),
        (
            "root ::= \"a\"\n\nroot2 ::= other",
            "line 3: the rule \"other\"",
        ),
        ("root ::= \"a", "line 1: expected a closing quote"),
        ("root ::= \"\\q\"", "no escape 'q'"),
        ("root ::= \"\\xZZ\"", "expected 2 hexadecimal digits"),
        (
            "root ::= \"\\U00110000\"",
            "no character with the number 110000",
        ),
        ("root ::= [z-a]", "ends before it begins"),
        ("root ::= []", "no character in the brackets"),
        ("root ::= * \"a\"", "nothing comes before '*'"),
        ("root ::= \"a\"{3,2}", "below its lower"),
        ("root ::= \"a\"{9999999999}", "too large a number"),
        ("root ::= \"a\"{3000}", "at most 2000"),
        ("root ::= (\"a\"", "expected \")\""),
        ("root = \"a\"", "expected \"::=\""),
        ("root ::= <think>", "<think> is no single token"),
        ("root ::= <think", "no closing"),
        ("root ::= ! \"a\"", "expected \"<\""),
        ("root ::= <[x]>", "expected a number"),
        ("root ::= <[5>", "expected \"]>\""),
        (
            "root ::= \"a\" |\n  <[123456789]>",
            "line 2: there is no token <[123456789]>",
        ),
        ("root ::= !<[123456789]>", "the vocabulary has"),
        ("root ::= <[99999999999]>", "too large a number"),
        ("root ::= <|im_end|>", "<|im_end|> ends an answer"),
        ("root ::= \"a\" é", "found 'é'"),
        (
            &format!("root ::= {}", "(".repeat(100_000)),
            "nested more than",
        ),
    ] {
        let message = refused(text);
        assert!(message.contains(words), "{text:.60}: {message}");
    }
}

/// llama.cpp's own sampler for a grammar, over the vocabulary of a file.
struct Reference {
    model: NonNull<sys::llama_model>,
    sampler: NonNull<sys::llama_sampler>,
}

impl Reference {
    fn new(path: &Path, grammar: &str) -> Self {
        yi::llama::backend().unwrap();
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let grammar = CString::new(grammar).unwrap();
        // SAFETY: the strings outlive the calls, and the model the sampler.
        unsafe {
            let mut params = sys::llama_model_default_params();
            params.vocab_only = true;
            let model = sys::llama_model_load_from_file(path.as_ptr(), params);
            let vocab = sys::llama_model_get_vocab(model);
            let root = c"root".as_ptr();
            let sampler = sys::llama_sampler_init_grammar(vocab, grammar.as_ptr(), root);
            Reference {
                model: NonNull::new(model).unwrap(),
                sampler: NonNull::new(sampler).expect("llama.cpp accepts the grammar"),
            }
        }
    }

    /// For each token, whether it may follow.
    fn allowed(&mut self, n_vocab: usize) -> Vec<bool> {
        let entry = |id| sys::llama_token_data {
            id,
            logit: 0.0,
            p: 0.0,
        };
        let mut data: Vec<_> = (0..n_vocab as i32).map(entry).collect();
        let mut array = sys::llama_token_data_array {
            data: data.as_mut_ptr(),
            size: data.len(),
            selected: -1,
            sorted: false,
        };
        // SAFETY: the sampler is alive; the array points to as many entries as it says.
        unsafe { sys::llama_sampler_apply(self.sampler.as_ptr(), &raw mut array) };
        data.iter().map(|entry| entry.logit == 0.0).collect()
    }

    fn accept(&mut self, token: i32) {
        // SAFETY: the sampler is alive, and allows the token.
        unsafe { sys::llama_sampler_accept(self.sampler.as_ptr(), token) };
    }

    fn is_end(&self, token: i32) -> bool {
        // SAFETY: the model is loaded, and the token one of its own.
        unsafe {
            let vocab = sys::llama_model_get_vocab(self.model.as_ptr());
            sys::llama_vocab_is_eog(vocab, token)
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: both came from llama.cpp and are freed once, the sampler first.
        unsafe {
            sys::llama_sampler_free(self.sampler.as_ptr());
            sys::llama_model_free(self.model.as_ptr());
        }
    }
}

#[test]
fn tokens_in_a_grammar_allow_what_they_allow_in_llama_cpp() {
    let model = chatty();
    let (tokenizer, n_vocab) = (model.tokenizer(), model.loaded().n_vocab());
    let hello = tokenizer.encode("Hello", false).unwrap()[0];
    let grammars = [
        // As in llama.cpp's description of grammars.
        "root ::= <|startoftext|> thinking <|startoftext|> [a-z]+\nthinking ::= !<|startoftext|>*"
            .to_owned(),
        format!("root ::= \"x\" <[{hello}]> [0-9]{{2}} | <[1000]>{{1,3}} \"!\""),
        format!("root ::= (!<[{hello}]> <[{hello}]>){{2}} [a-c]?"),
        "root ::= \"[\" (root | <|startoftext|>) \"]\" # recursion".to_owned(),
        "root ::= [a-z ]+ \"#\" <[1000]>? \"#\"".to_owned(),
    ];
    let mut random = models::Random(5);
    let (mut n_sets, mut n_named) = (0, 0);
    for grammar in grammars {
        for _ in 0..8 {
            let mut reference = Reference::new(models::chatty(), &grammar);
            let constraint = Constraint::Gbnf(grammar.clone());
            let mut matcher = tokenizer
                .constraints()
                .unwrap()
                .compile(&constraint)
                .unwrap();
            for _ in 0..8 {
                let expected = reference.allowed(n_vocab);
                let Ok(mask) = matcher.mask() else {
                    panic!("{grammar}: a dead end")
                };
                let mut next = Vec::new();
                for token in 0..n_vocab as i32 {
                    let (found, expected) = (mask.allows(token), expected[token as usize]);
                    if reference.is_end(token) {
                        assert_eq!(mask.is_accepting, expected, "{grammar}: the end");
                    } else if model.loaded().attributes(token).is_byte() {
                        // A byte that another token is, too, counts as that one here; and llama.cpp refuses
                        // bytes that cannot begin a character or go on with one.
                    } else if !tokenizer.is_end(token) {
                        let text = model.loaded().token_text(token);
                        assert_eq!(found, expected, "{grammar}: {token} {text:?}");
                        if found {
                            next.push(token);
                        }
                    }
                }
                n_sets += 1;
                n_named += usize::from(next.len() == 1);
                if next.is_empty() {
                    assert!(mask.is_accepting);
                    break;
                }
                let token = next[random.next() as usize % next.len()];
                matcher.advance(token).unwrap();
                reference.accept(token);
            }
        }
    }
    assert!(n_sets > 100 && n_named > 10, "{n_sets} {n_named}");
}

#[test]
fn an_answer_has_the_tokens_that_its_grammar_names() {
    let named = chatty()
        .tokenizer()
        .encode_with_special("<|startoftext|>", false);
    let named = named.unwrap()[0];
    let grammar = "root ::= \"a\" <|startoftext|> !<|startoftext|>{2} <|startoftext|> \"b\"";
    for outcome in answers(chatty(), &Constraint::Gbnf(grammar.to_owned()), 8, 20) {
        assert_eq!(outcome.stop, StopReason::EndToken, "{outcome:?}");
        let at: Vec<usize> = (0..outcome.tokens.len())
            .filter(|&i| outcome.tokens[i] == named)
            .collect();
        assert_eq!(at, [1, 4], "{outcome:?}");
    }
}

#[test]
fn what_cannot_be_fulfilled_is_refused_or_ends() {
    let start = Instant::now();
    for constraint in [
        schema(json!(false)),
        schema(json!({"type": "string", "enum": [1]})),
        schema(json!({"type": "integer", "minimum": 5, "maximum": 4})),
        schema(json!({"type": "object", "properties": {"a": false}, "required": ["a"]})),
        schema(json!({"type": "nonsense"})),
        schema(json!({"$ref": "#/missing"})),
        schema(json!({"$ref": "https://example.com/schema.json"})),
        schema(json!("not a schema")),
        Constraint::Regex("(".to_owned()),
        Constraint::Regex("(".repeat(500_000)),
        Constraint::Lark("start: undefined".to_owned()),
        Constraint::Lark("(".repeat(500_000)),
        Constraint::Lark(format!(
            "start: {}\"a\"{}",
            "(".repeat(5000),
            ")".repeat(5000)
        )),
        Constraint::Lark("\0".to_owned()),
    ] {
        let error = refused(constraint.clone());
        assert!(error.to_string().len() < 2500, "{constraint:?}");
        assert_eq!(
            yi::Error::from(EngineError::from(error)).kind().exit_code(),
            2
        );
    }
    // A rule that never ends: refused, or a dead end, or cut by the limit, and in no case a hang.
    for gbnf in [
        "root ::= root",
        "root ::= \"a\" root",
        "root ::= root root | root \"b\"",
    ] {
        let engine = engine(chatty());
        let request = request(chatty(), Constraint::Gbnf(gbnf.to_owned()), 0, 8);
        match engine.submit(request).and_then(yi::Answer::finish) {
            Ok(outcome) => assert_eq!(outcome.stop, StopReason::Limit, "{gbnf}"),
            Err(EngineError::Constraint(_)) => {}
            Err(other) => panic!("{gbnf}: {other}"),
        }
    }
    assert!(start.elapsed() < Duration::from_secs(60));
}

/// A schema nested so deep.
fn nested(depth: usize) -> Value {
    (0..depth).fold(
        json!({"type": "null"}),
        |inner, _| json!({"type": "array", "items": inner, "minItems": 1, "maxItems": 1}),
    )
}

#[test]
fn hostile_schemas_are_compiled_or_refused_in_bounded_time() {
    let start = Instant::now();
    assert_eq!(
        refused(schema(nested(60_000 / 600))),
        ConstraintError::TooDeep
    );
    let deep = nested(40);
    let outcome = answers(chatty(), &schema(deep.clone()), 1, 300).remove(0);
    let value = serde_json::from_str(&outcome.text).expect(&outcome.text);
    assert!(fulfils(&value, &deep, &deep));

    // A large enumeration works; one past the limit is refused with the sizes.
    let names = |n: usize| (0..n).map(|i| format!("name-{i}")).collect::<Vec<_>>();
    let large = json!({"enum": names(20_000)});
    let outcome = answers(chatty(), &schema(large.clone()), 1, 100).remove(0);
    assert!(fulfils(
        &serde_json::from_str(&outcome.text).unwrap(),
        &large,
        &large
    ));
    assert!(matches!(
        refused(schema(json!({"enum": names(200_000)}))),
        ConstraintError::TooLong { n_bytes } if n_bytes > MAX_CONSTRAINT_BYTES
    ));

    // Combinations that multiply.
    let either = |i: usize| {
        let (a, b) = (format!("a{i}"), format!("b{i}"));
        json!({"anyOf": [
            {"type": "object", "properties": {a.clone(): {"type": "null"}}, "required": [a]},
            {"type": "object", "properties": {b.clone(): {"type": "null"}}, "required": [b]},
        ]})
    };
    let many = json!({"allOf": (0..40).map(either).collect::<Vec<_>>()});
    let engine = engine(chatty());
    let _ = engine.submit(request(chatty(), schema(many), 0, 4));
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn hostile_grammars_are_compiled_or_refused_in_bounded_time() {
    let start = Instant::now();
    let gbnf = |text: String| refused(Constraint::Gbnf(text)).to_string();
    let message = gbnf(format!("root ::= \"a\"{}", "*".repeat(600_000)));
    assert!(message.contains("repeated more than"), "{message}");
    let message = gbnf(format!("root ::= ({})", "a\n".repeat(500_000)));
    assert!(message.contains("line 1: the rule \"a\""), "{message}");
    let engine = engine(chatty());
    let submit = |constraint| {
        let _ = engine.submit(request(chatty(), constraint, 0, 1));
    };
    submit(Constraint::Gbnf(format!(
        "root ::= {}",
        "!<[300]> ".repeat(100_000)
    )));

    // Rules that lead to each other, as many as fit.
    let chain = |n: usize, rule: &dyn Fn(usize) -> String| (0..n).map(rule).collect::<String>();
    let rules = |n| chain(n, &|i| format!("r{i}::=r{}|\"a\"\n", i + 1)) + &format!("r{n}::=\"b\"");
    let message = gbnf(format!("root ::= r0\n{}", rules(50_000)));
    assert!(message.contains("more than 50000 rules"), "{message}");
    submit(Constraint::Gbnf(format!("root ::= r0\n{}", rules(40_000))));
    let rules = chain(60_000, &|i| format!("r{i}: r{}\n", i + 1));
    submit(Constraint::Lark(format!(
        "start: r0\n{rules}r60000: \"b\"\n"
    )));
    let mut definitions: serde_json::Map<_, _> = (0..20_000)
        .map(|i| {
            (
                format!("{i}"),
                json!({"$ref": format!("#/$defs/{}", i + 1)}),
            )
        })
        .collect();
    definitions.insert("20000".to_owned(), json!({"type": "null"}));
    submit(schema(json!({"$defs": definitions, "$ref": "#/$defs/0"})));
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_limit_cuts_and_says_so() {
    let whole = Constraint::Regex("[a-z]{200}".to_owned());
    for outcome in answers(chatty(), &whole, 2, 10) {
        assert_eq!(
            (outcome.stop, outcome.tokens.len()),
            (StopReason::Limit, 10)
        );
    }
}

#[test]
fn end_tokens_come_only_where_the_form_is_complete() {
    let model = Model::open(models::demo()).unwrap();
    // The demo model likes to end after one sentence; here it must not.
    let long = Constraint::Regex("[A-Za-z ]{80}\\.".to_owned());
    for outcome in answers(&model, &long, 4, 200) {
        assert_eq!(outcome.stop, StopReason::EndToken);
        assert_eq!(outcome.text.chars().count(), 81, "{:?}", outcome.text);
    }
}

#[test]
fn other_vocabularies_are_constrained_too() {
    for path in [models::gpt2_bpe(), models::qwen2()] {
        let model = Model::open(path).unwrap();
        let rule = r#"\{"漢": [0-9]{3}\}"#;
        let whole = Regex::new(&format!("^{rule}$")).unwrap();
        for outcome in answers(&model, &Constraint::Regex(rule.to_owned()), 8, 60) {
            assert!(whole.is_match(&outcome.text), "{:?}", outcome.text);
        }
    }
}
