"""Bytes that a model needs, in closed form: its weights, a block's activations a token, the head's kernels.

The formulas follow what transformers' Llama, Qwen2 and Qwen3 blocks, peft's LoRA layers and this package's kernels keep
and pass through, operation by operation. They are checked against simulated and measured steps (tests/test_plan.py).

Symbols: h hidden size, f MLP size, a and k widths of queries and of keys, r rank, V vocabulary, T tokens of a sequence;
e bytes of a weight of the base, and of what passes between layers, the adapters' included (`lora.narrow_products`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .config import DMPOConfig
from .kernels import linear_ce_tiles as tiles
from .kernels import linear_sampling

Device = Literal["cuda", "cpu"]

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
# NF4 of bitsandbytes: half a byte a weight; for each 64 of them a scale of a byte, for each 256 scales one of float32.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
ENTROPY_TOKENS = 256  # of `likelihood.token_entropy`


@dataclass(frozen=True)
class Architecture:
    """Sizes of a Llama-like model, in elements."""

    layers: int
    hidden: int
    mlp: int
    queries: int  # heads · head size
    keys: int  # key heads · head size
    heads: int
    head_size: int
    vocab: int
    tied: bool
    biases: int  # of one block, all together
    normed_heads: bool  # Qwen3: queries and keys are normalised head by head

    @classmethod
    def of(cls, config: Any) -> Architecture:
        """From a transformers config of one of the types that `load_model` loads."""
        heads, kind = config.num_attention_heads, config.model_type
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        queries, keys, hidden, mlp = (
            heads * size,
            config.num_key_value_heads * size,
            config.hidden_size,
            config.intermediate_size,
        )
        biases = 0
        if kind in ("qwen2", "Dream"):
            biases = queries + 2 * keys
        elif config.attention_bias:
            biases = queries + 2 * keys + hidden
        if getattr(config, "mlp_bias", False):
            biases += 2 * mlp + hidden
        tied, layers = config.tie_word_embeddings, config.num_hidden_layers
        normed = kind == "qwen3"
        return cls(layers, hidden, mlp, queries, keys, heads, size, config.vocab_size, tied, biases, normed)

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the linear layers of a block: q, k, v, o, gate, up, down."""
        h, f, a, k = self.hidden, self.mlp, self.queries, self.keys
        return [(h, a), (h, k), (h, k), (a, h), (h, f), (h, f), (f, h)]

    @property
    def block_linear(self) -> int:
        """Weights of a block that LoRA adapts and that 4 bits hold."""
        return sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def block_other(self) -> int:
        return self.biases + 2 * self.hidden + (2 * self.head_size if self.normed_heads else 0)

    @property
    def head(self) -> int:
        return self.vocab * self.hidden

    @property
    def outer(self) -> int:
        """Embeddings, final norm, head."""
        return self.head * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * (self.block_linear + self.block_other) + self.outer

    def adapter(self, rank: int) -> int:
        """Weights of LoRA on all linear layers of one block."""
        return rank * sum(inputs + outputs for inputs, outputs in self.linears)


