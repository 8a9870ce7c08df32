//! What is to be fast, and which of several measurements is best for it.

use serde::{Deserialize, Serialize};

/// What is to be fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// Reading prompts.
    Prefill,
    /// Writing answers.
    Decode,
    /// Long prompts with short answers as well as short prompts with long ones.
    #[default]
    Balanced,
}

/// Tokens a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Of a prompt.
    pub prefill: f64,
    /// Of an answer.
    pub decode: f64,
}

/// Differences below this are noise: then the first of the candidates is taken, the simplest.
const NOISE: f64 = 0.02;

impl Goal {
    /// Tokens of prompt and answer of the jobs that are to be fast.
    fn jobs(self) -> &'static [(f64, f64)] {
        match self {
            Goal::Prefill => &[(1.0, 0.0)],
            Goal::Decode => &[(0.0, 1.0)],
            Goal::Balanced => &[(512.0, 32.0), (128.0, 128.0), (32.0, 256.0)],
        }
    }

    /// Which of these is best: the one whose worst job loses the least beside the fastest at that job. `None`
    /// when there are none.
    #[must_use]
    pub fn best(self, candidates: &[Speed]) -> Option<usize> {
        let time = |speed: &Speed, job: &(f64, f64)| {
            // 0 / x stays 0 for a speed that was not measured.
            let part = |n: f64, speed: f64| if n == 0.0 { 0.0 } else { n / speed };
            part(job.0, speed.prefill) + part(job.1, speed.decode)
        };
        let loss = |speed: &Speed| {
            let losses = self.jobs().iter().map(|job| {
                let fastest = candidates.iter().map(|s| time(s, job));
                time(speed, job) / fastest.fold(f64::INFINITY, f64::min)
            });
            losses.fold(1.0, f64::max)
        };
        let losses: Vec<f64> = candidates.iter().map(loss).collect();
        let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
        losses
            .iter()
            .position(|&loss| loss <= least * (1.0 + NOISE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_goal_takes_its_best() {
        // Plain, `ffn_up` repacked, all repacked: the figures in src/repack.rs.
        let speeds = [(344.0, 25.5), (288.0, 29.2), (203.0, 30.2)];
        let speeds = speeds.map(|(prefill, decode)| Speed { prefill, decode });
        assert_eq!(Goal::Prefill.best(&speeds), Some(0));
        assert_eq!(Goal::Decode.best(&speeds), Some(2));
        assert_eq!(Goal::Balanced.best(&speeds), Some(1));
        assert_eq!(Goal::Balanced.best(&[]), None);
    }

    #[test]
    fn noise_does_not_decide() {
        let speeds = [(100.0, 10.0), (101.0, 10.1)];
        let speeds = speeds.map(|(prefill, decode)| Speed { prefill, decode });
        assert_eq!(Goal::Balanced.best(&speeds), Some(0));
    }
}
