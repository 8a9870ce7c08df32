//! The engine as a library: requests that run beside each other, wait, leave, and share what they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use yi::engine::template::{Message, Role};
use yi::{
    Answer, ContextParams, Engine, EngineError, EngineParams, Event, Model, Outcome, Request,
    StopReason,
};

use crate::util::architectures;
use crate::util::models::{self, Random};

/// Where the two best logits are closer, the order in which a kernel adds may decide.
pub const CLOSE_LOGITS: f32 = 1e-3;

pub fn chatty() -> Model {
    Model::open(models::chatty()).unwrap()
}

pub fn engine(model: &Model, n_parallel: u32, n_ctx: u32, params: &EngineParams) -> Engine {
    let context = ContextParams {
        n_ctx,
        n_seq_max: n_parallel,
        n_threads: 1,
        ..ContextParams::default()
    };
    model.engine(&context, params, Arc::default()).unwrap()
}

/// An engine with the defaults.
fn default_engine(model: &Model, n_parallel: u32) -> Engine {
    engine(model, n_parallel, 8192, &EngineParams::default())
}

/// Greedy, with so many tokens unless the model ends before.
fn greedy(model: &Model, text: &str, n_predict: usize) -> Request {
    let mut request = Request::new(model.tokenizer().encode(text, true).unwrap());
    request.sampling.temp = 0.0;
    request.limits.n_predict = Some(n_predict);
    request.logprobs = Some(2);
    request
}

/// The same, without an end before.
pub fn endless(model: &Model, text: &str, n_predict: usize) -> Request {
    let mut request = greedy(model, text, n_predict);
    request.limits.ignore_end = true;
    request
}

/// What a fresh engine answers when nothing else runs.
pub fn alone(model: &Model, request: &Request) -> Outcome {
    let engine = default_engine(model, 1);
    engine.submit(request.clone()).unwrap().finish().unwrap()
}

