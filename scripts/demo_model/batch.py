"""Conversations as token ids, packed into rows of one length."""

import random

import numpy as np

from demo_model import data
from demo_model.tokenizer import IM_END, IM_START

# (rows, tokens per row); every LONG_EVERY-th step has few long rows of long conversations, so that all positions of
# the context are trained.
SHORT, LONG, LONG_EVERY = (32, 128), (4, 1024), 24
# Answer tokens in a batch, at most.
MAX_TARGETS = 1536


def encode(processor, system, turns):
    """Ids of a ChatML conversation of (user, assistant) texts, and which of them the assistant must produce: its text
    and the token that ends it. Texts are encoded one by one, as the runtime does."""
    ids, produced = [], []

    def message(role, content):
        head, body = [IM_START, *processor.encode(role + "\n")], [*processor.encode(content), IM_END]
        ids.extend(head + body + processor.encode("\n"))
        produced.extend([False] * len(head) + [role == "assistant"] * len(body))
        produced.extend([False] * (len(ids) - len(produced)))

    if system is not None:
        message("system", system)
    for user, assistant in turns:
        message("user", user)
        message("assistant", assistant)
    return ids, produced


class Rows:
    """Rows being filled: ids, the segment each token belongs to (0: none), and of each answer token the flat position
    before it, the token itself and its conversation's number."""

    def __init__(self, shape):
        self.ids, self.segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        self.used, self.n_conversations = [0] * shape[0], 0
        self.at, self.targets, self.conversations = [], [], []

    def add(self, ids, produced):
        """Puts a conversation into the first row with room, and says whether there was one."""
        n_answer = sum(produced)
        for row, used in enumerate(self.used):
            end = used + len(ids)
            if end <= self.ids.shape[1] and len(self.at) + n_answer <= MAX_TARGETS:
                self.ids[row, used:end], self.segments[row, used:end] = ids, self.n_conversations + 1
                self.used[row] = end
                self.at += [row * self.ids.shape[1] + used + i - 1 for i, yes in enumerate(produced) if yes]
                self.targets += [token for token, yes in zip(ids, produced) if yes]
                self.conversations += [self.n_conversations] * n_answer
                self.n_conversations += 1
                return True
        return False

    def arrays(self):
        """ids, segments, at, targets, the last two filled up to MAX_TARGETS."""
        at, targets = np.zeros(MAX_TARGETS, np.int32), np.zeros(MAX_TARGETS, np.int32)
        at[: len(self.at)], targets[: len(self.at)] = self.at, self.targets
        return self.ids, self.segments, at, targets


def training_batch(processor, seed, step, held_out_prompts):
    """The batch of one step; depends on nothing but its arguments, so that a resumed run sees what it would have seen."""
    rng = random.Random(f"{seed} {step}")
    long = step % LONG_EVERY == LONG_EVERY - 1
    rows, misses = Rows(LONG if long else SHORT), 0
    while misses < 8:
        system, questions = data.training_conversation(rng, long)
        for question in questions:
            assert question.prompt not in held_out_prompts, question
            assert not any(map(data.is_held_out, question.keys)), question
        turns = [(question.prompt, question.answer) for question in questions]
        misses += not rows.add(*encode(processor, system, turns))
    return rows.arrays()


def evaluation_batches(processor, questions):
    """Yields rows until every question had its place, in their order."""
    rows = Rows(SHORT)
    for question in questions:
        conversation = encode(processor, None, [(question.prompt, question.answer)])
        if not rows.add(*conversation):
            yield rows
            rows = Rows(SHORT)
            assert rows.add(*conversation)
    yield rows
