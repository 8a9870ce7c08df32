"""The same tasks by lm-evaluation-harness against both servers: run by scripts/test_lm_eval.

The harness asks for the log-likelihood of each answer with `echo` and `logprobs`, which llama-server refuses ("Only no
echo is supported"). What it does tell is the distribution of the next token (`n_probs`). So a small server in between
answers such requests with one request of llama-server's for each token of the prompt: every number is llama-server's
own, from its logits and its softmax.

Weights are in F32, and both compute attention step by step (`-fa off`), so that rounding does not decide. With quantized
weights llama.cpp rounds activations to 8 bits, and its fused attention adds up in 16, in another way once a batch has 64
tokens: where the smallest sums fall differently, and be it because a prompt is in other cells of the cache, a token's
logprob differs by up to 0.1 and 0.3 with the bundled model in Q8_0 - between two answers of the same server.
"""

import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
LLAMA_SERVER = ROOT / "target" / "reference" / "bin" / "llama-server"
URL, KEY, MODEL = os.environ["SERVER_URL"], os.environ["SERVER_KEY"], os.environ["SERVER_MODEL"]
N_VOCAB = json.loads((FIXTURES / "yi-demo" / "config.json").read_text())["vocab_size"]
# Items of each kind of question and language.
N_EACH = 2
TOLERANCE = 1e-2
CHAT = "<|im_start|>user\n{{prompt}}<|im_end|>\n<|im_start|>assistant\n"


def items() -> list[dict]:
    """Held-out questions of the bundled model, each with its answer and those of three others of its kind."""
    lines = (FIXTURES / "yi-demo-heldout.jsonl").read_text().splitlines()
    kinds = {}
    for question in map(json.loads, lines):
        kinds.setdefault((question["task"], question["lang"]), []).append(question)
    rng, found = random.Random(3), []
    for questions in kinds.values():
        answers = sorted({q["answer"] for q in questions})
        for question in rng.sample(questions, N_EACH):
            others = rng.sample([a for a in answers if a != question["answer"]], 3)
            choices = rng.sample([question["answer"], *others], 4)
            found.append({**question, "choices": choices, "gold": choices.index(question["answer"])})
    return found


def write_tasks(folder: Path) -> None:
    """Task files and their data. JSON is YAML."""
    data = folder / "items.jsonl"
    data.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items()))
    local = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "num_fewshot": 0,
    }
    choice = {
        **local,
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    }
    generate = {
        "output_type": "generate_until",
        "doc_to_text": CHAT,
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["<|im_end|>"], "max_gen_toks": 64, "temperature": 0},
        "metric_list": [{"metric": "exact_match"}],
    }
    tasks = [
        # As the model was trained, and with nothing but text.
        {**choice, "task": "yi_chat", "doc_to_text": CHAT, "target_delimiter": ""},
        {**choice, "task": "yi_plain", "doc_to_text": "{{prompt}}", "target_delimiter": " "},
        {**local, **generate, "task": "yi_generate"},
    ]
    for task in tasks:
        (folder / f"{task['task']}.yaml").write_text(json.dumps(task, ensure_ascii=False))


