//! Prompts and answers that do not fit into the context.

use std::sync::Arc;

use yi::{ContextParams, Engine, EngineError, EngineParams, Model, Overflow, Request, StopReason};

use crate::args;
use crate::engine::{alone, chatty, endless, n_common, same_but_for_rounding};
use crate::util::architectures;
use crate::util::models;
use crate::util::program::yi;

const N_CTX: usize = 128;

fn small(model: &Model, n_parallel: u32) -> Engine {
    let context = ContextParams {
        n_ctx: N_CTX as u32,
        n_seq_max: n_parallel,
        ..ContextParams::default()
    };
    model
        .engine(&context, &EngineParams::default(), Arc::default())
        .unwrap()
}

/// A prompt of so many tokens.
fn prompt(model: &Model, n: usize, n_predict: usize) -> Request {
    let mut request = endless(model, &"one two three four ".repeat(n), n_predict);
    request.prompt.truncate(n);
    assert_eq!(request.prompt.len(), n);
    request
}

#[test]
fn the_default_is_an_error_with_the_counts() {
    let model = chatty();
    let engine = small(&model, 1);
    for (n, n_predict) in [(128, 1), (100, 60)] {
        let refused = engine.submit(prompt(&model, n, n_predict)).unwrap_err();
        assert!(
            matches!(refused, EngineError::ContextLengthExceeded { n_prompt, n_ctx: N_CTX, .. } if n_prompt == n)
        );
    }
}

#[test]
fn the_middle_is_left_out_and_counted() {
    let model = chatty();
    let engine = small(&model, 1);
    let mut request = prompt(&model, 300, 20);
    request.overflow = Overflow::Middle;
    let outcome = engine.submit(request.clone()).unwrap().finish().unwrap();
    // 109 tokens and 20 more, of which the last needs no room.
    assert_eq!(
        (outcome.stats.n_prompt, outcome.stats.n_dropped),
        (109, 191)
    );
    assert_eq!(outcome.tokens.len(), 20);
    let mut short = request.clone();
    short.overflow = Overflow::Error;
    short.prompt.drain(54..300 - 55);
    same_but_for_rounding(&outcome, &alone(&model, &short));

    // What fits is left alone.
    let mut fits = prompt(&model, 50, 20);
    fits.overflow = Overflow::Middle;
    let outcome = engine.submit(fits.clone()).unwrap().finish().unwrap();
    assert_eq!((outcome.stats.n_prompt, outcome.stats.n_dropped), (50, 0));
    // An answer that cannot fit even so.
    let mut large = prompt(&model, 300, 200);
    large.overflow = Overflow::Middle;
    assert!(matches!(
        engine.submit(large).unwrap_err(),
        EngineError::ContextLengthExceeded { .. }
    ));
}

#[test]
fn a_shift_goes_on_where_the_context_ends() {
    let model = chatty();
    let engine = small(&model, 2);
    for n_keep in [0, 7] {
        let mut request = prompt(&model, 100, 400);
        request.overflow = Overflow::Shift { n_keep };
        let outcome = engine.submit(request.clone()).unwrap().finish().unwrap();
        assert_eq!(
            (outcome.stop, outcome.tokens.len()),
            (StopReason::Limit, 400)
        );
        // Each time half of what is not kept goes.
        let n_each = (N_CTX - n_keep) / 2;
        let n_over = 100 + 400 - 1 - N_CTX;
        assert_eq!(outcome.stats.n_shifted, n_over.div_ceil(n_each) * n_each);
        assert_eq!(outcome.stats.n_dropped, 0);
        // Up to the first shift it is the answer of a large context.
        let mut first = request.clone();
        first.limits.n_predict = Some(N_CTX - 100);
        first.overflow = Overflow::Error;
        let expected = alone(&model, &first);
        let n = n_common(&expected.tokens, &outcome.tokens);
        assert!(
            n == expected.tokens.len()
                || expected.logprobs[n].top[0].logprob - expected.logprobs[n].top[1].logprob < 1e-3
        );
        // What was shifted is nobody's start, but for what was kept.
        let mut again = request.clone();
        again.limits.n_predict = Some(8);
        let outcome = engine.submit(again.clone()).unwrap().finish().unwrap();
        assert!(
            outcome.stats.n_cached <= n_keep,
            "{}",
            outcome.stats.n_cached
        );
        again.overflow = Overflow::Error;
        same_but_for_rounding(&outcome, &alone(&model, &again));
    }
    // A prompt that is too long itself loses its oldest part.
    let mut long = prompt(&model, 400, 10);
    long.overflow = Overflow::Shift { n_keep: 8 };
    let outcome = engine.submit(long.clone()).unwrap().finish().unwrap();
    let n_left = 400 - outcome.stats.n_dropped;
    assert!((60..N_CTX).contains(&n_left), "{n_left}");
    let mut short = long;
    short.prompt.drain(8..8 + outcome.stats.n_dropped);
    short.overflow = Overflow::Error;
    same_but_for_rounding(&outcome, &alone(&model, &short));
    // Without a limit it ends when nobody wants it any more, and not with the context.
    let mut endless = prompt(&model, 20, 1);
    endless.limits.n_predict = None;
    endless.overflow = Overflow::Shift { n_keep: 0 };
    let answer = engine.submit(endless).unwrap();
    assert_eq!(
        answer.take(2 * N_CTX).filter(|event| event.is_ok()).count(),
        2 * N_CTX
    );
}

