//! Guessing tokens in advance: more speed, and the same tokens.

use std::sync::Arc;

use yi::{
    BatchCosts, ContextParams, EngineParams, Model, Outcome, Request, Speculation, StopReason,
};

use crate::engine::{CLOSE_LOGITS, same_unless_closer};
use crate::util::architectures;
use crate::util::models;

/// An engine that guesses `n_draft` tokens at most, as if a long batch took hardly more time than a token.
fn engine(model: &Model, n_parallel: u32, n_draft: usize) -> yi::Engine {
    let context = ContextParams {
        n_ctx: 4096,
        n_seq_max: n_parallel,
        n_threads: 1,
        ..ContextParams::default()
    };
    let params = EngineParams {
        speculation: Speculation { n_max: n_draft },
        batch_costs: BatchCosts::try_from(vec![(1, 1.0), (2, 1.01)]).ok(),
        ..EngineParams::default()
    };
    model.engine(&context, &params, Arc::default()).unwrap()
}

fn answer(model: &Model, request: &Request, n_draft: usize) -> Outcome {
    let engine = engine(model, 1, n_draft);
    engine.submit(request.clone()).unwrap().finish().unwrap()
}

fn request(model: &Model, text: &str, temp: f32, seed: u32) -> Request {
    let mut request = Request::new(model.tokenizer().encode(text, true).unwrap());
    request.sampling.temp = temp;
    request.sampling.seed = seed;
    request.limits.n_predict = Some(120);
    request.limits.ignore_end = true;
    request
}

/// Asserts that the answers are the same, at least up to the first choice that was too close to tell.
fn assert_same(guessed: &Outcome, plain: &Outcome) {
    let n = guessed.close.first().map_or(usize::MAX, |&at| at);
    let common = guessed
        .tokens
        .iter()
        .zip(&plain.tokens)
        .take_while(|(a, b)| a == b)
        .count();
    if common < guessed.tokens.len().max(plain.tokens.len()) {
        assert!(
            common >= n,
            "differs at {common}, first close choice at {n}"
        );
    } else {
        assert_eq!(guessed.text, plain.text);
        assert_eq!(guessed.stop, plain.stop);
    }
    assert_eq!(guessed.close.len(), guessed.stats.n_close);
}

const TEXTS: [&str; 4] = [
    "one two three four five six seven eight one two three four five six seven eight one two",
    "甲乙丙丁甲乙丙丁甲乙",
    "a b a b a b a b a b a b a b",
    "The capital of France is",
];

#[test]
fn guesses_change_no_token_greedy_or_sampled() {
    let (mut n_drafted, mut n_accepted) = (0, 0);
    for path in [models::chatty(), models::demo(), models::golden()] {
        let model = Model::open(path).unwrap();
        for (i, text) in TEXTS.iter().enumerate() {
            for temp in [0.0, 0.7] {
                let mut request = request(&model, text, temp, i as u32);
                // Repetitions in each answer: the model's own would depend on its weights.
                request.sampling.top_k = 2;
                let guessed = answer(&model, &request, 16);
                let plain = answer(&model, &request, 0);
                assert_eq!(plain.stats.n_drafted, 0);
                assert_same(&guessed, &plain);
                n_drafted += guessed.stats.n_drafted;
                n_accepted += guessed.stats.n_accepted;
            }
        }
    }
    println!("{n_accepted} of {n_drafted} guesses were right");
    assert!(n_accepted > 0, "no guess was right: nothing was tested");
    assert!(
        n_drafted > n_accepted,
        "no guess was wrong: nothing was tested"
    );
}

#[test]
fn the_demo_model_repeats_an_answer_of_its_prompt_in_few_batches() {
    let model = Model::open(models::demo()).unwrap();
    let asked = "<|im_start|>user\nWhat is 17 plus 25?<|im_end|>\n<|im_start|>assistant\n";
    let tokenizer = model.tokenizer();
    let prompt = tokenizer.encode_with_special(asked, true).unwrap();
    let mut request = Request::new(prompt.clone());
    request.sampling.temp = 0.0;
    request.limits.n_predict = Some(64);
    let first = answer(&model, &request, 0);
    // Asked again after its own answer.
    request.prompt.extend(&first.tokens);
    request.prompt.extend(
        tokenizer
            .encode_with_special("<|im_end|>\n", false)
            .unwrap(),
    );
    request.prompt.extend(&prompt);
    let (again, plain) = (answer(&model, &request, 16), answer(&model, &request, 0));
    assert_same(&again, &plain);
    assert!(
        again.stats.n_accepted * 2 > again.tokens.len(),
        "{:?}",
        again.stats
    );
}

#[test]
fn guesses_stay_within_the_limits_and_stop_where_the_answer_stops() {
    let model = Model::open(models::chatty()).unwrap();
    let mut request = request(&model, TEXTS[0], 0.0, 0);
    for n in [1, 2, 3, 7, 40] {
        request.limits.n_predict = Some(n);
        let outcome = answer(&model, &request, 16);
        assert_eq!(outcome.tokens.len(), n);
        assert_eq!(outcome.stop, StopReason::Limit);
    }
    let whole = answer(&model, &request, 0);
    let stop = whole
        .text
        .chars()
        .skip(whole.text.chars().count() / 2)
        .take(3)
        .collect();
    request.stop = vec![stop];
    let (guessed, plain) = (answer(&model, &request, 16), answer(&model, &request, 0));
    assert_eq!(plain.stop, StopReason::StopString);
    assert_same(&guessed, &plain);
}

