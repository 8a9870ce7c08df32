#!/usr/bin/env python3
"""Makes the demo model, tests/fixtures/yi-demo, from nothing.

    python3 -m venv .venv
    .venv/bin/pip install -r scripts/train_demo_model.requirements.txt
    .venv/bin/python scripts/train_demo_model.py

It trains a tokenizer with Yi's settings, generates questions in English and Chinese whose answers can be checked,
trains a small model of Yi's architecture on them, and writes a checkpoint in Yi's format, the held-out questions
(tests/fixtures/yi-demo-heldout.jsonl) and reference tokenizations (tests/fixtures/yi-demo-tokenization.json).

No operands, date, product or sentence of a held-out question is asked about in training (of the bank's own products, which
are known by heart: no wording of a question): every training question is asserted to share no key with one. At the end the accuracy on them is printed, with the weights rounded to BF16: an answer counts
only if greedy decoding gives exactly the expected text. The state is saved every five minutes; started again, the
script goes on from there and ends with the same weights.
"""

import argparse
import collections
import json
import os
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from demo_model import batch, checkpoint, data, model, tokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
SAVE_EVERY_S = 300
REPORT_EVERY = 50


def save_state(path, step, params, optimizer, cpu_s, wall_s):
    """Writes all a resumed run needs, whole or not at all."""
    arrays = {f"params/{n}": v for n, v in params.items()}
    arrays |= {f"{part}/{n}": v for part in "mv" for n, v in optimizer[part].items()}
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, step=step, cpu_s=cpu_s, wall_s=wall_s, **arrays)
    partial.replace(path)


def load_state(path):
    """(step, params, optimizer, CPU seconds, wall seconds) as saved."""
    parts = {"params": {}, "m": {}, "v": {}}
    with np.load(path) as arrays:
        for key in arrays.files:
            part, _, name = key.partition("/")
            if name:
                parts[part][name] = jnp.asarray(arrays[key])
        return int(arrays["step"]), parts.pop("params"), parts, float(arrays["cpu_s"]), float(arrays["wall_s"])


def evaluate(params, processor, questions):
    """The questions answered right, by task and language, with the weights rounded to BF16: (right, all). Greedy
    decoding gives the expected answer exactly if each of its tokens, the end included, is the most likely one after
    the tokens before it, so one pass over question and answer decides."""
    rounded = {name: value.astype(jnp.bfloat16).astype(jnp.float32) for name, value in params.items()}
    right, total = collections.Counter(), collections.Counter()
    remaining = iter(questions)
    for rows in batch.evaluation_batches(processor, questions):
        ids, segments, at, targets = rows.arrays()
        wrong = np.asarray(model.predict(rounded, ids, segments, at)) != targets
        wrong_ones = {conversation for conversation, bad in zip(rows.conversations, wrong) if bad}
        for conversation, question in zip(range(rows.n_conversations), remaining):
            total[question.task, question.lang] += 1
            right[question.task, question.lang] += conversation not in wrong_ones
    return right, total


def report(right, total):
    """Prints the accuracies as a table."""
    print("| task | en | zh |\n| --- | --- | --- |")
    for task in dict.fromkeys(task for task, _ in total):
        print(f"| {task} | " + " | ".join(f"{right[task, lang]}/{total[task, lang]}" for lang in data.LANGS) + " |")
    print(f"held out, BF16: {right.total()}/{total.total()} = {100 * right.total() / total.total():.1f} %", flush=True)


def train(args, processor, questions):
    """The trained parameters."""
    state = args.work / "state.npz"
    prompts = {question.prompt for question in questions}
    first, cpu_before, wall_before = 0, 0.0, 0.0
    if state.exists():
        first, params, optimizer, cpu_before, wall_before = load_state(state)
        print(f"going on at step {first}")
    else:
        params = model.init(args.seed)
        optimizer = model.init_optimizer(params)
    print(f"{sum(p.size for p in params.values()):,} parameters, {args.steps} steps")
    started = saved = time.monotonic()
    cpu_started = time.process_time()
    n_tokens, losses = 0, []

    def spent():
        return cpu_before + time.process_time() - cpu_started, wall_before + time.monotonic() - started

    for step in range(first, args.steps):
        arrays = batch.training_batch(processor, args.seed, step, prompts)
        params, optimizer, value = model.train_step(params, optimizer, step, args.steps, *arrays)
        losses.append(float(value))
        n_tokens += int((arrays[1] > 0).sum())
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == args.steps:
            cpu_s, wall_s = spent()
            print(f"step {step + 1} loss {np.mean(losses):.4f} wall {wall_s:.0f} s CPU {cpu_s:.0f} s, "
                  f"{n_tokens / (wall_s - wall_before):.0f} tokens/s", flush=True)
            losses = []
        if time.monotonic() - saved > SAVE_EVERY_S or step + 1 == args.steps:
            save_state(state, step + 1, params, optimizer, *spent())
            saved = time.monotonic()
            report(*evaluate(params, processor, questions))
    return params


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=FIXTURES, help="the folder to write to (default: tests/fixtures)")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target" / "demo_model", help="where the state is kept")
    parser.add_argument("--steps", type=int, default=1250)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    folder = args.out / "yi-demo"
    for path in (folder, args.work):
        path.mkdir(parents=True, exist_ok=True)
    processor = checkpoint.write_tokenizer(folder)
    checkpoint.write_json(args.out / "yi-demo-tokenization.json", tokenizer.reference(processor))
    questions = data.held_out_questions(args.seed)
    with open(args.out / "yi-demo-heldout.jsonl", "w", encoding="utf-8") as file:
        for question in questions:
            record = {key: getattr(question, key) for key in ("task", "lang", "prompt", "answer")}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    params = train(args, processor, questions)
    checkpoint.write_model(folder, params)
    report(*evaluate(params, processor, questions))


if __name__ == "__main__":
    # Huge pages for malloc: XLA takes and returns its buffers at every step, and the page faults cost a third of the time.
    if "GLIBC_TUNABLES" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})
    main()
