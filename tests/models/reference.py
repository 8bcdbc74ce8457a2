"""The whole ViT once more, in NumPy and float64, one image at a time, from a state dict: written from the papers."""

import math

import numpy as np

EPS = 1e-6
_erf = np.vectorize(math.erf)


def logits(state: dict[str, np.ndarray], image: np.ndarray, patch: int, heads: int, pooling: str) -> np.ndarray:
    """float64 [classes] of `image`, float64 [3, H, W]. `state` has the fixed positions, too, as `pos_embed`."""
    side = image.shape[1] // patch
    tokens = np.stack(
        [
            np.einsum("cyx,dcyx->d", _square(image, row, column, patch), state["patch_embed.weight"])
            for row in range(side)
            for column in range(side)
        ]
    )
    tokens = tokens + state["patch_embed.bias"]
    if pooling == "cls":
        tokens = np.concatenate([state["cls_token"][0], tokens])
    if "pos_embed" in state:
        tokens = tokens + state["pos_embed"][0]
    seen = len(tokens)
    if "register_tokens" in state:
        tokens = np.concatenate([tokens, state["register_tokens"][0]])
    for number in range(sum(name.endswith("norm1.weight") for name in state)):
        block = {name.removeprefix(f"blocks.{number}."): value for name, value in state.items()}
        branch = _attention(block, _norm(block, "norm1", tokens), heads)
        tokens = tokens + block.get("scale1.scale", 1.0) * branch
        branch = _mlp(block, "mlp", _norm(block, "norm2", tokens))
        tokens = tokens + block.get("scale2.scale", 1.0) * branch
    tokens = _norm(state, "norm", tokens)[:seen]
    pooled = {"cls": tokens[0], "gap": tokens.mean(axis=0)}.get(pooling)
    if pooled is None:
        pooled = _map(state, tokens, heads)
    if "pre_logits.weight" in state:
        pooled = np.tanh(_dense(state, "pre_logits", pooled))
    return _dense(state, "head", pooled)


def posemb_sincos_2d(side: int, width: int) -> np.ndarray:
    """[side * side, width], as big_vision has it (models/vit.py, `posemb_sincos_2d`)."""
    y, x = np.mgrid[:side, :side]
    omega = np.arange(width // 4) / (width // 4 - 1)
    omega = 1.0 / (10_000**omega)
    y = np.einsum("m,d->md", y.flatten(), omega)
    x = np.einsum("m,d->md", x.flatten(), omega)
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)


def _square(image: np.ndarray, row: int, column: int, patch: int) -> np.ndarray:
    return image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]


def _dense(state: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(state: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS)
    return x * state[f"{name}.weight"] + state.get(f"{name}.bias", 0.0)


def _mlp(state: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    x = _dense(state, f"{name}.up", x)
    return _dense(state, f"{name}.down", x * 0.5 * (1.0 + _erf(x / math.sqrt(2.0))))


def _attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """One head: [Q, d], [T, d], [T, d] -> [Q, d]."""
    scores = q @ k.T / math.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def _attention(state: dict[str, np.ndarray], x: np.ndarray, heads: int) -> np.ndarray:
    q, k, v = (np.split(each, heads, axis=1) for each in np.split(_dense(state, "attention.qkv", x), 3, axis=1))
    if "attention.q_norm.weight" in state:
        q = [_norm(state, "attention.q_norm", each) for each in q]
        k = [_norm(state, "attention.k_norm", each) for each in k]
    return _dense(state, "attention.out", np.concatenate(list(map(_attend, q, k, v)), axis=1))


def _map(state: dict[str, np.ndarray], x: np.ndarray, heads: int) -> np.ndarray:
    """big_vision's MAPHead (models/vit.py): attention of one learned query, then norm and MLP in a residual branch."""
    q = np.split(_dense(state, "pool.q", state["pool.probe"][0]), heads, axis=1)
    k, v = (np.split(each, heads, axis=1) for each in np.split(_dense(state, "pool.kv", x), 2, axis=1))
    x = _dense(state, "pool.out", np.concatenate(list(map(_attend, q, k, v)), axis=1))
    return (x + _mlp(state, "pool.mlp", _norm(state, "pool.norm", x)))[0]