#[test]
fn requests_that_guess_beside_each_other_answer_as_each_does_alone() {
    let model = Model::open(models::chatty()).unwrap();
    let engine = engine(&model, 4, 16);
    let requests: Vec<Request> = (0..8)
        .map(|i| {
            let mut request = request(&model, TEXTS[i % 4], 0.0, 0);
            request.logprobs = Some(2);
            request
        })
        .collect();
    let answers: Vec<_> = requests
        .iter()
        .map(|r| engine.submit(r.clone()).unwrap())
        .collect();
    for (found, request) in answers.into_iter().zip(&requests) {
        // Others' tokens change the rounding even where nothing was guessed, and guesses change it more.
        same_unless_closer(
            10.0 * CLOSE_LOGITS,
            &found.finish().unwrap(),
            &answer(&model, request, 0),
        );
    }
}

#[test]
fn what_is_hardly_ever_right_is_not_guessed() {
    let model = Model::open(models::chatty()).unwrap();
    let mut request = request(&model, TEXTS[0], 5.0, 1);
    request.sampling.top_k = 0;
    request.sampling.top_p = 1.0;
    request.sampling.min_p = 0.0;
    let context = ContextParams {
        n_ctx: 1024,
        ..ContextParams::default()
    };
    let engine = model
        .engine(&context, &EngineParams::default(), Arc::default())
        .unwrap();
    let outcome = engine.submit(request).unwrap().finish().unwrap();
    let Outcome { stats, .. } = outcome;
    assert!(stats.n_drafted < 20, "{stats:?}");
}

/// An engine whose tokens another model guesses.
fn drafting(model: &Model, draft: &Model, n_ctx: u32, n_parallel: u32) -> yi::Engine {
    let context = ContextParams {
        n_ctx,
        n_seq_max: n_parallel,
        n_threads: 1,
        ..ContextParams::default()
    };
    let params = EngineParams {
        batch_costs: BatchCosts::try_from(vec![(1, 1.0), (2, 1.01)]).ok(),
        ..EngineParams::default()
    };
    model
        .engine_with_draft(&context, &params, Arc::default(), Some(draft))
        .unwrap()
}

/// An answer whose tokens another model guesses.
fn drafted(model: &Model, draft: &Model, request: &Request) -> Outcome {
    let engine = drafting(model, draft, 1024, 1);
    engine.submit(request.clone()).unwrap().finish().unwrap()
}

#[test]
fn a_draft_model_changes_no_token_and_a_good_one_is_right() {
    let model = Model::open(models::demo()).unwrap();
    let draft = Model::open(models::demo_draft()).unwrap();
    let question = "<|im_start|>user\nWhat can you do?<|im_end|>\n<|im_start|>assistant\n";
    for temp in [0.0, 0.7] {
        let mut request = request(&model, "", temp, 3);
        request.prompt = model
            .tokenizer()
            .encode_with_special(question, true)
            .unwrap();
        request.limits.n_predict = Some(40);
        request.limits.ignore_end = false;
        let (guessed, plain) = (
            drafted(&model, &draft, &request),
            answer(&model, &request, 0),
        );
        assert_same(&guessed, &plain);
        let stats = guessed.stats;
        assert!(stats.n_accepted * 2 > stats.n_generated, "{stats:?}");
    }
}

#[test]
fn a_draft_model_goes_on_where_earlier_requests_have_filled_its_cache() {
    let model = Model::open(models::demo()).unwrap();
    let draft = Model::open(models::demo_draft()).unwrap();
    let engine = drafting(&model, &draft, 256, 4);
    for i in 0..6 {
        // Nothing in it comes twice, so that there is nothing to look up.
        let numbers: String = (0..30)
            .map(|j| format!("{} ", (37 * i + 13 * j) % 97))
            .collect();
        let question = format!(
            "<|im_start|>system\n{numbers}<|im_end|>\n<|im_start|>user\nWhat can you do?<|im_end|>\n\
             <|im_start|>assistant\n"
        );
        let mut request = request(&model, "", 0.0, 0);
        let tokenizer = model.tokenizer();
        request.prompt = tokenizer.encode_with_special(&question, true).unwrap();
        assert!(
            (80..200).contains(&request.prompt.len()),
            "{}",
            request.prompt.len()
        );
        request.limits.n_predict = Some(20);
        let outcome = engine.submit(request).unwrap().finish().unwrap();
        // It guesses for itself.
        let stats = outcome.stats;
        assert!(
            stats.n_accepted * 2 > stats.n_generated,
            "request {i}: {stats:?}"
        );
    }
}

#[test]
fn a_draft_model_that_knows_nothing_is_hardly_asked() {
    let model = Model::open(models::chatty()).unwrap();
    let mut request = request(&model, TEXTS[3], 5.0, 1);
    request.sampling.top_k = 0;
    request.sampling.top_p = 1.0;
    request.sampling.min_p = 0.0;
    let (guessed, plain) = (
        drafted(&model, &model, &request),
        answer(&model, &request, 0),
    );
    assert_same(&guessed, &plain);
    assert!(guessed.stats.n_drafted < 60, "{:?}", guessed.stats);
}

#[test]
fn a_draft_model_with_other_tokens_is_refused() {
    let model = Model::open(models::demo()).unwrap();
    let draft = Model::open(models::golden()).unwrap();
    let context = ContextParams::default();
    let refused = model
        .engine_with_draft(
            &context,
            &EngineParams::default(),
            Arc::default(),
            Some(&draft),
        )
        .unwrap_err();
    assert_eq!(refused.kind().exit_code(), 6, "{refused}");
    assert!(refused.to_string().contains("vocabulary"), "{refused}");
}

#[test]
fn a_recurrent_model_never_guesses() {
    let model = Model::open(architectures::mamba()).unwrap();
    let outcome = answer(&model, &request(&model, TEXTS[0], 0.0, 0), 16);
    assert_eq!((outcome.tokens.len(), outcome.stats.n_drafted), (120, 0));
}
