//! What a context holds: sequences, and parts of them that are removed, shared, moved, saved and brought back.

use std::ops::Range;

use llama_cpp_sys_2 as sys;

use super::Context;

impl Context {
    /// Removes the tokens of a sequence from position `from` on. False when this kind of model cannot
    /// remove a part (recurrent ones): then remove all from position 0 on, and compute again.
    pub fn truncate(&mut self, sequence: u32, from: usize) -> bool {
        let in_range = sequence < self.n_seq_max;
        let (Ok(sequence), Ok(from), true) =
            (i32::try_from(sequence), i32::try_from(from), in_range)
        else {
            return false;
        };
        // SAFETY: the context is alive; the memory belongs to it and is null for models without one.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            memory.is_null() || sys::llama_memory_seq_rm(memory, sequence, from, -1)
        }
    }

    /// Lets the sequence `to`, which must be empty, hold the first `n` tokens of `from`, too. Not for
    /// recurrent models, whose state is that of the last token. Sequences out of range are left alone.
    pub fn share(&mut self, from: u32, to: u32, n: usize) {
        let in_range = from < self.n_seq_max && to < self.n_seq_max;
        let (Ok(from), Ok(to), Ok(n), true) = (
            i32::try_from(from),
            i32::try_from(to),
            i32::try_from(n),
            in_range,
        ) else {
            return;
        };
        // SAFETY: the context is alive; both sequences are in range and lie in one cache (`kv_unified`), so
        // that copying a part is allowed.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            if !memory.is_null() {
                sys::llama_memory_seq_cp(memory, from, to, 0, n);
            }
        }
    }

    /// The sequence that nobody else uses, to bring a part of one in and out; `None` where there is none.
    fn spare_sequence(&self) -> Option<i32> {
        let spare = i32::try_from(self.n_seq_max).ok()?;
        self.has_spare_sequence.then_some(spare)
    }

    /// Whether a part of a sequence can be [saved](Self::save): where
    /// [`ContextParams::can_save`](super::ContextParams::can_save) asked for it,
    /// and not where the state is that of the last token, or old tokens are forgotten (sliding windows).
    #[must_use]
    pub fn can_save(&self) -> bool {
        self.model.can_save() && self.spare_sequence().is_some()
    }

    /// The keys and values of some positions of a sequence, in llama.cpp's own format; `None` when they
    /// cannot be saved, or `has_room` refuses so many bytes.
    pub fn save(
        &mut self,
        sequence: u32,
        positions: Range<usize>,
        has_room: impl FnOnce(u64) -> bool,
    ) -> Option<Vec<u8>> {
        let (spare, [from, to]) = self.part(sequence, &positions)?;
        let sequence = i32::try_from(sequence).ok()?;
        let context = self.context.as_ptr();
        // SAFETY: the context is alive, and all sequences, the spare one too, lie in one cache (`kv_unified`),
        // so that sharing a part is allowed and moves no data. llama.cpp writes at most the size it was given.
        unsafe {
            let memory = sys::llama_get_memory(context);
            if memory.is_null() {
                return None;
            }
            sys::llama_memory_seq_rm(memory, spare, -1, -1);
            sys::llama_memory_seq_cp(memory, sequence, spare, from, to);
            let n_bytes = sys::llama_state_seq_get_size(context, spare);
            let is_small = n_bytes > 0 && has_room(n_bytes as u64);
            let state = is_small.then(|| {
                let mut state = vec![0u8; n_bytes];
                let n = sys::llama_state_seq_get_data(context, state.as_mut_ptr(), n_bytes, spare);
                (n == n_bytes).then_some(state)
            });
            sys::llama_memory_seq_rm(memory, spare, -1, -1);
            state.flatten()
        }
    }

    /// Brings positions back that [`Context::save`] gave: `from` on are added to the sequence, those before are
    /// passed over. Bytes from elsewhere must have been verified: llama.cpp reads them within their bounds, but
    /// believes what they say. False, and nothing is added, when llama.cpp refuses or has no room.
    pub fn restore(
        &mut self,
        state: &[u8],
        sequence: u32,
        positions: Range<usize>,
        from: usize,
    ) -> bool {
        let Some((spare, [_, to])) = self.part(sequence, &positions) else {
            return false;
        };
        let (Ok(sequence), Ok(from)) = (i32::try_from(sequence), i32::try_from(from)) else {
            return false;
        };
        let context = self.context.as_ptr();
        // SAFETY: as in `save`; llama.cpp reads at most the state's length, and removes what it had read
        // when the state is not whole.
        unsafe {
            let memory = sys::llama_get_memory(context);
            if memory.is_null() {
                return false;
            }
            let n = sys::llama_state_seq_set_data(context, state.as_ptr(), state.len(), spare);
            let is_whole = n == state.len()
                && usize::try_from(sys::llama_memory_seq_pos_min(memory, spare))
                    == Ok(positions.start)
                && sys::llama_memory_seq_pos_max(memory, spare) == to - 1;
            if is_whole {
                sys::llama_memory_seq_cp(memory, spare, sequence, from, to);
            }
            sys::llama_memory_seq_rm(memory, spare, -1, -1);
            is_whole
        }
    }

    /// The spare sequence, and positions as llama.cpp counts them.
    fn part(&self, sequence: u32, positions: &Range<usize>) -> Option<(i32, [i32; 2])> {
        let from = i32::try_from(positions.start).ok()?;
        let to = i32::try_from(positions.end).ok()?;
        let is_valid = sequence < self.n_seq_max && from < to && self.can_save();
        Some((self.spare_sequence().filter(|_| is_valid)?, [from, to]))
    }

    /// Whether the positions of a sequence's tokens can be changed.
    #[must_use]
    pub fn can_shift(&self) -> bool {
        // SAFETY: the context is alive; the memory is null for models without one.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            !memory.is_null() && sys::llama_memory_can_shift(memory) && self.can_rotate
        }
    }

    /// Removes positions from the middle of a sequence and moves those after them down. Its tokens must not
    /// be shared with other sequences, whose positions would move, too. False when this kind of model cannot.
    pub fn shift(&mut self, sequence: u32, positions: Range<usize>) -> bool {
        let in_range = sequence < self.n_seq_max && positions.start < positions.end;
        let (Ok(sequence), Ok(from), Ok(to), true) = (
            i32::try_from(sequence),
            i32::try_from(positions.start),
            i32::try_from(positions.end),
            in_range && self.can_shift(),
        ) else {
            return false;
        };
        // SAFETY: the context is alive and its memory, which is not null (`can_shift`), allows it.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            if !sys::llama_memory_seq_rm(memory, sequence, from, to) {
                return false;
            }
            sys::llama_memory_seq_add(memory, sequence, to, -1, from - to);
        }
        true
    }

    /// Removes all tokens.
    pub fn clear(&mut self) {
        // SAFETY: as in `truncate`.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            if !memory.is_null() {
                sys::llama_memory_clear(memory, true);
            }
        }
    }
}
