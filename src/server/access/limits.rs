//! What each key has used lately: requests and tokens a minute, and requests at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Caller, KeyLimits};
use crate::server::api_error::ApiError;

/// A budget that fills evenly, by its whole size each minute.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at: Instant,
}

impl Bucket {
    /// What is there now. A budget that has shrunk meanwhile counts as it is.
    fn fill(&mut self, per_minute: u32, now: Instant) -> f64 {
        let size = f64::from(per_minute);
        let passed_s = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed_s * size / 60.0).min(size);
        self.at = now;
        self.level
    }
}

/// Seconds until `missing` of a budget has come.
fn wait_s(missing: f64, per_minute: u32) -> u64 {
    let wait_s = missing * 60.0 / f64::from(per_minute.max(1));
    wait_s.ceil().clamp(1.0, 3600.0) as u64
}

#[derive(Debug, Default)]
struct Used {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    n_running: u32,
}

/// What all keys have used.
#[derive(Debug, Default)]
pub struct Meter {
    used: Mutex<HashMap<Arc<str>, Used>>,
}

impl Meter {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request, or refuses it.
    ///
    /// Tokens are charged when they are known: those of the prompt before it is computed, those of the answer
    /// when it is there. A budget may so be overdrawn by one answer; then nothing is accepted until it is
    /// above zero again.
    pub fn begin(self: &Arc<Self>, caller: &Caller) -> Result<Running, ApiError> {
        let KeyLimits {
            requests_per_minute,
            tokens_per_minute,
            concurrent,
            ..
        } = caller.limits;
        let now = Instant::now();
        let mut all = self.lock();
        let used = all.entry(Arc::clone(&caller.id)).or_default();
        if let Some(most) = concurrent
            && used.n_running >= most
        {
            let message = format!("the key may have {most} requests at once");
            return Err(ApiError::rate_limited(message, 1));
        }
        if let Some(most) = tokens_per_minute {
            let level = full(&mut used.tokens, most, now).fill(most, now);
            if level <= 0.0 {
                return Err(ApiError::rate_limited(
                    format!("the key may use {most} tokens a minute"),
                    wait_s(1.0 - level, most),
                ));
            }
        }
        if let Some(most) = requests_per_minute {
            let requests = full(&mut used.requests, most, now);
            let level = requests.fill(most, now);
            if level < 1.0 {
                return Err(ApiError::rate_limited(
                    format!("the key may send {most} requests a minute"),
                    wait_s(1.0 - level, most),
                ));
            }
            requests.level -= 1.0;
        }
        used.n_running += 1;
        Ok(Running {
            meter: Arc::clone(self),
            caller: caller.clone(),
        })
    }

    /// Takes tokens off a key's budget; fewer than none are given back.
    fn charge(&self, caller: &Caller, n_tokens: f64) {
        if let Some(most) = caller.limits.tokens_per_minute {
            let now = Instant::now();
            let mut all = self.lock();
            let used = all.entry(Arc::clone(&caller.id)).or_default();
            let tokens = full(&mut used.tokens, most, now);
            tokens.fill(most, now);
            tokens.level -= n_tokens;
        }
    }
}

fn full(bucket: &mut Option<Bucket>, per_minute: u32, now: Instant) -> &mut Bucket {
    bucket.get_or_insert(Bucket {
        level: f64::from(per_minute),
        at: now,
    })
}

/// A request that counts as running; dropping it ends that.
#[derive(Debug)]
pub struct Running {
    meter: Arc<Meter>,
    caller: Caller,
}

