//! How tokens are chosen.

use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;
use yi::engine::sample::{Breakers, Choice, Dry, Mirostat, Sampler, SamplingParams};
use yi::{Error, Model};

use crate::util::models::{self, Random};

/// A distribution with a long tail, as language has.
fn zipf(n: usize) -> Vec<f32> {
    (0..n).map(|i| -((i + 1) as f32).ln()).collect()
}

/// So many tokens from the same logits.
fn draw(params: &SamplingParams, logits: &[f32], n: usize) -> Vec<i32> {
    let mut sampler = Sampler::new(params, logits.len(), None, Arc::default());
    (0..n)
        .map(|_| match sampler.choose(logits, &[]) {
            Ok(Choice::Token(token)) => token,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// All samplers off.
fn plain() -> SamplingParams {
    SamplingParams {
        temp: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: 7,
        ..SamplingParams::default()
    }
}

/// How many of the likeliest tokens mirostat leaves, by its paper (version 1) and llama.cpp's second one.
fn n_left(version: Mirostat, mu: f64, probabilities: &[f64]) -> usize {
    if version == Mirostat::V2 {
        let likely = probabilities.iter().take_while(|p| -p.log2() <= mu);
        return likely.count().max(1);
    }
    let (mut sum_tb, mut sum_tt) = (0.0, 0.0);
    for i in 0..99.min(probabilities.len() - 1) {
        let t = ((i + 2) as f64 / (i + 1) as f64).ln();
        sum_tb += t * (probabilities[i] / probabilities[i + 1]).ln();
        sum_tt += t * t;
    }
    let s = sum_tb / sum_tt;
    let e = s - 1.0;
    let n = probabilities.len() as f64;
    let k = (e * mu.exp2() / (1.0 - n.powf(-e))).powf(s.recip());
    (k as usize).clamp(1, probabilities.len())
}

#[test]
fn mirostats_surprise_approaches_its_target() {
    // Not quite Zipf's law, for which version 1 divides 0 by 0.
    let logits: Vec<f32> = zipf(4096).iter().map(|l| l * 1.1).collect();
    let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    let probabilities: Vec<f64> = logits.iter().map(|&l| f64::from(l).exp() / sum).collect();
    let entropy: f64 = probabilities.iter().map(|p| -p * p.log2()).sum();
    for version in [Mirostat::V1, Mirostat::V2] {
        for target in [2.0, 3.0, 4.0] {
            // Far from what the model does by itself.
            assert!(entropy > target + 1.5, "{entropy}");
            let params = SamplingParams {
                mirostat: version,
                mirostat_tau: target as f32,
                mirostat_eta: 0.1,
                ..plain()
            };
            let mut mu = 2.0 * target;
            let mut surprises = Vec::new();
            for token in draw(&params, &logits, 3000) {
                let n = n_left(version, mu, &probabilities);
                // A rounded bound may leave one more or less.
                assert!(token as usize <= n, "{version:?} {token} {n}");
                let left: f64 = probabilities[..n.max(token as usize + 1)].iter().sum();
                let surprise = (left / probabilities[token as usize]).log2();
                mu -= 0.1 * (surprise - target);
                surprises.push(surprise);
            }
            let mean = surprises[500..].iter().sum::<f64>() / 2500.0;
            assert!((mean - target).abs() < 0.05, "{version:?} {target}: {mean}");
        }
    }
}

#[test]
fn a_bias_moves_the_logits_and_minus_infinity_forbids() {
    let logits = vec![1.0, 0.0, 0.0, -1.0];
    let share = |bias: &[(i32, f32)], token: i32| {
        let params = SamplingParams {
            logit_bias: bias.to_vec(),
            ..plain()
        };
        let tokens = draw(&params, &logits, 20_000);
        tokens.iter().filter(|&&t| t == token).count() as f64 / tokens.len() as f64
    };
    let expected = |logits: [f64; 4], token: usize| {
        logits[token].exp() / logits.iter().map(|l| l.exp()).sum::<f64>()
    };
    let near =
        |found: f64, expected: f64| assert!((found - expected).abs() < 0.015, "{found} {expected}");
    near(share(&[], 3), expected([1.0, 0.0, 0.0, -1.0], 3));
    near(share(&[(3, 2.0)], 3), expected([1.0, 0.0, 0.0, 1.0], 3));
    // Two for one token add up, in any order.
    near(
        share(&[(3, 1.5), (0, -1.0), (3, 0.5)], 3),
        expected([0.0, 0.0, 0.0, 1.0], 3),
    );
    assert_eq!(share(&[(0, f32::NEG_INFINITY)], 0), 0.0);
    // The greedy choice follows, too.
    let greedy = SamplingParams {
        temp: 0.0,
        logit_bias: vec![(0, -100.0), (2, 0.25)],
        ..plain()
    };
    assert_eq!(draw(&greedy, &logits, 3), [2, 2, 2]);
}

#[test]
fn penalties_make_what_was_there_less_likely() {
    let logits = vec![0.0; 64];
    let params = |change: fn(&mut SamplingParams)| {
        let mut params = SamplingParams {
            repeat_last_n: 64,
            ..plain()
        };
        change(&mut params);
        params
    };
    let n_different = |params: &SamplingParams| {
        let mut tokens = draw(params, &logits, 64);
        tokens.sort_unstable();
        tokens.dedup();
        tokens.len()
    };
    let free = n_different(&plain());
    for strong in [
        params(|p| p.presence_penalty = 50.0),
        params(|p| p.frequency_penalty = 50.0),
    ] {
        assert_eq!(n_different(&strong), 64);
    }
    assert!(free < 48, "{free}");
    // The frequency counts, the presence does not.
    let mut logits = vec![0.0; 2];
    logits[0] = 10.0;
    let zeros = |params: &SamplingParams| {
        draw(params, &logits, 40)
            .iter()
            .filter(|&&t| t == 0)
            .count()
    };
    let presence = SamplingParams {
        temp: 0.0,
        ..params(|p| p.presence_penalty = 4.0)
    };
    let frequency = SamplingParams {
        temp: 0.0,
        ..params(|p| p.frequency_penalty = 4.0)
    };
    assert_eq!(zeros(&presence), 40);
    assert!(zeros(&frequency) < 25);
}

#[test]
fn cuts_leave_the_tokens_that_they_should() {
    // Probabilities 0.4, 0.3, 0.2, 0.1.
    let logits: Vec<f32> = [0.4f32, 0.3, 0.2, 0.1].iter().map(|p| p.ln()).collect();
    let found = |change: fn(&mut SamplingParams)| {
        let mut params = plain();
        change(&mut params);
        let mut tokens = draw(&params, &logits, 2000);
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    };
    assert_eq!(found(|_| {}), [0, 1, 2, 3]);
    assert_eq!(found(|p| p.top_k = 2), [0, 1]);
    assert_eq!(found(|p| p.top_p = 0.65), [0, 1]);
    assert_eq!(found(|p| p.min_p = 0.6), [0, 1]);
    // XTC leaves the least likely of those above the threshold, and those below.
    assert_eq!(
        found(|p| {
            p.xtc_probability = 1.0;
            p.xtc_threshold = 0.15;
        }),
        [2, 3]
    );
    // The entropy is 1.28 nats; 0.3 has a surprise of 1.20, 0.2 of 1.61, 0.4 of 0.92.
    assert_eq!(found(|p| p.typical_p = 0.29), [1]);
    // The standard deviation of the logits is 0.51: 0.4 and 0.3 are within one of the largest.
    assert_eq!(found(|p| p.top_n_sigma = 1.0), [0, 1]);
}

#[test]
fn sampling_never_picks_what_has_no_probability() {
    let mut random = Random(3);
    for round in 0..200 {
        let n = 2 + (random.next() % 40) as usize;
        let mut logits: Vec<f32> = (0..n)
            .map(|_| match random.next() % 4 {
                0 => f32::NEG_INFINITY,
                1 => f32::NAN,
                2 => (random.next() % 2000) as f32 - 1000.0,
                _ => 0.0,
            })
            .collect();
        logits[0] = 1.0;
        let params = SamplingParams {
            typical_p: 0.9,
            top_n_sigma: 2.0,
            xtc_probability: 0.5,
            presence_penalty: 1.0,
            dynatemp_range: 0.5,
            mirostat: [Mirostat::Off, Mirostat::V1, Mirostat::V2][round % 3],
            ..SamplingParams::default()
        };
        for token in draw(&params, &logits, 20) {
            assert!(logits[token as usize].is_finite(), "{token} of {logits:?}");
        }
    }
}

/// llama.cpp's own sampler, over the vocabulary of a file.
struct Reference {
    model: NonNull<sys::llama_model>,
    sampler: *mut sys::llama_sampler,
}

impl Reference {
    fn new(path: &Path) -> Self {
        yi::llama::backend().unwrap();
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the path outlives the call.
        let model = unsafe {
            let mut params = sys::llama_model_default_params();
            params.vocab_only = true;
            sys::llama_model_load_from_file(path.as_ptr(), params)
        };
        Reference {
            model: NonNull::new(model).unwrap(),
            sampler: std::ptr::null_mut(),
        }
    }

    fn set_dry(&mut self, params: &SamplingParams) {
        let texts = params.dry_sequence_breakers.iter();
        let texts: Vec<CString> = texts.map(|t| CString::new(&t[..]).unwrap()).collect();
        let mut pointers: Vec<_> = texts.iter().map(|text| text.as_ptr()).collect();
        self.free_sampler();
        // SAFETY: the model is loaded; the texts outlive the call, which copies them.
        self.sampler = unsafe {
            sys::llama_sampler_init_dry(
                sys::llama_model_get_vocab(self.model.as_ptr()),
                params.dry_multiplier,
                params.dry_base,
                params.dry_allowed_length,
                params.dry_penalty_last_n,
                pointers.as_mut_ptr(),
                pointers.len(),
            )
        };
    }

    fn accept(&mut self, token: i32) {
        // SAFETY: the sampler is alive.
        unsafe { sys::llama_sampler_accept(self.sampler, token) };
    }

    /// The logits that the sampler makes of these.
    fn apply(&mut self, logits: &[f32]) -> Vec<f32> {
        let entry = |(id, &logit)| sys::llama_token_data { id, logit, p: 0.0 };
        let mut data: Vec<_> = (0..).zip(logits).map(entry).collect();
        let mut array = sys::llama_token_data_array {
            data: data.as_mut_ptr(),
            size: data.len(),
            selected: -1,
            sorted: false,
        };
        // SAFETY: the sampler is alive; the array points to as many entries as it says.
        unsafe { sys::llama_sampler_apply(self.sampler, &raw mut array) };
        assert_eq!(array.size, logits.len());
        data.iter().map(|entry| entry.logit).collect()
    }

    fn free_sampler(&mut self) {
        if !self.sampler.is_null() {
            // SAFETY: it came from llama.cpp and is freed once.
            unsafe { sys::llama_sampler_free(self.sampler) };
            self.sampler = std::ptr::null_mut();
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.free_sampler();
        // SAFETY: it came from llama.cpp and is freed once.
        unsafe { sys::llama_model_free(self.model.as_ptr()) };
    }
}

/// Tokens of a few kinds, so that they repeat: some of them are breakers, or begin or end one.
fn alphabet(model: &Model, breakers: &[String], random: &mut Random) -> Vec<i32> {
    let mut tokens: Vec<i32> = (0..4)
        .map(|_| (random.next() % model.loaded().n_vocab() as u64) as i32)
        .collect();
    for text in breakers {
        let all = model
            .tokenizer()
            .encode(&format!("a{text}b"), false)
            .unwrap();
        tokens.push(all[random.next() as usize % all.len()]);
    }
    tokens
}

#[test]
fn dry_takes_from_logits_what_llama_cpp_takes() {
    let mut n_penalties = 0;
    for path in [models::chatty(), models::gpt2_bpe()] {
        let model = Model::open(path).unwrap();
        let n_vocab = model.loaded().n_vocab();
        let mut reference = Reference::new(path);
        let mut random = Random(11);
        for _ in 0..60 {
            let mut pick = |from: &[&str]| from[random.next() as usize % from.len()].to_owned();
            let breakers = match pick(&["default", "none", "texts"]).as_str() {
                "default" => SamplingParams::default().dry_sequence_breakers,
                "none" => Vec::new(),
                _ => vec![
                    pick(&["the", "hello world", "\n\n", "！？", "ab"]),
                    pick(&[" ", "e"]),
                ],
            };
            let params = SamplingParams {
                dry_multiplier: [0.5, 0.8, 3.0][random.next() as usize % 3],
                dry_base: [1.0, 1.1, 1.75, 4.0][random.next() as usize % 4],
                dry_allowed_length: (random.next() % 5) as i32,
                dry_penalty_last_n: [1, 7, 64, 400][random.next() as usize % 4],
                dry_sequence_breakers: breakers.clone(),
                ..SamplingParams::default()
            };
            reference.set_dry(&params);
            let breakers_of_model = Arc::new(Breakers::new(model.loaded(), &breakers));
            let mut dry = Dry::new(&params, breakers_of_model).unwrap();
            let alphabet = alphabet(&model, &breakers, &mut random);
            // At times one token alone, whose repetition has no end.
            let n_kinds = 1 + random.next() as usize % alphabet.len();
            let logits: Vec<f32> = (0..n_vocab)
                .map(|_| (random.next() % 4000) as f32 / 100.0 - 20.0)
                .collect();
            for step in 0..120 {
                if step % 4 == 0 {
                    let penalties = dry.penalties();
                    n_penalties += penalties.len();
                    let penalty = |id: usize| penalties.get(&(id as i32)).copied();
                    let found: Vec<f32> = logits
                        .iter()
                        .enumerate()
                        .map(|(id, logit)| penalty(id).map_or(*logit, |penalty| logit - penalty))
                        .collect();
                    assert_eq!(found, reference.apply(&logits), "{params:?}, {step}");
                }
                let token = alphabet[random.next() as usize % n_kinds];
                dry.accept(token);
                reference.accept(token);
            }
        }
    }
    assert!(n_penalties > 1000, "{n_penalties}: nothing was tested");
}

#[test]
fn an_answer_under_dry_does_not_go_on_with_the_prompts_repetition() {
    let model = Model::open(models::chatty()).unwrap();
    let is_word = |&token: &i32| {
        let piece = model.tokenizer().piece(token);
        piece.len() > 2 && piece.iter().all(u8::is_ascii_lowercase)
    };
    let mut words = (0..model.loaded().n_vocab() as i32).filter(is_word);
    let [a, b, c, next] = std::array::from_fn(|_| words.next().unwrap());
    let prompt = [a, b, c, next, a, b, c];
    let mut logits = vec![0.0; model.loaded().n_vocab()];
    let other = words.next().unwrap();
    (logits[next as usize], logits[other as usize]) = (5.0, 4.0);
    let chosen = |params: &SamplingParams| {
        let breakers = model.tokenizer().breakers(&params.dry_sequence_breakers);
        let mut sampler = Sampler::new(params, logits.len(), None, breakers);
        sampler.remember(&prompt);
        sampler.choose(&logits, &[]).unwrap()
    };
    let greedy = SamplingParams {
        temp: 0.0,
        ..plain()
    };
    assert_eq!(chosen(&greedy), Choice::Token(next));
    let dry = SamplingParams {
        dry_multiplier: 1.0,
        ..greedy
    };
    assert_eq!(chosen(&dry), Choice::Token(other));
    // A breaker within it leaves nothing that is repeated.
    let broken = SamplingParams {
        dry_sequence_breakers: vec![String::from_utf8(model.tokenizer().piece(b)).unwrap()],
        ..dry.clone()
    };
    assert_eq!(chosen(&broken), Choice::Token(next));
    // A repetition that began before the window is none.
    let short = SamplingParams {
        dry_penalty_last_n: 3,
        ..dry
    };
    assert_eq!(chosen(&short), Choice::Token(next));
}

#[test]
fn dry_numbers_out_of_range_are_refused_by_name() {
    let refused = |change: fn(&mut SamplingParams)| {
        let mut params = SamplingParams::default();
        change(&mut params);
        Error::from(params.check().unwrap_err()).to_string()
    };
    for (message, name) in [
        (refused(|p| p.dry_multiplier = -1.0), "dry-multiplier"),
        (refused(|p| p.dry_base = 0.9), "dry-base"),
        (refused(|p| p.dry_base = f32::NAN), "dry-base"),
        (refused(|p| p.dry_allowed_length = -1), "dry-allowed-length"),
        (refused(|p| p.dry_penalty_last_n = -1), "dry-penalty-last-n"),
        (
            refused(|p| p.dry_sequence_breakers = vec![String::new()]),
            "dry-sequence-breaker",
        ),
        (
            refused(|p| p.dry_sequence_breakers = vec!["x".repeat(41)]),
            "dry-sequence-breaker",
        ),
        (
            refused(|p| p.dry_sequence_breakers = vec!["x".to_owned(); 65]),
            "dry-sequence-breaker",
        ),
    ] {
        assert!(message.starts_with(name), "{message}");
    }
}
