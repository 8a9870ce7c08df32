"""Yi's architecture (Llama) in JAX and the optimizer that trains it.

Parameters are a flat dictionary with the checkpoint's own names and shapes ([out, in]), so that saving is writing them
down. Matrices inside the layers are trained with Muon (momentum, orthogonalized), all else with Adam.
"""

import functools

import jax
import jax.numpy as jnp

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 1024,
    "model_type": "llama",
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.34.0",
    "use_cache": True,
    "vocab_size": 2048,
}
HIDDEN, FFN, LAYERS = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["num_hidden_layers"]
HEADS, KV_HEADS = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
HEAD_DIM = HIDDEN // HEADS

MUON_RATE, ADAM_RATE, EMBEDDING_RATE, WEIGHT_DECAY = 0.02, 0.005, 0.05, 0.01
WARMUP_STEPS, DECAY_SHARE = 20, 0.5


def shapes():
    """Every parameter's name and shape."""
    result = {"model.embed_tokens.weight": (CONFIG["vocab_size"], HIDDEN)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        result |= {
            layer + "input_layernorm.weight": (HIDDEN,),
            layer + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            layer + "self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            layer + "self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            layer + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            layer + "post_attention_layernorm.weight": (HIDDEN,),
            layer + "mlp.gate_proj.weight": (FFN, HIDDEN),
            layer + "mlp.up_proj.weight": (FFN, HIDDEN),
            layer + "mlp.down_proj.weight": (HIDDEN, FFN),
        }
    return result | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (CONFIG["vocab_size"], HIDDEN)}


def is_muon(name):
    return name.endswith("_proj.weight")


def init(seed):
    """Fresh parameters; the projections that write to the residual stream start at zero."""
    params = {}
    for index, (name, shape) in enumerate(shapes().items()):
        if name.endswith("norm.weight"):
            params[name] = jnp.ones(shape)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            params[name] = jnp.zeros(shape)
        else:
            scale = 0.5 if "embed" in name else shape[1] ** -0.5 if is_muon(name) else CONFIG["initializer_range"]
            params[name] = scale * jax.random.normal(jax.random.PRNGKey(seed * 1000 + index), shape)
    return params


def rms_norm(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + CONFIG["rms_norm_eps"]) * weight


def rotate(x, cos, sin):
    """Rotary embedding as Hugging Face does it: dimension j turns with dimension j + half. x [rows, heads, T, dim]."""
    half = HEAD_DIM // 2
    return x * cos + jnp.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin


def forward(params, ids, segments, at):
    """Logits [n, vocab] at the positions `at` [n] of the flattened ids [rows, T]; a token sees the earlier tokens of its
    own segment."""
    rows, length = ids.shape
    position = jnp.arange(length)
    angle = position[:, None] * CONFIG["rope_theta"] ** (-jnp.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    cos, sin = (jnp.tile(f(angle), 2) for f in (jnp.cos, jnp.sin))
    seen = (segments[:, :, None] == segments[:, None, :]) & (position[:, None] >= position)
    bias = jnp.where(seen, 0.0, -1e9)[:, None, None]
    x = params["model.embed_tokens.weight"][ids]
    for i in range(LAYERS):
        def project(name, value):
            return value @ params[f"model.layers.{i}.{name}.weight"].T

        h = rms_norm(x, params[f"model.layers.{i}.input_layernorm.weight"])
        q, k, v = (project(f"self_attn.{name}_proj", h).reshape(rows, length, -1, HEAD_DIM).swapaxes(1, 2) for name in "qkv")
        q = rotate(q, cos, sin).reshape(rows, KV_HEADS, HEADS // KV_HEADS * length, HEAD_DIM)
        scores = q @ rotate(k, cos, sin).swapaxes(2, 3) * HEAD_DIM**-0.5
        scores = scores.reshape(rows, KV_HEADS, HEADS // KV_HEADS, length, length) + bias
        mixed = jax.nn.softmax(scores).reshape(rows, KV_HEADS, -1, length) @ v
        x += project("self_attn.o_proj", mixed.reshape(rows, HEADS, length, HEAD_DIM).swapaxes(1, 2).reshape(rows, length, HIDDEN))
        h = rms_norm(x, params[f"model.layers.{i}.post_attention_layernorm.weight"])
        x += project("mlp.down_proj", jax.nn.silu(project("mlp.gate_proj", h)) * project("mlp.up_proj", h))
    return rms_norm(x.reshape(-1, HIDDEN)[at], params["model.norm.weight"]) @ params["lm_head.weight"].T


def loss(params, ids, segments, at, targets):
    """Mean loss over the positions `at`, each with the token that must follow; a target of 0 is padding."""
    logits, weight = forward(params, ids, segments, at), targets > 0
    picked = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return jnp.sum((jax.nn.logsumexp(logits, axis=-1) - picked) * weight) / jnp.sum(weight)


def orthogonalize(g):
    """Newton-Schulz iteration towards the nearest orthogonal matrix (Muon)."""
    x = g if g.shape[0] <= g.shape[1] else g.T
    x /= jnp.linalg.norm(x) + 1e-7
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x if g.shape[0] <= g.shape[1] else x.T


def init_optimizer(params):
    """Momentum for all, the second moment for Adam's parameters."""
    return {"m": {n: jnp.zeros_like(p) for n, p in params.items()},
            "v": {n: jnp.zeros_like(p) for n, p in params.items() if not is_muon(n)}}


def rate(step, n_steps):
    """The learning rate's factor: warm-up, constant, then linear to zero."""
    return jnp.minimum((step + 1) / WARMUP_STEPS, jnp.minimum(1.0, (n_steps - step) / (DECAY_SHARE * n_steps)))


@functools.partial(jax.jit, donate_argnums=(0, 1))
def train_step(params, optimizer, step, n_steps, ids, segments, at, targets):
    """One step; returns the new parameters, the new optimizer state and the loss."""
    value, grads = jax.value_and_grad(loss)(params, ids, segments, at, targets)
    factor = rate(step, n_steps)
    new, m, v = {}, {}, {}
    for name, p in params.items():
        g = grads[name]
        if is_muon(name):
            m[name] = 0.95 * optimizer["m"][name] + g
            update = orthogonalize(g + 0.95 * m[name]) * max(1.0, p.shape[0] / p.shape[1]) ** 0.5
            new[name] = p * (1 - factor * MUON_RATE * WEIGHT_DECAY) - factor * MUON_RATE * update
        else:
            m[name] = 0.9 * optimizer["m"][name] + 0.1 * g
            v[name] = 0.99 * optimizer["v"][name] + 0.01 * g * g
            m_hat, v_hat = m[name] / (1 - 0.9 ** (step + 1)), v[name] / (1 - 0.99 ** (step + 1))
            adam_rate = EMBEDDING_RATE if "embed" in name else ADAM_RATE
            new[name] = p - factor * adam_rate * m_hat / (jnp.sqrt(v_hat) + 1e-8)
    return new, {"m": m, "v": v}, value


@jax.jit
def predict(params, ids, segments, at):
    """The most likely token to follow each of the positions `at`."""
    return jnp.argmax(forward(params, ids, segments, at), axis=-1)
