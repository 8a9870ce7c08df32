//! Conversations that others push out of the context, and that go on.

use yi::{Engine, EngineParams, Model, Outcome, Overflow, Request};

use crate::engine::{alone, chatty, endless, n_common, same_but_for_rounding};

const LARGE: u64 = 1 << 30;

fn engine(model: &Model, n_parallel: u32, n_ctx: u32, parked_bytes: u64) -> Engine {
    let params = EngineParams {
        parked_bytes,
        ..EngineParams::default()
    };
    crate::engine::engine(model, n_parallel, n_ctx, &params)
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
    assert_eq!(
        outcome.stats.n_cached,
        n_common(&first.prompt, &second.prompt)
    );
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
    let of_both = 2 * (short.prompt.len() as u64 + 40) * bytes_of_token(&model);
    let engine = engine(&model, 1, 4096, of_both);
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

/// Of keys and values.
fn bytes_of_token(model: &Model) -> u64 {
    use crate::util::models::{N_EMBD, N_HEADS, N_LAYERS};
    let (n_heads, n_heads_kv) = model.loaded().n_heads();
    assert_eq!(n_heads as u64, N_HEADS);
    2 * 2 * N_LAYERS * (N_EMBD / N_HEADS) * n_heads_kv as u64
}

fn of_length(model: &Model, text: &str, n: usize) -> Request {
    let mut request = endless(model, &text.repeat(n), 4);
    request.prompt.truncate(n);
    request
}

fn cached<const N: usize>(engine: &Engine, requests: [&Request; N]) -> [usize; N] {
    requests.map(|request| ask(engine, request).stats.n_cached)
}

#[test]
fn conversations_with_one_start_push_each_other_out_and_none_is_lost() {
    let model = chatty();
    let start = "You are a helpful assistant. Answer in few words. ".repeat(4);
    let [a, b] = ["Hello world, how are you? ", "four five six seven "]
        .map(|text| endless(&model, &format!("{start}{}", text.repeat(9)), 8));
    let engine = engine(&model, 1, 2048, LARGE);
    let found = cached(&engine, [&a, &b, &a, &b]);
    assert_eq!(
        found[2..],
        [a.prompt.len() - 1, b.prompt.len() - 1],
        "{found:?}"
    );
}

#[test]
fn two_of_more_than_half_the_context_change_places() {
    let model = chatty();
    let [a, b] =
        ["Hello world, how are you?", "four five"].map(|text| of_length(&model, text, 600));
    let engine = engine(&model, 1, 1024, 1024 * bytes_of_token(&model));
    let found = cached(&engine, [&a, &b, &a, &b]);
    assert_eq!(found[2..], [599, 599], "{found:?}");
}

#[test]
fn what_has_no_room_beside_stays_in_the_context() {
    let model = chatty();
    let all = ["Hello world, how are you?", "one two three", "four five"]
        .map(|text| of_length(&model, text, 200));
    let engine = engine(&model, 3, 4096, 300 * bytes_of_token(&model));
    let found = cached(&engine, [&all[0], &all[1], &all[2], &all[0], &all[1]]);
    assert_eq!(found[3..], [199, 199], "{found:?}");
}

#[test]
fn a_long_one_comes_back_where_its_start_is() {
    let model = chatty();
    let mut long = of_length(&model, "four five", 900);
    let short = of_length(&model, "Hello world, how are you?", 700);
    let other = of_length(&model, "one two three", 300);
    long.prompt[..500].copy_from_slice(&short.prompt[..500]);
    let engine = engine(&model, 1, 1024, LARGE);
    let found = cached(&engine, [&long, &other, &short, &long]);
    assert_eq!(found[3], 899, "{found:?}");
    same_but_for_rounding(&ask(&engine, &long), &alone(&model, &long));
}

#[test]
fn a_long_one_is_not_brought_back_for_a_few_tokens() {
    let model = chatty();
    let long = of_length(&model, "Hello world, how are you?", 3000);
    let other = of_length(&model, "one two three", 20);
    let mut next = of_length(&model, "four five", 20);
    next.prompt[0] = long.prompt[0];
    let engine = engine(&model, 1, 4096, LARGE);
    let found = cached(&engine, [&long, &other, &next, &long]);
    assert_eq!(found[2..], [0, 2999], "{found:?}");
}
