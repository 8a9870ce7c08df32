//! ggml's allocator for a graph's intermediate results, replayed without memory.
//!
//! What a graph needs is not the sum of its tensors: each is freed after its last use, some take the
//! place of an operand, and holes stay where nothing fits. So this does what ggml-alloc.c does (one
//! buffer, best fit, the last free block grows) and reports how far it gets.

/// A tensor of a graph, by its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(usize);

/// What takes up memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    /// Elsewhere: weights, the cache.
    External,
    /// A place of its own, or of an operand where `may_reuse`.
    Own { may_reuse: bool },
    /// A part of another tensor.
    View(usize),
}

#[derive(Debug, Clone)]
struct Tensor {
    storage: Storage,
    /// Lengths of the dimensions and bytes of an element: what makes two tensors interchangeable.
    layout: ([u64; 3], u64),
    operands: Vec<usize>,
    is_input: bool,
}

/// A graph under construction, in the order of execution.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    tensors: Vec<Tensor>,
}

/// Lengths of up to three dimensions.
pub type Dims = [u64; 3];

impl Graph {
    fn push(
        &mut self,
        storage: Storage,
        dims: Dims,
        element_bytes: u64,
        operands: &[Id],
        is_input: bool,
    ) -> Id {
        self.tensors.push(Tensor {
            storage,
            layout: (dims, element_bytes),
            operands: operands.iter().map(|id| id.0).collect(),
            is_input,
        });
        Id(self.tensors.len() - 1)
    }

    /// Data that is filled in before the graph runs; in place from the start.
    pub fn input(&mut self, dims: Dims, element_bytes: u64) -> Id {
        let own = Storage::Own { may_reuse: false };
        self.push(own, dims, element_bytes, &[], true)
    }

    /// A result in F32 with a place of its own.
    pub fn result(&mut self, dims: Dims, operands: &[Id]) -> Id {
        self.push(Storage::Own { may_reuse: false }, dims, 4, operands, false)
    }

    /// A result in F32 that may take the place of an operand of the same layout that nothing else needs.
    pub fn in_place(&mut self, dims: Dims, operands: &[Id]) -> Id {
        self.push(Storage::Own { may_reuse: true }, dims, 4, operands, false)
    }

    /// Another look at a tensor.
    pub fn view(&mut self, of: Id, dims: Dims) -> Id {
        let base = self.base(of.0);
        let element_bytes = self.tensors[of.0].layout.1;
        self.push(Storage::View(base), dims, element_bytes, &[of], false)
    }

    /// Writes rows into a tensor; the result, a view of it, is never used.
    pub fn write_rows(&mut self, into: Id, operands: &[Id]) {
        let base = self.base(into.0);
        let operands: Vec<Id> = operands.iter().copied().chain([into]).collect();
        self.push(Storage::View(base), [0; 3], 0, &operands, false);
    }

    /// Writes a tensor to memory outside the graph.
    pub fn store(&mut self, operands: &[Id]) {
        self.push(Storage::External, [0; 3], 0, operands, false);
    }

    fn base(&self, tensor: usize) -> usize {
        match self.tensors[tensor].storage {
            Storage::View(base) => base,
            Storage::Own { .. } | Storage::External => tensor,
        }
    }

    /// Bytes of the buffer that the graph needs; `u64::MAX` where they overflow.
    #[must_use]
    pub fn buffer_bytes(&self) -> u64 {
        Replay::new(self).run()
    }
}

/// Alignment of a tensor in the CPU's buffers, in bytes.
const ALIGNMENT: u64 = 64;

#[derive(Debug, Clone, Default)]
struct Use {
    n_children: usize,
    n_views: usize,
    /// Where it lies, and how many bytes there are its own.
    place: Option<(u64, u64)>,
}

struct Replay<'a> {
    graph: &'a Graph,
    uses: Vec<Use>,
    /// Free blocks as offset and size, sorted, no two adjacent; the last has no end.
    free: Vec<(u64, u64)>,
    max_bytes: u64,
}