#[test]
fn a_shift_beside_others_leaves_them_alone() {
    let model = chatty();
    let engine = small(&model, 3);
    let start = prompt(&model, 40, 10);
    let first = engine.submit(start.clone()).unwrap().finish().unwrap();
    same_but_for_rounding(&first, &alone(&model, &start));
    // This one shares the first one's start, fills the context and shifts; others wait meanwhile.
    let mut long = start.clone();
    long.limits.n_predict = Some(300);
    long.overflow = Overflow::Shift { n_keep: 4 };
    let long = engine.submit(long).unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| engine.submit(start.clone()).unwrap())
        .collect();
    assert_eq!(long.finish().unwrap().tokens.len(), 300);
    for answer in waiting {
        same_but_for_rounding(&answer.finish().unwrap(), &alone(&model, &start));
    }
}

#[test]
fn a_model_that_cannot_shift_says_so() {
    let model = Model::open(architectures::mamba()).unwrap();
    let engine = small(&model, 1);
    let mut request = prompt(&model, 10, 4);
    request.overflow = Overflow::Shift { n_keep: 0 };
    let refused = engine.submit(request).unwrap_err();
    assert!(matches!(refused, EngineError::CannotShift), "{refused}");
}

#[test]
fn the_program_says_what_it_left_out() {
    let run = |n_predict: &str, more: &[&str]| {
        let text = "one two three four ".repeat(60);
        let common = args![
            "run",
            "-m",
            models::chatty(),
            "-p",
            text,
            "-c",
            "64",
            "-n",
            n_predict,
            "--temp",
            "0",
            "-t",
            "1",
            "--ignore-eos"
        ];
        yi(common
            .into_iter()
            .chain(more.iter().map(std::ffi::OsString::from)))
    };
    run("90", &[]).fails(6, &["context_length_exceeded", "hint:"]);
    run("90", &["--on-overflow", "middle"]).fails(6, &["context_length_exceeded"]);
    let shifted = run("90", &["--on-overflow", "shift", "--keep", "4"]);
    assert!(
        shifted.stderr.contains("of the prompt were left out"),
        "{}",
        shifted.stderr
    );
    assert!(
        shifted.stderr.contains("oldest tokens were dropped"),
        "{}",
        shifted.stderr
    );
    shifted.ok();
    let cut = run("8", &["--on-overflow", "middle", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&cut.stdout).unwrap();
    assert_eq!(json["n_prompt"], 57);
    assert!(json["n_dropped"].as_u64().unwrap() > 100, "{json}");
}

#[test]
fn a_context_of_one_token_is_no_fault() {
    let asked = args![
        "run",
        "-m",
        models::chatty(),
        "-c",
        "1",
        "--on-overflow",
        "middle",
        "-p",
        "one two three",
        "-n",
        "1"
    ];
    let code = yi(asked).code;
    assert!(matches!(code, Some(0 | 2 | 6)), "{code:?}");
}

#[test]
fn every_type_of_keys_is_shifted_or_refuses_to_be() {
    let model = chatty();
    // A quantized one needs longer heads.
    let types = yi::CacheType::ALL.into_iter();
    for type_k in types.filter(|cache_type| !cache_type.is_quantized()) {
        let context = ContextParams {
            n_ctx: 256,
            type_k,
            ..ContextParams::default()
        };
        let engine = model
            .engine(&context, &EngineParams::default(), Arc::default())
            .unwrap();
        let mut request = endless(&model, &"one two three ".repeat(9), 400);
        request.overflow = Overflow::Shift { n_keep: 20 };
        match engine.submit(request).and_then(|answer| answer.finish()) {
            Ok(answer) => assert!(answer.tokens.len() > 256),
            Err(error) => assert!(
                matches!(error, EngineError::CannotShift),
                "{type_k}: {error}"
            ),
        }
    }
}
