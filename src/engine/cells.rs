//! Which places of the context are taken: the engine's account of llama.cpp's KV cache.

/// A place that holds one token for one or more sequences.
pub type Cell = u32;

/// All places. llama.cpp has at least as many, so a batch that has places here has them there.
#[derive(Debug)]
pub struct Cells {
    /// By cell: how many sequences hold it.
    holders: Vec<u32>,
    free: Vec<Cell>,
}

impl Cells {
    /// `n` free places.
    pub fn new(n: usize) -> Self {
        let n = Cell::try_from(n).unwrap_or(Cell::MAX);
        Cells {
            holders: vec![0; n as usize],
            free: (0..n).rev().collect(),
        }
    }

    /// Number of places that nobody holds.
    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    /// Takes `n` places; `None`, and nothing is taken, when there are fewer.
    pub fn take(&mut self, n: usize) -> Option<Vec<Cell>> {
        let cells = self.free.split_off(self.free.len().checked_sub(n)?);
        for &cell in &cells {
            self.holders[cell as usize] = 1;
        }
        Some(cells)
    }

    /// Lets one more sequence hold these.
    pub fn share(&mut self, cells: &[Cell]) {
        for &cell in cells {
            self.holders[cell as usize] += 1;
        }
    }

    /// Gives up one sequence's hold.
    pub fn release(&mut self, cells: impl IntoIterator<Item = Cell>) {
        for cell in cells {
            let holders = &mut self.holders[cell as usize];
            *holders -= 1;
            if *holders == 0 {
                self.free.push(cell);
            }
        }
    }

    /// Whether no more than one sequence holds each of these.
    pub fn are_own(&self, cells: &[Cell]) -> bool {
        cells.iter().all(|&cell| self.holders[cell as usize] == 1)
    }

    /// Number of different places in these lists.
    pub fn n_different<'a>(&self, lists: impl Iterator<Item = &'a [Cell]>) -> usize {
        let mut seen = vec![false; self.holders.len()];
        lists
            .flatten()
            .filter(|&&cell| !std::mem::replace(&mut seen[cell as usize], true))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_when_its_last_holder_gives_it_up() {
        let mut cells = Cells::new(4);
        let mine = cells.take(3).unwrap();
        assert_eq!((cells.n_free(), cells.take(2)), (1, None));
        cells.share(&mine[..2]);
        assert_eq!(cells.n_different([&mine[..], &mine[..2]].into_iter()), 3);
        cells.release(mine.clone());
        assert_eq!(cells.n_free(), 2);
        cells.release(mine[..2].iter().copied());
        assert_eq!(cells.n_free(), 4);
    }
}