impl Running {
    /// Refuses a request whose prompt the budget of tokens has no room for, and charges it otherwise.
    pub fn charge_prompt(&self, n_tokens: usize) -> Result<Charge, ApiError> {
        let charge = |n_unused| Charge {
            meter: Arc::clone(&self.meter),
            caller: self.caller.clone(),
            n_unused,
        };
        let Some(most) = self.caller.limits.tokens_per_minute else {
            return Ok(charge(n_tokens));
        };
        if n_tokens as f64 > f64::from(most) {
            return Err(ApiError::invalid(
                "messages",
                format!("the prompt has {n_tokens} tokens; the key may use {most} tokens a minute"),
            ));
        }
        let now = Instant::now();
        let mut all = self.meter.lock();
        let used = all.entry(Arc::clone(&self.caller.id)).or_default();
        let tokens = full(&mut used.tokens, most, now);
        let missing = n_tokens as f64 - tokens.fill(most, now);
        if missing > 0.0 {
            return Err(ApiError::rate_limited(
                format!("the prompt has {n_tokens} tokens; the key may use {most} tokens a minute"),
                wait_s(missing, most),
            ));
        }
        tokens.level -= n_tokens as f64;
        Ok(charge(n_tokens))
    }

    /// Charges tokens of an answer.
    pub fn charge(&self, n_tokens: usize) {
        self.meter.charge(&self.caller, n_tokens as f64);
    }
}

/// Tokens of a prompt that are charged; dropping it gives those back that were not computed.
#[derive(Debug)]
pub struct Charge {
    meter: Arc<Meter>,
    caller: Caller,
    n_unused: usize,
}

impl Charge {
    /// So many of them are computed.
    pub fn used(&mut self, n_tokens: usize) {
        self.n_unused = self.n_unused.saturating_sub(n_tokens);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.meter.charge(&self.caller, -(self.n_unused as f64));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(used) = self.meter.lock().get_mut(&self.caller.id) {
            used.n_running = used.n_running.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn caller(limits: KeyLimits) -> Caller {
        Caller {
            limits,
            ..Caller::nobody()
        }
    }

    #[test]
    fn a_budget_fills_again_with_time() {
        let start = Instant::now();
        let mut bucket = Bucket {
            level: 0.0,
            at: start,
        };
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(bucket.fill(60, at(10)), 10.0);
        assert_eq!(bucket.fill(60, at(10)), 10.0);
        assert_eq!(bucket.fill(60, at(1000)), 60.0);
        assert_eq!(bucket.fill(30, at(1000)), 30.0);
        assert_eq!(wait_s(0.5, 60), 1);
        assert_eq!(wait_s(10.0, 60), 10);
        assert_eq!(wait_s(1.0, 0), 60);
    }

    #[test]
    fn an_answer_that_overdraws_the_budget_is_paid_back() {
        let meter = Arc::new(Meter::default());
        let caller = caller(KeyLimits {
            tokens_per_minute: Some(60),
            ..KeyLimits::default()
        });
        let running = meter.begin(&caller).unwrap();
        running.charge_prompt(50).unwrap().used(50);
        running.charge(40);
        let error = meter.begin(&caller).unwrap_err();
        assert_eq!(error.code, Some("rate_limit_exceeded"));
        assert!(running.charge_prompt(61).is_err());
    }

    #[test]
    fn a_prompt_that_is_not_computed_is_given_back() {
        let meter = Arc::new(Meter::default());
        let caller = caller(KeyLimits {
            tokens_per_minute: Some(60),
            ..KeyLimits::default()
        });
        let running = meter.begin(&caller).unwrap();
        for _ in 0..3 {
            drop(running.charge_prompt(60).unwrap());
        }
        let mut charge = running.charge_prompt(60).unwrap();
        assert!(running.charge_prompt(20).is_err());
        charge.used(40);
        drop(charge);
        running.charge_prompt(20).unwrap().used(20);
        assert!(running.charge_prompt(20).is_err());
    }

    #[test]
    fn requests_at_once_are_counted_until_they_end() {
        let meter = Arc::new(Meter::default());
        let caller = caller(KeyLimits {
            concurrent: Some(1),
            ..KeyLimits::default()
        });
        let first = meter.begin(&caller).unwrap();
        assert!(meter.begin(&caller).is_err());
        drop(first);
        drop(meter.begin(&caller).unwrap());
    }
}
