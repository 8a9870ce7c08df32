//! Which models must leave so that another one fits. Pure.

/// How much may be loaded at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Bytes, by the reckoning of [`crate::fit`]; `None` = no limit.
    pub bytes: Option<u64>,
    /// Models; `None` = as many as the bytes allow.
    pub n_models: Option<usize>,
}

/// A model in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its number in the fleet.
    pub at: usize,
    /// What it takes.
    pub bytes: u64,
    /// Requests use it.
    pub is_busy: bool,
    /// Grows with each use of any model.
    pub last_used: u64,
    /// It cannot be taken out of memory: its engine has failed, and holds what it has.
    pub is_stuck: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Room {
    /// Nothing: it fits.
    Free,
    /// These leave now; nobody uses them.
    Evict(Vec<usize>),
    /// These leave when their requests have ended, and begin no more.
    Drain(Vec<usize>),
    /// Not even without all others.
    Never,
}

impl Limits {
    /// How a model that takes `need` bytes fits beside those that are held. The least recently used ones leave,
    /// those first that nobody uses, and none that need not.
    #[must_use]
    pub fn room(&self, held: &[Held], need: u64) -> Room {
        // Wide enough for sums of what no machine has.
        let sum = |held: &[Held]| held.iter().map(|h| u128::from(h.bytes)).sum::<u128>();
        let most = self.bytes.map_or(u128::MAX, u128::from);
        if u128::from(need) > most || self.n_models == Some(0) {
            return Room::Never;
        }
        let excess_bytes = (sum(held) + u128::from(need)).saturating_sub(most);
        let n_most = self.n_models.unwrap_or(usize::MAX);
        let excess_n = (held.len() + 1).saturating_sub(n_most);
        if excess_bytes == 0 && excess_n == 0 {
            return Room::Free;
        }
        let is_enough = |chosen: &[Held]| sum(chosen) >= excess_bytes && chosen.len() >= excess_n;
        let mut all: Vec<Held> = held.iter().copied().filter(|h| !h.is_stuck).collect();
        all.sort_by_key(|h| (h.is_busy, h.last_used));
        let n_idle = all.iter().take_while(|h| !h.is_busy).count();
        let numbers = |chosen: Vec<Held>| chosen.into_iter().map(|h| h.at).collect();
        if let Some(chosen) = choose(&all[..n_idle], is_enough) {
            return Room::Evict(numbers(chosen));
        }
        choose(&all, is_enough).map_or(Room::Never, |chosen| Room::Drain(numbers(chosen)))
    }
}

/// The first ones that are enough, without those among them that the others make up for.
fn choose(ordered: &[Held], is_enough: impl Fn(&[Held]) -> bool) -> Option<Vec<Held>> {
    let n = (1..=ordered.len()).find(|&n| is_enough(&ordered[..n]))?;
    let mut chosen = ordered[..n].to_vec();
    // The last one is needed, or fewer would have been enough. The more recently used stay first.
    for i in (0..n - 1).rev() {
        let one = chosen.remove(i);
        if !is_enough(&chosen) {
            chosen.insert(i, one);
        }
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(at: usize, bytes: u64, last_used: u64) -> Held {
        Held {
            at,
            bytes,
            is_busy: false,
            last_used,
            is_stuck: false,
        }
    }

    fn busy(at: usize, bytes: u64, last_used: u64) -> Held {
        Held {
            is_busy: true,
            ..idle(at, bytes, last_used)
        }
    }

    fn within(bytes: u64) -> Limits {
        Limits {
            bytes: Some(bytes),
            n_models: None,
        }
    }

    #[test]
    fn what_fits_evicts_nobody_to_the_last_byte() {
        let held = [idle(0, 4, 1), idle(1, 4, 2)];
        assert_eq!(within(10).room(&held, 2), Room::Free);
        assert_eq!(within(10).room(&held, 3), Room::Evict(vec![0]));
        assert_eq!(Limits::default().room(&held, u64::MAX), Room::Free);
        assert_eq!(within(10).room(&[], 10), Room::Free);
        assert_eq!(within(10).room(&[], 11), Room::Never);
    }

    #[test]
    fn the_least_recently_used_idle_one_leaves_first() {
        let held = [idle(0, 4, 9), idle(1, 4, 3), busy(2, 1, 1)];
        assert_eq!(within(10).room(&held, 4), Room::Evict(vec![1]));
        assert_eq!(within(10).room(&held, 8), Room::Evict(vec![1, 0]));
        // The busy one must leave as well, when it can.
        assert_eq!(within(10).room(&held, 10), Room::Drain(vec![1, 0, 2]));
    }

    #[test]
    fn nobody_leaves_in_vain() {
        let held = [idle(0, 1, 1), idle(1, 8, 2)];
        assert_eq!(within(10).room(&held, 8), Room::Evict(vec![1]));
        assert_eq!(within(10).room(&held, 10), Room::Evict(vec![0, 1]));
    }

    #[test]
    fn a_model_in_use_is_drained_and_one_that_is_stuck_stays() {
        let held = [busy(0, 6, 1), busy(1, 4, 2)];
        assert_eq!(within(10).room(&held, 5), Room::Drain(vec![0]));
        let stuck = Held {
            is_stuck: true,
            ..held[0]
        };
        assert_eq!(within(10).room(&[stuck, held[1]], 4), Room::Drain(vec![1]));
        assert_eq!(within(10).room(&[stuck, held[1]], 5), Room::Never);
    }

    #[test]
    fn the_number_of_models_may_be_limited_too() {
        let one = Limits {
            bytes: None,
            n_models: Some(1),
        };
        assert_eq!(one.room(&[], 5), Room::Free);
        assert_eq!(one.room(&[idle(3, 1, 1)], 5), Room::Evict(vec![3]));
        assert_eq!(one.room(&[busy(3, 1, 1)], 5), Room::Drain(vec![3]));
    }

    #[test]
    fn sums_do_not_wrap() {
        let held = [idle(0, u64::MAX, 1), idle(1, u64::MAX, 2)];
        assert_eq!(within(u64::MAX).room(&held, 1), Room::Evict(vec![0, 1]));
    }
}