impl<'a> Replay<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut uses = vec![Use::default(); graph.tensors.len()];
        for tensor in &graph.tensors {
            if let Storage::View(base) = tensor.storage {
                uses[base].n_views += 1;
            }
            for &operand in &tensor.operands {
                uses[operand].n_children += 1;
            }
        }
        Replay {
            graph,
            uses,
            free: vec![(0, u64::MAX)],
            max_bytes: 0,
        }
    }

    fn run(mut self) -> u64 {
        for (i, tensor) in self.graph.tensors.iter().enumerate() {
            if tensor.is_input {
                self.place(i);
            }
        }
        for (i, tensor) in self.graph.tensors.iter().enumerate() {
            if !tensor.is_input && matches!(tensor.storage, Storage::Own { .. }) {
                self.place(i);
            }
            for &operand in &tensor.operands {
                self.release(operand);
            }
        }
        self.max_bytes
    }

    fn bytes(&self, tensor: usize) -> u64 {
        let (dims, element_bytes) = self.graph.tensors[tensor].layout;
        let bytes = dims.iter().fold(element_bytes, |n, &d| n.saturating_mul(d));
        bytes
            .checked_next_multiple_of(ALIGNMENT)
            .unwrap_or(u64::MAX)
    }

    fn place(&mut self, tensor: usize) {
        if let Some(place) = self.reusable(tensor) {
            self.uses[tensor].place = Some(place);
            return;
        }
        let bytes = self.bytes(tensor);
        let offset = self.allocate(bytes);
        self.uses[tensor].place = Some((offset, bytes));
    }

    /// The place of an operand that this tensor may take over.
    fn reusable(&mut self, tensor: usize) -> Option<(u64, u64)> {
        let it = &self.graph.tensors[tensor];
        if it.storage != (Storage::Own { may_reuse: true }) {
            return None;
        }
        for &operand in &it.operands {
            let base = self.graph.base(operand);
            let (used, base_use) = (&self.uses[operand], &self.uses[base]);
            let is_last_use = used.n_children == 1
                && used.n_views == 0
                && (base == operand || (base_use.n_views == 1 && base_use.n_children == 0));
            if self.graph.tensors[operand].layout == it.layout
                && is_last_use
                && let Some(place) = self.uses[base].place.take()
            {
                return Some(place);
            }
        }
        None
    }

    /// One use of an operand is over.
    fn release(&mut self, operand: usize) {
        self.uses[operand].n_children -= 1;
        if self.uses[operand].n_children > 0 || self.uses[operand].n_views > 0 {
            return;
        }
        let base = self.graph.base(operand);
        if base != operand {
            self.uses[base].n_views -= 1;
            if self.uses[base].n_views > 0 || self.uses[base].n_children > 0 {
                return;
            }
        }
        if let Some((offset, bytes)) = self.uses[base].place.take() {
            self.deallocate(offset, bytes);
        }
    }

    /// The smallest hole that is large enough, or else the open end.
    fn allocate(&mut self, bytes: u64) -> u64 {
        let last = self.free.len() - 1;
        let best = (0..last)
            .filter(|&i| self.free[i].1 >= bytes)
            // Of equal ones ggml takes the last.
            .min_by_key(|&i| (self.free[i].1, std::cmp::Reverse(i)))
            .unwrap_or(last);
        let offset = self.free[best].0;
        self.free[best].0 = offset.saturating_add(bytes);
        self.free[best].1 = self.free[best].1.saturating_sub(bytes);
        if best != last && self.free[best].1 == 0 {
            self.free.remove(best);
        }
        self.max_bytes = self.max_bytes.max(offset.saturating_add(bytes));
        offset
    }

    fn deallocate(&mut self, offset: u64, bytes: u64) {
        let at = self.free.partition_point(|&(o, _)| o < offset);
        self.free.insert(at, (offset, bytes));
        for left in [at, at.saturating_sub(1)] {
            if let (Some(&(o, n)), Some(&(next, m))) =
                (self.free.get(left), self.free.get(left + 1))
                && o.saturating_add(n) == next
            {
                self.free[left].1 = n.saturating_add(m);
                self.free.remove(left + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: Dims = [256, 1, 1];

    #[test]
    fn freed_places_are_used_again() {
        let mut graph = Graph::default();
        let a = graph.input(KIB, 4);
        let b = graph.result(KIB, &[a]);
        let c = graph.result(KIB, &[b]);
        graph.result(KIB, &[c]);
        // Never more than an operand and its result.
        assert_eq!(graph.buffer_bytes(), 2 * 1024);
    }

    #[test]
    fn a_result_takes_the_place_of_an_operand_only_at_its_last_use() {
        let mut graph = Graph::default();
        let a = graph.input(KIB, 4);
        let b = graph.in_place(KIB, &[a]);
        graph.in_place(KIB, &[b]);
        assert_eq!(graph.buffer_bytes(), 1024);

        let mut graph = Graph::default();
        let a = graph.input(KIB, 4);
        let b = graph.in_place(KIB, &[a]);
        graph.in_place(KIB, &[b, a]);
        assert_eq!(graph.buffer_bytes(), 2 * 1024);
    }

    #[test]
    fn a_view_keeps_its_tensor() {
        let mut graph = Graph::default();
        let a = graph.input(KIB, 4);
        let view = graph.view(a, [16, 16, 1]);
        let b = graph.result(KIB, &[a]);
        graph.result(KIB, &[b, view]);
        assert_eq!(graph.buffer_bytes(), 3 * 1024);
    }

    #[test]
    fn too_much_is_not_little() {
        let mut graph = Graph::default();
        let a = graph.input([u64::MAX; 3], 4);
        graph.result([u64::MAX; 3], &[a]);
        assert_eq!(graph.buffer_bytes(), u64::MAX);
    }
}
