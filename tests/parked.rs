//! Conversations that others push out of the context, and that go on.

use std::sync::Arc;

use yi::{ContextParams, Engine, EngineParams, Model, Outcome, Overflow, Request};

use crate::engine::{alone, chatty, endless, same_but_for_rounding};

const LARGE: u64 = 1 << 30;

fn engine(model: &Model, n_parallel: u32, n_ctx: u32, parked_bytes: u64) -> Engine {
    let context = ContextParams {
        n_ctx,
        n_seq_max: n_parallel,
        ..ContextParams::default()
    };
    let params = EngineParams {
        parked_bytes,
        ..EngineParams::default()
    };
    model.engine(&context, &params, Arc::default()).unwrap()
}

fn ask(engine: &Engine, request: &Request) -> Outcome {
    engine.submit(request.clone()).unwrap().finish().unwrap()
}

/// What was asked and answered, and a question more.
fn goes_on(model: &Model, request: &Request, answer: &Outcome) -> Request {
    let mut next = endless(model, " And what then?", 12);
    let more = next.prompt.split_off(1);
    next.prompt = [&request.prompt[..], &answer.tokens, &more].concat();
    next.namespace.clone_from(&request.namespace);
    next
}

fn conversations(model: &Model) -> [Request; 3] {
    ["one two three", "Hello world, how are you?", "four five"]
        .map(|text| endless(model, &text.repeat(9), 40))
}

#[test]
fn a_conversation_that_was_pushed_out_goes_on_without_being_computed_again() {
    let model = chatty();
    for n_parallel in [1, 2] {
        let kept = engine(&model, n_parallel, 1024, LARGE);
        let lost = engine(&model, n_parallel, 1024, 0);
        let all = conversations(&model);
        let answers = all.each_ref().map(|request| ask(&kept, request));
        for request in &all {
            ask(&lost, request);
        }
        for (request, answer) in all.iter().zip(&answers) {
            let next = goes_on(&model, request, answer);
            let outcome = ask(&kept, &next);
            // The answer's last token was never computed.
            let n_computed = request.prompt.len() + answer.tokens.len() - 1;
            assert_eq!(outcome.stats.n_cached, n_computed);
            same_but_for_rounding(&outcome, &alone(&model, &next));
        }
        // The first one, without memory for it: only the tokens that all texts begin with.
        let first = goes_on(&model, &all[0], &answers[0]);
        assert!(ask(&lost, &first).stats.n_cached < 3);
    }
}

#[test]
fn the_start_of_a_parked_conversation_serves_another_one() {
    let model = chatty();
    let engine = engine(&model, 1, 1024, LARGE);
    let start = "You are a helpful assistant. Answer in few words. ".repeat(4);
    let [first, second] = ["Hello", "And now?"].map(|t| endless(&model, &format!("{start}{t}"), 8));
    ask(&engine, &first);
    ask(&engine, &endless(&model, "one two three", 8));
    let outcome = ask(&engine, &second);
    let pairs = first.prompt.iter().zip(&second.prompt);
    let n_common = pairs.take_while(|(a, b)| a == b).count();
    assert_eq!(outcome.stats.n_cached, n_common);
    same_but_for_rounding(&outcome, &alone(&model, &second));
}

#[test]
fn parked_conversations_are_their_owners_alone() {
    let model = chatty();
    let engine = engine(&model, 1, 1024, LARGE);
    let [mut mine, other, _] = conversations(&model);
    mine.namespace = "a".to_owned();
    ask(&engine, &mine);
    ask(&engine, &other);
    let mut stranger = mine.clone();
    stranger.namespace = "b".to_owned();
    assert_eq!(ask(&engine, &stranger).stats.n_cached, 0);
    let n_prompt = mine.prompt.len();
    assert_eq!(ask(&engine, &mine).stats.n_cached, n_prompt - 1);
}

#[test]
fn one_that_is_too_large_is_computed_again() {
    let model = chatty();
    // Room for the others' tokens and not for these.
    let [long, short, _] = conversations(&model);
    let mut long = long;
    long.prompt = long.prompt.repeat(30);
    let state_bytes = |n_tokens: usize| 2 * 4 * model.loaded().n_embd() * 2 * n_tokens;
    let engine = engine(
        &model,
        1,
        4096,
        state_bytes(short.prompt.len() + 40) as u64 * 2,
    );
    ask(&engine, &long);
    ask(&engine, &short);
    assert!(ask(&engine, &long).stats.n_cached < 3);
    assert_eq!(ask(&engine, &short).stats.n_cached, short.prompt.len() - 1);
}

#[test]
fn what_a_shift_has_moved_is_not_parked() {
    let model = chatty();
    let engine = engine(&model, 1, 256, LARGE);
    let mut shifted = endless(&model, &"one two three ".repeat(9), 400);
    shifted.overflow = Overflow::Shift { n_keep: 20 };
    let answer = ask(&engine, &shifted);
    assert!(answer.tokens.len() > 256);
    ask(&engine, &endless(&model, "Hello", 8));
    let mut again = endless(&model, "", 12);
    again.prompt = shifted.prompt.clone();
    let outcome = ask(&engine, &again);
    assert!(outcome.stats.n_cached <= 20, "{}", outcome.stats.n_cached);
    same_but_for_rounding(&outcome, &alone(&model, &again));
}