@dataclass(frozen=True)
class BlockMemory:
    """Bytes a token of one block and of the passes through all of them."""

    arch: Architecture
    config: DMPOConfig
    device: Device
    tokens: int  # of a sequence

    @property
    def e(self) -> int:
        return ITEMSIZE[self.config.dtype]

    @property
    def _kept_mask(self) -> int:
        """Of dropout, an element: a byte on a GPU; on a CPU the factors themselves."""
        if not self.config.lora_r or not self.config.lora_dropout:
            return 0
        return 1 if self.device == "cuda" else self.e

    @property
    def _copied(self) -> bool:
        """Whether each LoRA layer keeps an input of its own, with dropout."""
        return self.config.lora_r > 0 and self.config.lora_dropout > 0

    @property
    def saved(self) -> int:
        """What a block keeps for its backward: what norms, linear layers, attention and the MLP's product take in."""
        arch, e, rank = self.arch, self.e, self.config.lora_r
        h, f, a, k = arch.hidden, arch.mlp, arch.queries, arch.keys
        inputs = sum(inputs for inputs, _ in arch.linears)
        norms = 2 * (4 * h + 4)
        if arch.normed_heads:
            norms += 4 * (a + k) + (0 if rank else e * (a + k))
        if not rank:
            norms += 2 * e * h
            linears = e * (2 * h + f)  # each normed input once for all that read it; o_proj reads attention's output
        else:
            linears = e * inputs if self._copied else e * (2 * h + f)
            linears += self._kept_mask * inputs + len(arch.linears) * e * rank
        return norms + linears + self._attention + 3 * e * f

    @property
    def _attention(self) -> int:
        """Queries, keys, values (repeated for the heads that share them), output; and scores where they are kept."""
        arch, e = self.arch, self.e
        kept = 4 * e * arch.queries
        if self.config.attn_implementation == "eager":
            kept -= e * arch.queries if self._copied else 0  # only o_proj would need the output
            return kept + arch.heads * self.tokens * (4 + (e if e < 4 else 0))
        mask = e * self.tokens if self.config.attn_implementation == "sdpa" else 0
        return kept + 4 * arch.heads + mask

    @property
    def first_block_spares(self) -> int:
        """What the first block need not keep where the embeddings are frozen."""
        return (4 + 3 * self._kept_mask) * self.arch.hidden if self.config.lora_r else 0

    @property
    def forward(self) -> int:
        """In flight at most while a block runs without gradients, the whole pass' own streams included."""
        arch, e = self.arch, self.e
        h, f, a, k = arch.hidden, arch.mlp, arch.queries, arch.keys
        attention = e * (4 * a + 2 * k) + self._scores
        mlp = 3 * e * f
        if self.config.lora_r:
            mlp = 4 * e * f
        return 4 * e * h + max(attention, mlp)

    @property
    def _scores(self) -> int:
        if self.config.attn_implementation == "eager":
            return self.arch.heads * self.tokens * (2 * self.e + 4)
        return self.e * self.tokens

    @property
    def training(self) -> int:
        """In flight beside what blocks keep while a block runs forward or backward."""
        arch, e = self.arch, self.e
        h, f = arch.hidden, arch.mlp
        streams = 4 if e < 4 else 2  # in float32 the norms keep two of them
        if not self.config.lora_r:
            return e * f + (streams + 2) * e * h
        return e * f + (streams + 3) * e * h

    @property
    def masks(self) -> int:
        """The attention mask of a pass, and the cosines and sines of positions."""
        return self.tokens + 2 * self.e * self.arch.head_size + 24


@dataclass(frozen=True)
class HeadMemory:
    """Bytes of the head's stage: scores of `rows` hidden rows against the vocabulary."""

    arch: Architecture
    config: DMPOConfig
    device: Device
    rows: int

    @property
    def _half(self) -> bool:
        return ITEMSIZE[self.config.dtype] < 4

    def piece(self, *, whole_rows: bool = False) -> int:
        """Of logits, with what a CPU casts to float32 beside them."""
        on_gpu = self.device == "cuda"
        each = 6 if self._half and on_gpu else 4
        cast = 0 if on_gpu or not self._half else 4 * self.arch.hidden
        if whole_rows:
            limit = tiles.ROW_CHUNK_BYTES[self.device]
            columns = self.arch.vocab
        else:
            limit = tiles.SWEEP_BYTES[self.device]
            _, columns = tiles.piece_shape(self.arch.vocab, self.rows, limit, each, on_gpu=on_gpu)
        return min(limit, self.rows * columns * each) + cast * columns

    @property
    def scoring(self) -> int:
        """Of log-probabilities without gradients: the rows, and a piece."""
        return self.rows * self.arch.hidden * ITEMSIZE[self.config.dtype] + self.piece()

    @property
    def entropy(self) -> int:
        """Of the mean token entropy: whole rows of float32 logits, four times."""
        return 16 * min(self.rows, ENTROPY_TOKENS) * self.arch.vocab

    @property
    def sampling(self) -> int:
        """Of a draw: the rows, a piece of logits; on a CPU also tiles of the head, copied row by row."""
        e, h, vocab = ITEMSIZE[self.config.dtype], self.arch.hidden, self.arch.vocab
        rows = self.rows * h * e
        limit = linear_sampling.PIECE_BYTES[self.device]
        if self.device == "cuda":
            return rows + min(limit, self.rows * vocab * e)
        cast = min(linear_sampling.WEIGHT_BYTES, 4 * vocab * h) if self._half else 0
        copied = min(limit, 4 * self.rows * linear_sampling.TILE * h)
        return rows + min(limit, 8 * self.rows * vocab) + max(copied, cast)

    @property
    def loss(self) -> int:
        """Of the loss and its gradient, made in one forward."""
        e, h = ITEMSIZE[self.config.dtype], self.arch.hidden
        on_gpu = self.device == "cuda"
        kept = e + 4  # rows, their gradient
        beside = 0 if on_gpu else e + 4 * self._half  # the targets' rows
        total = self.rows * h * (kept + beside) + self.piece(whole_rows=not self.config.lora_r)
        return total if self.config.lora_r else total + 4 * self.arch.head