/// Number of tokens at the start that both have.
pub fn n_common(a: &[i32], b: &[i32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Asserts that two greedy answers are the same up to where the two best logits are too close to tell.
/// Returns whether there is such a place.
pub fn same_but_for_rounding(found: &Outcome, expected: &Outcome) -> bool {
    same_unless_closer(CLOSE_LOGITS, found, expected)
}

/// The same where logits that are closer than `close` are too close to tell.
pub fn same_unless_closer(close: f32, found: &Outcome, expected: &Outcome) -> bool {
    let n_same = n_common(&found.tokens, &expected.tokens);
    if n_same == found.tokens.len() && n_same == expected.tokens.len() {
        assert_eq!((&found.text, found.stop), (&expected.text, expected.stop));
        return false;
    }
    // At an end token there are no logprobs: then both must have them.
    let [best, second] = &expected.logprobs[n_same].top[..] else {
        panic!("two are asked for");
    };
    let gap = best.logprob - second.logprob;
    assert!(
        gap < close,
        "token {n_same} differs, and the best logits by {gap}: {:?} {:?}",
        found.text,
        expected.text
    );
    true
}

#[test]
fn eight_at_once_answer_as_each_does_alone() {
    let model = Model::open(models::demo()).unwrap();
    let template = model.chat_template(None).unwrap();
    let questions = std::fs::read_to_string(models::fixture("yi-demo-heldout.jsonl")).unwrap();
    let requests: Vec<Request> = questions
        .lines()
        .step_by(7)
        .take(24)
        .map(|line| {
            let question: serde_json::Value = serde_json::from_str(line).unwrap();
            let message = Message::new(Role::User, question["prompt"].as_str().unwrap());
            let rendered = template.render(&[message], true).unwrap();
            let mut request = greedy(&model, "", 48);
            request.prompt = model.tokenizer().encode_rendered(&rendered).unwrap();
            request
        })
        .collect();
    let engine = default_engine(&model, 8);
    let answers: Vec<Answer> = requests
        .iter()
        .map(|request| engine.submit(request.clone()).unwrap())
        .collect();
    let mut n_rounded = 0;
    for (request, answer) in requests.iter().zip(answers) {
        let outcome = answer.finish().unwrap();
        assert_eq!(outcome.stats.n_generated, outcome.tokens.len());
        assert_eq!(outcome.stats.n_prompt, request.prompt.len());
        n_rounded += usize::from(same_but_for_rounding(&outcome, &alone(&model, request)));
    }
    println!(
        "{n_rounded} of {} answers differ by rounding",
        requests.len()
    );
}

#[test]
fn a_thousand_cancels_leave_no_trace() {
    let model = chatty();
    let params = EngineParams {
        n_queue: 4,
        n_events: 64,
        n_prefill: 16,
        parked_bytes: 1 << 20,
        ..EngineParams::default()
    };
    let engine = engine(&model, 3, 1024, &params);
    let mut random = Random(42);
    let mut below = |n: u64| random.next() % n;
    let (mut n_cancelled, mut open) = (0, Vec::<Answer>::new());
    while n_cancelled < 1000 {
        let text = "Hello world, how are you? ".repeat(1 + below(12) as usize);
        let mut request = endless(&model, &text, 1 + below(20) as usize);
        // Nothing, a little or much of the start is someone else's.
        request.prompt.rotate_left(below(3) as usize);
        request.namespace = ["a", "b"][below(2) as usize].to_owned();
        match engine.submit(request) {
            Ok(answer) => open.push(answer),
            Err(EngineError::QueueFull { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        if open.len() > 5 || below(3) == 0 {
            if open.is_empty() {
                continue;
            }
            // In the queue, in the prompt, between tokens, or at the last one.
            let mut cancelled = open.swap_remove(below(open.len() as u64) as usize);
            let n_read = below(25) as usize;
            if below(2) == 0 {
                cancelled
                    .by_ref()
                    .take(n_read)
                    .for_each(|event| drop(event.unwrap()));
            }
            n_cancelled += 1;
        }
    }
    drop(open);
    let mut n_rounded = 0;
    for text in [
        "Hello world, how",
        "Hello world, how are you? Hello",
        "Else",
        "world",
    ] {
        for namespace in ["a", "c"] {
            let mut request = endless(&model, text, 24);
            request.namespace = namespace.to_owned();
            let outcome = engine.submit(request.clone()).unwrap().finish().unwrap();
            n_rounded += usize::from(same_but_for_rounding(&outcome, &alone(&model, &request)));
        }
    }
    assert_eq!(engine.n_waiting(), 0);
    println!("{n_rounded} of 8 answers differ by rounding");
}

#[test]
fn the_same_seed_gives_the_same_answer_beside_others() {
    let model = chatty();
    let mut request = endless(&model, "Hello", 12);
    request.sampling.temp = 0.7;
    request.sampling.seed = 11;
    let engine = default_engine(&model, 4);
    let ask = |seed: u32| {
        let mut request = request.clone();
        request.sampling.seed = seed;
        engine.submit(request).unwrap()
    };
    let answers = [11, 12, 11, 13]
        .map(ask)
        .map(|answer| answer.finish().unwrap().tokens);
    let expected = alone(&model, &request).tokens;
    assert_eq!((&answers[0], &answers[2]), (&expected, &expected));
    assert!(answers[1] != expected && answers[3] != answers[1]);
}

#[test]
fn a_short_request_is_done_while_long_ones_run() {
    let model = chatty();
    let engine = engine(&model, 4, 40_000, &EngineParams::default());
    let long = || engine.submit(endless(&model, "Hello", 10_000)).unwrap();
    let mut long = [long(), long(), long()];
    for answer in &mut long {
        answer.next().unwrap().unwrap();
    }
    for _ in 0..3 {
        let short = engine.submit(endless(&model, "world", 8)).unwrap();
        assert_eq!(short.finish().unwrap().stats.n_generated, 8);
    }
    // They were neither ended nor forgotten.
    for mut answer in long {
        assert!(matches!(answer.next(), Some(Ok(Event::Piece(_)))));
    }
}

#[test]
fn who_generates_goes_on_while_a_long_prompt_is_computed() {
    let model = chatty();
    let engine = default_engine(&model, 2);
    let n_read = Arc::new(AtomicUsize::new(0));
    let mut running = engine.submit(endless(&model, "Hello", 4000)).unwrap();
    running.next().unwrap().unwrap();
    let reader = {
        let n_read = Arc::clone(&n_read);
        std::thread::spawn(move || {
            for event in running {
                if event.is_ok() {
                    n_read.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    };
    let prompt = "one two three ".repeat(400);
    let mut request = endless(&model, &prompt, 1);
    request.prompt.truncate(1600);
    let before = n_read.load(Ordering::Relaxed);
    let outcome = engine.submit(request).unwrap().finish().unwrap();
    let beside = n_read.load(Ordering::Relaxed) - before;
    // 25 batches; the reader may lag.
    assert_eq!(outcome.stats.n_prompt, 1600);
    assert!(beside >= 15, "{beside} tokens");
    drop(engine);
    reader.join().unwrap();
}

#[test]
fn who_does_not_read_delays_nobody() {
    let model = chatty();
    let params = EngineParams {
        n_events: 4,
        ..EngineParams::default()
    };
    let engine = engine(&model, 2, 4096, &params);
    let slow = endless(&model, "Hello", 60);
    let unread = engine.submit(slow.clone()).unwrap();
    for _ in 0..4 {
        let other = engine.submit(endless(&model, "world", 40)).unwrap();
        assert_eq!(other.finish().unwrap().tokens.len(), 40);
    }
    // It paused and is read to the end, whole.
    let outcome = unread.finish().unwrap();
    assert_eq!(outcome.tokens.len(), 60);
    same_but_for_rounding(&outcome, &alone(&model, &slow));
}

#[test]
fn a_full_queue_refuses_at_once_and_dropping_frees_the_slot() {
    let model = chatty();
    let params = EngineParams {
        n_queue: 2,
        ..EngineParams::default()
    };
    let engine = engine(&model, 1, 30_000, &params);
    let ask = |n: usize| engine.submit(endless(&model, "Hello", n));
    let mut running = ask(20_000).unwrap();
    running.next().unwrap().unwrap();
    let waiting = [ask(4).unwrap(), ask(5).unwrap()];
    let refused = yi::Error::from(ask(1).unwrap_err());
    assert_eq!(refused.to_string(), "2 requests are waiting already");
    assert!(refused.hint().is_some());
    drop(running);
    let outcomes = waiting.map(|answer| answer.finish().unwrap());
    assert_eq!(outcomes.map(|o| o.tokens.len()), [4, 5]);
}

#[test]
fn what_does_not_fit_now_waits_and_what_never_fits_is_refused() {
    let model = chatty();
    let engine = engine(&model, 3, 300, &EngineParams::default());
    let large = || engine.submit(endless(&model, "Hello", 200)).unwrap();
    let start = Instant::now();
    let (first, second) = (large(), large());
    // There is a slot for this one, and room, but the second is before it.
    let third = engine.submit(endless(&model, "Hello", 10)).unwrap();
    // Each wait is counted from when that one was submitted.
    let submitting = start.elapsed();
    let first = first.finish().unwrap();
    let second = second.finish().unwrap();
    let third = third.finish().unwrap();
    assert!(
        second.stats.wait_time + submitting >= first.stats.generate_time / 2,
        "{second:?}"
    );
    assert!(
        third.stats.wait_time + submitting >= second.stats.wait_time,
        "{third:?}"
    );
    assert_eq!(
        [first.stop, second.stop, third.stop],
        [StopReason::Limit; 3]
    );

    let n_prompt = endless(&model, "Hello world", 1).prompt.len();
    let refused = |n_predict: usize| {
        let refused = engine.submit(endless(&model, "Hello world", n_predict));
        refused.unwrap_err().to_string()
    };
    assert_eq!(
        refused(300),
        format!(
            "the prompt has {n_prompt} tokens and up to 300 more are asked for; the context holds 300 (context_length_exceeded)"
        )
    );
    let long = endless(&model, &"Hello ".repeat(300), 1);
    let refused = engine.submit(long).unwrap_err();
    assert!(
        matches!(refused, EngineError::ContextLengthExceeded { n_ctx: 300, n_prompt, .. } if n_prompt >= 300),
        "{refused}"
    );
    // The last token needs no room.
    let mut exact = endless(&model, "Hello world", 301 - n_prompt);
    let outcome = engine.submit(exact.clone()).unwrap().finish().unwrap();
    assert_eq!(outcome.tokens.len(), 301 - n_prompt);
    exact.limits.n_predict = None;
    let outcome = engine.submit(exact).unwrap().finish().unwrap();
    assert_eq!(outcome.stop, StopReason::ContextFull);
    assert_eq!(outcome.tokens.len(), 301 - n_prompt);
}

#[test]
fn a_common_start_is_computed_once_and_changes_no_answer() {
    let model = chatty();
    let engine = engine(&model, 3, 4096, &EngineParams::default());
    let start = "You are a helpful assistant. Answer in few words. ".repeat(4);
    let ask = |text: &str| {
        let request = endless(&model, &format!("{start}{text}"), 16);
        let outcome = engine.submit(request.clone()).unwrap().finish().unwrap();
        same_but_for_rounding(&outcome, &alone(&model, &request));
        (request.prompt, outcome.stats.n_cached)
    };
    let (first, none) = ask("Hello");
    let (second, some) = ask("And now?");
    let common = n_common(&first, &second);
    assert_eq!((none, some), (0, common));
    assert!(common > 40);
    // The whole prompt, of which the last token is computed for its logits; the first is still there.
    assert_eq!(ask("Hello").1, first.len() - 1);

    // From one that runs.
    let running = endless(&model, "one two three four five", 500);
    let mut answer = engine.submit(running.clone()).unwrap();
    answer.next().unwrap().unwrap();
    let outcome = engine.submit(running.clone()).unwrap();
    let outcome = outcome.take(20).map(Result::unwrap).last();
    assert!(outcome.is_some());
    let mut short = running.clone();
    short.limits.n_predict = Some(20);
    let outcome = engine.submit(short.clone()).unwrap().finish().unwrap();
    assert_eq!(outcome.stats.n_cached, running.prompt.len() - 1);
    same_but_for_rounding(&outcome, &alone(&model, &short));
}

#[test]
fn namespaces_share_nothing() {
    let model = chatty();
    let engine = default_engine(&model, 4);
    let ask = |namespace: &str| {
        let mut request = endless(&model, "You are a helpful assistant.", 4);
        request.namespace = namespace.to_owned();
        engine
            .submit(request)
            .unwrap()
            .finish()
            .unwrap()
            .stats
            .n_cached
    };
    assert_eq!(["", "a", "b", "aa"].map(ask), [0; 4]);
    assert!(["", "a", "b", "aa"].map(ask).iter().all(|&n| n > 0));
}

#[test]
fn stop_strings_end_the_answer_before_them() {
    let model = chatty();
    let engine = default_engine(&model, 1);
    let mut request = endless(&model, "Hello", 30);
    let whole = engine
        .submit(request.clone())
        .unwrap()
        .finish()
        .unwrap()
        .text;
    let middle: String = whole.chars().skip(20).take(6).collect();
    let at = whole.find(&middle).unwrap();
    request.stop = vec!["\u{1}never".to_owned(), middle];
    let mut shown = String::new();
    let outcome = engine.submit(request.clone()).unwrap().finish_with(|text| {
        shown.push_str(text);
        std::ops::ControlFlow::Continue(())
    });
    let outcome = outcome.unwrap();
    assert_eq!(
        (&outcome.text[..], outcome.stop),
        (&whole[..at], StopReason::StopString)
    );
    assert_eq!(shown, outcome.text);

    for stop in [
        vec![String::new()],
        vec!["x".repeat(2000)],
        vec!["x".to_owned(); 1_000_000],
    ] {
        request.stop = stop;
        let refused = yi::Error::from(engine.submit(request.clone()).unwrap_err());
        assert_eq!(refused.kind().exit_code(), 2, "{refused}");
    }
}

#[test]
fn requests_that_no_engine_can_answer_are_refused() {
    let model = chatty();
    let engine = default_engine(&model, 1);
    let refused = |change: &dyn Fn(&mut Request)| {
        let mut request = greedy(&model, "Hello", 4);
        change(&mut request);
        engine.submit(request).unwrap_err().to_string()
    };
    assert_eq!(refused(&|r| r.prompt.clear()), "the prompt is empty");
    assert!(refused(&|r| r.prompt[0] = 4096).contains("token 4096"));
    assert!(refused(&|r| r.prompt[0] = -1).contains("token -1"));
    assert!(refused(&|r| r.sampling.top_p = f32::NAN).contains("top-p is NaN"));
    assert!(refused(&|r| r.logprobs = Some(101)).contains("at most 100"));
    // One refused request takes nothing from the next.
    engine
        .submit(greedy(&model, "Hello", 4))
        .unwrap()
        .finish()
        .unwrap();
}

#[test]
fn the_stop_flag_interrupts_all_requests_and_the_engine_lives_on() {
    let model = chatty();
    let stop = Arc::new(AtomicBool::new(false));
    let context = ContextParams {
        n_ctx: 40_000,
        n_seq_max: 2,
        n_threads: 1,
        ..ContextParams::default()
    };
    let engine = model
        .engine(&context, &EngineParams::default(), Arc::clone(&stop))
        .unwrap();
    let ask = |n: usize| engine.submit(endless(&model, "Hello", n)).unwrap();
    let mut running = [ask(10_000), ask(10_000)];
    let waiting = ask(10_000);
    for answer in &mut running {
        answer.next().unwrap().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for answer in running {
        let outcome = answer.finish().unwrap();
        assert_eq!(outcome.stop, StopReason::Interrupted);
        assert!(outcome.stats.n_generated > 0);
    }
    assert_eq!(waiting.finish().unwrap().stop, StopReason::Interrupted);
    stop.store(false, Ordering::Relaxed);
    let again = endless(&model, "Hello", 20);
    let outcome = engine.submit(again.clone()).unwrap().finish().unwrap();
    same_but_for_rounding(&outcome, &alone(&model, &again));
}

#[test]
fn dropping_the_engine_ends_all_answers() {
    let model = chatty();
    let engine = engine(&model, 1, 40_000, &EngineParams::default());
    let ask = |n: usize| engine.submit(endless(&model, "Hello", n)).unwrap();
    let (mut running, waiting) = (ask(30_000), ask(5));
    running.next().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    drop(engine);
    for answer in [running, waiting] {
        let last = answer.last().unwrap();
        assert!(matches!(last, Err(EngineError::ShutDown)), "{last:?}");
    }
}

#[test]
fn logprobs_are_those_of_the_chosen_tokens() {
    let model = chatty();
    let outcome = alone(&model, &endless(&model, "Hello", 10));
    assert_eq!(outcome.logprobs.len(), 10);
    for (token, logprobs) in outcome.tokens.iter().zip(&outcome.logprobs) {
        assert_eq!(
            (logprobs.chosen.token, logprobs.top[0]),
            (*token, logprobs.chosen)
        );
        assert!(
            logprobs.chosen.logprob < 0.0 && logprobs.top[1].logprob <= logprobs.top[0].logprob
        );
    }
}

#[test]
fn as_many_requests_at_once_as_fit_into_a_batch() {
    let model = chatty();
    let context = ContextParams {
        n_batch: 4,
        n_ubatch: 4,
        n_seq_max: 8,
        ..ContextParams::default()
    };
    let refused = model.engine(&context, &EngineParams::default(), Arc::default());
    assert_eq!(refused.unwrap_err().kind().exit_code(), 2);
}

#[test]
fn a_recurrent_model_goes_on_where_it_is_and_begins_again_elsewhere() {
    let model = Model::open(architectures::mamba()).unwrap();
    let engine = engine(&model, 3, 4096, &EngineParams::default());
    let ask = |request: &Request| {
        let outcome = engine.submit(request.clone()).unwrap().finish().unwrap();
        same_but_for_rounding(&outcome, &alone(&model, request));
        outcome
    };
    let first = endless(&model, "Hello world", 12);
    let answer = ask(&first);
    // The same again: the state has the answer in it, too, and cannot go back.
    assert_eq!(ask(&first).stats.n_cached, 0);
    // The conversation goes on: all that was computed is a part of the prompt.
    let mut next = endless(&model, "And now?", 12);
    let mut prompt = [&first.prompt[..], &answer.tokens[..]].concat();
    let n_computed = prompt.len() - 1;
    prompt.append(&mut next.prompt);
    next.prompt = prompt;
    assert_eq!(ask(&next).stats.n_cached, n_computed);

    // Several at once, some of them cancelled in their middle.
    let requests = ["one", "two three", "four", "five six seven"].map(|t| endless(&model, t, 20));
    let answers = requests
        .each_ref()
        .map(|r| engine.submit(r.clone()).unwrap());
    for (i, (request, mut answer)) in requests.iter().zip(answers).enumerate() {
        if i % 2 == 0 {
            assert!(answer.next().unwrap().is_ok());
        } else {
            same_but_for_rounding(&answer.finish().unwrap(), &alone(&model, request));
        }
    }
    ask(&next);
}

#[test]
fn an_encoder_decoder_model_answers_one_after_the_other() {
    let model = Model::open(architectures::t5()).unwrap();
    let engine = engine(&model, 4, 512, &EngineParams::default());
    let requests = ["Hello world", "one two three", "Hello world"].map(|t| endless(&model, t, 10));
    let answers = requests
        .each_ref()
        .map(|r| engine.submit(r.clone()).unwrap());
    for (request, answer) in requests.iter().zip(answers) {
        let outcome = answer.finish().unwrap();
        assert_eq!(outcome.stats.n_prompt, request.prompt.len());
        assert_eq!((outcome.tokens.len(), outcome.stats.n_cached), (10, 0));
        assert_eq!(outcome.tokens, alone(&model, request).tokens);
    }
}
