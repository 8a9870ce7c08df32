//! How tokens are chosen.

use yi::engine::sample::{Choice, Mirostat, Sampler, SamplingParams};

use crate::util::models::Random;

/// A distribution with a long tail, as language has.
fn zipf(n: usize) -> Vec<f32> {
    (0..n).map(|i| -((i + 1) as f32).ln()).collect()
}

/// So many tokens from the same logits.
fn draw(params: &SamplingParams, logits: &[f32], n: usize) -> Vec<i32> {
    let mut sampler = Sampler::new(params, logits.len(), None);
    (0..n)
        .map(|_| match sampler.choose(logits, |_| true) {
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