def write_tokenizer(folder: Path) -> None:
    """The bundled tokenizer, read as it is: the class for LLaMA in transformers 5 changes how spaces are treated."""
    source = FIXTURES / "yi-demo"
    shutil.copy(source / "tokenizer.json", folder)
    config = json.loads((source / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def post(url: str, value: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(value).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.load(response)


class Upstream:
    """llama-server, and the server in between."""

    def __init__(self):
        command = [LLAMA_SERVER, "-m", MODEL, "--port", "0", "-c", "1024", "-np", "1", "-t", "2", "-fa", "off"]
        command += ["-ctk", "f32", "-ctv", "f32"]
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        self.url = self.wait()
        self.next = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait(self) -> str:
        url = None
        while self.process.poll() is None:
            self.log.seek(0)
            found = re.search(r"listening on (http://[0-9.:]+)", self.log.read())
            url = found[1] if found else None
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                return url
            except (OSError, ValueError):
                pass
        self.log.seek(0)
        sys.exit(f"error: llama-server does not start\n{self.log.read()[-2000:]}")

    def after(self, tokens: tuple[int, ...]) -> dict[int, float]:
        """The log-probability of each token that may follow these."""
        if tokens not in self.next:
            asked = {"prompt": list(tokens), "n_predict": 1, "n_probs": N_VOCAB, "temperature": 0}
            (position,) = post(f"{self.url}/completion", asked)["completion_probabilities"]
            self.next[tokens] = {t["id"]: t["logprob"] for t in position["top_logprobs"]}
            assert len(self.next[tokens]) == N_VOCAB
            assert abs(sum(map(math.exp, self.next[tokens].values())) - 1) < 1e-4
        return self.next[tokens]

    def echo(self, tokens: list[int]) -> dict:
        """As OpenAI's API has it: the prompt's tokens and one that is generated."""
        logprobs, best = [None], [None]
        for i in range(1, len(tokens) + 1):
            after = self.after(tuple(tokens[:i]))
            likeliest = max(after, key=after.get)
            best.append({str(likeliest): after[likeliest]})
            logprobs.append(after[tokens[i] if i < len(tokens) else likeliest])
        return {"token_logprobs": logprobs, "top_logprobs": best}

    def answer(self, asked: dict) -> dict:
        if not asked.get("echo"):
            # With one slot, several prompts are several requests.
            texts = [post(f"{self.url}/v1/completions", {**asked, "prompt": prompt}) for prompt in asked["prompt"]]
            return {"choices": [{"index": i, "text": t["choices"][0]["text"]} for i, t in enumerate(texts)]}
        return {"choices": [{"index": i, "logprobs": self.echo(t)} for i, t in enumerate(asked["prompt"])]}

    def handler(self):
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body = json.dumps(upstream.answer(asked)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler

    def __enter__(self):
        return "http://{}:{}".format(*self.server.server_address)

    def __exit__(self, *_):
        self.server.shutdown()
        self.process.terminate()
        self.process.wait()


def evaluate(folder: Path, name: str, url: str, tasks: str, **options) -> dict:
    """Runs the harness; the samples of each task."""
    output = folder / name
    model = {
        "model": "yi-demo",
        "base_url": f"{url}/v1/completions",
        "tokenizer": str(folder / "tokenizer"),
        "tokenizer_backend": "huggingface",
        "max_length": 1024,
        **options,
    }
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--tasks", tasks]
    command += ["--model_args", ",".join(f"{key}={value}" for key, value in model.items())]
    command += ["--include_path", str(folder / "tasks"), "--output_path", str(output), "--log_samples"]
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"error: lm_eval failed with {name}\n{result.stdout[-1000:]}{result.stderr[-4000:]}")
    print(f"\n{name}:")
    print("\n".join(line for line in result.stdout.splitlines() if line.startswith("|")), flush=True)
    found = {}
    for task in tasks.split(","):
        (file,) = output.rglob(f"samples_{task}_*.jsonl")
        samples = [json.loads(line) for line in file.read_text().splitlines()]
        found[task] = sorted(samples, key=lambda sample: sample["doc_id"])
    return found


def compare_choices(name: str, ours: list[dict], theirs: list[dict]) -> bool:
    """Whether all log-likelihoods are within the tolerance, and all greedy marks and choices the same."""
    differences, n_other = [], 0
    for a, b in zip(ours, theirs, strict=True):
        for (mine, is_greedy), (other, was_greedy) in zip(
            (r for (r,) in a["resps"]), (r for (r,) in b["resps"]), strict=True
        ):
            differences.append(abs(float(mine) - float(other)))
            n_other += is_greedy != was_greedy
        n_other += a["acc"] != b["acc"]
    is_right = len(differences) > 0 and max(differences) <= TOLERANCE and n_other == 0
    print(
        f"{'ok ' if is_right else 'BAD'} {name}: {len(ours)} items, {len(differences)} answers, log-likelihoods differ"
        f" by {max(differences):.1e} at most, {n_other} other results",
        flush=True,
    )
    return is_right


def compare_texts(name: str, ours: list[dict], theirs: list[dict]) -> bool:
    n_other = sum(a["resps"] != b["resps"] for a, b in zip(ours, theirs, strict=True))
    print(f"{'BAD' if n_other else 'ok '} {name}: {len(ours)} texts, {n_other} others", flush=True)
    return n_other == 0


def main() -> int:
    if not LLAMA_SERVER.exists():
        sys.exit("error: no upstream tools\nhint: run scripts/build_reference_tools")
    with tempfile.TemporaryDirectory(prefix="test_lm_eval.") as temporary:
        folder = Path(temporary)
        for name, write in {"tasks": write_tasks, "tokenizer": write_tokenizer}.items():
            (folder / name).mkdir()
            write(folder / name)
        ours = evaluate(folder, "yi-serve", URL, "yi_chat,yi_plain,yi_generate", num_concurrent=4)
        # The server's own tokenizer must find the tokens that the harness counts.
        texts = evaluate(folder, "yi-serve-with-text", URL, "yi_plain", tokenized_requests=False)
        with Upstream() as url:
            theirs = evaluate(folder, "llama-server", url, "yi_chat,yi_plain,yi_generate", num_concurrent=1)
    print()
    results = [
        compare_choices("yi serve and llama-server, chat", ours["yi_chat"], theirs["yi_chat"]),
        compare_choices("yi serve and llama-server, plain", ours["yi_plain"], theirs["yi_plain"]),
        compare_choices("prompts as text and as tokens", texts["yi_plain"], ours["yi_plain"]),
        compare_texts("yi serve and llama-server, generated", ours["yi_generate"], theirs["yi_generate"]),
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
