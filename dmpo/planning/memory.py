"""The memory of a model in closed form: bytes of its weights, of a block's activations for each token, of the head.

The formulas count, operation by operation, the tensors that transformers' Llama, Qwen2 and Qwen3 blocks, peft's LoRA
layers and our kernels save and allocate. tests/planning/test_plan.py compares them with simulated and measured steps.

Symbols: h hidden size, f MLP size, a width of the queries, k width of the keys, r LoRA rank, V vocabulary, T tokens of
a sequence. e is the number of bytes of a base weight. Activations have the same dtype, also inside adapters
(`lora.use_input_dtype`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..config.run import RunConfig
from ..kernels.linear_ce import tiles
from ..kernels.sampling import from_hidden as linear_sampling

Device = Literal["cuda", "cpu"]

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
# NF4 of bitsandbytes: half a byte for a weight, a scale of one byte for 64 weights, a float32 for 256 scales.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # as `linears`
_CODES = 2 * 4 * 256  # bytes: the 256 values that 8 bits stand for, of either moment
ENTROPY_TOKENS = 32  # tokens that `likelihood.token_entropy` processes at a time


@dataclass(frozen=True)
class Architecture:
    """The sizes of a Llama-like model, in elements."""

    layers: int
    hidden: int
    mlp: int
    queries: int  # number of heads · head size
    keys: int  # number of key heads · head size
    heads: int
    head_size: int
    vocab: int
    tied: bool  # embeddings and head share their weight
    biases: int  # all biases of one block together
    normed_heads: bool  # Qwen3 normalises queries and keys head by head
    block_size: int | None = None  # of block-causal attention

    @classmethod
    def of(cls, config: Any) -> Architecture:
        """The sizes in a transformers config of a type that `load_model` loads."""
        heads, kind = config.num_attention_heads, config.model_type
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        queries, keys, hidden, mlp = (
            heads * head_size,
            config.num_key_value_heads * head_size,
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
        normed, blocks = kind in ("qwen3", "sdar"), getattr(config, "block_size", None)
        return cls(
            layers, hidden, mlp, queries, keys, heads, head_size, config.vocab_size, tied, biases, normed, blocks
        )

    @property
    def linears(self) -> list[tuple[int, int]]:
        """The (inputs, outputs) of the linear layers of a block: q, k, v, o, gate, up, down."""
        h, f, a, k = self.hidden, self.mlp, self.queries, self.keys
        return [(h, a), (h, k), (h, k), (a, h), (h, f), (h, f), (f, h)]

    @property
    def block_linear(self) -> int:
        """The weights of a block's linear layers. LoRA adapts them, and load_in_4bit quantises them."""
        return sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def block_other(self) -> int:
        """The other parameters of a block: biases and norms."""
        return self.biases + 2 * self.hidden + (2 * self.head_size if self.normed_heads else 0)

    @property
    def head(self) -> int:
        return self.vocab * self.hidden

    @property
    def outer(self) -> int:
        """The parameters outside of the blocks: embeddings, final norm, head."""
        return self.head * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * (self.block_linear + self.block_other) + self.outer

    def adapted(self, targets: list[str] | str) -> list[tuple[int, int]]:
        """The (inputs, outputs) of the linear layers of a block that `lora_target_modules` names.

        Raises:
            ValueError: the blocks have no layer of one of the names.
        """
        if targets != "all-linear" and (unknown := [name for name in targets if name not in LINEAR_NAMES]):
            raise ValueError(
                f"lora_target_modules: no linear layer {', '.join(unknown)} in the blocks; choose from "
                f"{', '.join(LINEAR_NAMES)}"
            )
        named = zip(LINEAR_NAMES, self.linears, strict=True)
        return [sizes for name, sizes in named if targets == "all-linear" or name in targets]

    def adapter(self, rank: int, targets: list[str] | str = "all-linear") -> int:
        """The weights of LoRA on these linear layers of one block."""
        return rank * sum(inputs + outputs for inputs, outputs in self.adapted(targets))

    def adamw_8bit(self, rank: int, targets: list[str] | str) -> int:
        """The bytes of both moments in 8 bits (`run.optimizer`): of adapters, or with rank 0 of every weight."""
        if rank:
            factors = [rank * width for sizes in self.adapted(targets) for width in sizes]
            return self.layers * sum(map(_moments_in_8_bits, factors)) + _CODES
        norms = [self.hidden] * 2 + ([self.head_size] * 2 if self.normed_heads else [])
        block = [inputs * outputs for inputs, outputs in self.linears] + norms
        outer = [self.head] * (1 if self.tied else 2) + [self.hidden]
        in_block = sum(map(_moments_in_8_bits, block)) + 8 * self.biases  # at most: a long bias takes 8 bits, too
        return self.layers * in_block + sum(map(_moments_in_8_bits, outer)) + _CODES


def _moments_in_8_bits(elements: int) -> int:
    """Both moments of one weight in bitsandbytes: a byte an element, a float32 scale for 256; small ones in float32."""
    return 2 * (elements + 4 * -(-elements // 256)) if elements >= 4096 else 8 * elements


@dataclass(frozen=True)
class BlockMemory:
    """The bytes for each token of one block and of a pass through the model."""

    arch: Architecture
    config: RunConfig
    device: Device
    tokens: int  # of a sequence

    @property
    def e(self) -> int:
        return ITEMSIZE[self.config.dtype]

    @property
    def _dropout_mask(self) -> int:
        """The saved mask of LoRA's dropout, bytes for an element: one byte on a GPU, the factors on a CPU."""
        if not self.config.lora_r or not self.config.lora_dropout:
            return 0
        return 1 if self.device == "cuda" else self.e

    @property
    def _saves_dropped_inputs(self) -> bool:
        """Whether each LoRA layer saves its own input, because dropout changes it."""
        return self.config.lora_r > 0 and self.config.lora_dropout > 0

    @property
    def saved(self) -> int:
        """The activations that a block saves for its backward: inputs of norms, linear layers, attention and MLP."""
        arch, e, rank = self.arch, self.e, self.config.lora_r
        h, f, a, k = arch.hidden, arch.mlp, arch.queries, arch.keys
        inputs = sum(inputs for inputs, _ in arch.linears)
        norms = 2 * (4 * h + 4)
        if arch.normed_heads:
            norms += 4 * (a + k) + (0 if rank else e * (a + k))
        if not rank:
            norms += 2 * e * h
            linears = e * (2 * h + f)  # layers share a normed input; attention saves its output, the input of o_proj
        else:
            linears = e * inputs if self._saves_dropped_inputs else e * (2 * h + f)
            linears += self._dropout_mask * inputs + len(arch.linears) * e * rank
        return norms + linears + self._attention + 3 * e * f

    def last_saved(self, tokens: int, queries: int, rows: int) -> int:
        """What the last block saves of a pass: keys and values of all tokens, attention of the queries, and its other
        tensors of the rows that the head reads (`models.last_layer`)."""
        of_token, of_query, of_row = self._last
        return of_token * tokens + of_query * queries + of_row * rows

    def last_training(self, tokens: int, queries: int, rows: int) -> int:
        """`training` of the last block: in the MLP, or in attention, where what the MLP saved is gone."""
        arch, e = self.arch, self.e
        attention = 2 * e * (arch.hidden + arch.queries) * tokens + e * arch.queries * queries
        return max(self.training * rows, attention - self._last[2] * rows)

    @property
    def _last(self) -> tuple[int, int, int]:
        """What the last block saves for a token, for a query and for a row of the head."""
        arch, e, rank, drop = self.arch, self.e, self.config.lora_r, self._dropout_mask
        h, f, a, k = arch.hidden, arch.mlp, arch.queries, arch.keys
        norm = 4 * h + 4 + (0 if rank else e * h)
        normed_heads = (4 if rank else 4 + e) if arch.normed_heads else 0
        inputs = 2 if self._saves_dropped_inputs else 1  # layers share a normed input, unless dropout changes it
        of_token = norm + inputs * e * h + 2 * (drop * h + e * rank + e * a) + normed_heads * k
        of_query = e * h + drop * h + e * rank + self._attention - 2 * e * a + normed_heads * a
        of_row = norm + e * (a + inputs * h + f) + drop * (a + 2 * h + f) + 4 * e * rank + 3 * e * f
        if arch.layers == 1 and rank:  # it is the first block, too, whose input has no gradient
            of_token -= (4 + 2 * drop) * h
            of_query -= drop * h
        return of_token, of_query, of_row

    @property
    def _attention(self) -> int:
        """The saved tensors of attention: queries, keys and values (repeated for all heads), output, eager's scores."""
        arch, e = self.arch, self.e
        saved = 4 * e * arch.queries
        if self.config.attn_implementation == "eager":
            saved -= e * arch.queries if self._saves_dropped_inputs else 0  # only o_proj would need the output
            return saved + arch.heads * self.tokens * (4 + (e if e < 4 else 0))
        mask = e * self.tokens if self.config.attn_implementation == "sdpa" else 0
        return saved + 4 * arch.heads + mask

    @property
    def first_block_unsaved(self) -> int:
        """The activations that the first block does not save if the embeddings are frozen."""
        return (4 + 3 * self._dropout_mask) * self.arch.hidden if self.config.lora_r else 0

    @property
    def forward(self) -> int:
        """The peak while a block runs without gradients, with the hidden states of the pass."""
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
        """The peak of temporary tensors while a block runs forward or backward, beside the saved activations."""
        arch, e = self.arch, self.e
        h, f = arch.hidden, arch.mlp
        streams = 4 if e < 4 else 2  # hidden states; in float32 two of them are the saved inputs of the norms
        if not self.config.lora_r:
            return e * f + (streams + 2) * e * h
        return e * f + (streams + 3) * e * h

    @property
    def masks(self) -> int:
        """The attention mask of a pass, and the cosines and sines of the positions."""
        return self.tokens + 2 * self.e * self.arch.head_size + 24


@dataclass(frozen=True)
class HeadMemory:
    """The bytes of the head's work: `rows` hidden states are compared with the vocabulary."""

    arch: Architecture
    config: RunConfig
    device: Device
    rows: int

    @property
    def _half(self) -> bool:
        return ITEMSIZE[self.config.dtype] < 4

    def logits_tile(self, *, whole_rows: bool = False) -> int:
        """A tile of logits, or with `whole_rows` a chunk of rows, and the float32 copy that a CPU makes of the head."""
        on_gpu = self.device == "cuda"
        logit_bytes = 6 if self._half and on_gpu else 4
        cast = 0 if on_gpu or not self._half else 4 * self.arch.hidden
        if whole_rows:
            limit = tiles.ROW_CHUNK_BYTES[self.device]
            columns = self.arch.vocab
        else:
            limit = tiles.TILE_BYTES[self.device]
            _, columns = tiles.tile_shape(self.arch.vocab, self.rows, limit, logit_bytes, on_gpu=on_gpu)
        return min(limit, self.rows * columns * logit_bytes) + cast * columns

    @property
    def scoring(self) -> int:
        """Log-probabilities without gradients: the hidden rows and a tile of logits."""
        return self.rows * self.arch.hidden * ITEMSIZE[self.config.dtype] + self.logits_tile()

    @property
    def entropy(self) -> int:
        """The mean token entropy: two tensors of whole rows of float32 logits."""
        return 8 * min(self.rows, ENTROPY_TOKENS) * self.arch.vocab

    @property
    def sampling(self) -> int:
        """A draw: the hidden rows and a chunk of logits; on a CPU also the products of rows and head, tile by tile."""
        e, h, vocab = ITEMSIZE[self.config.dtype], self.arch.hidden, self.arch.vocab
        rows = self.rows * h * e
        limit = linear_sampling.LOGITS_BYTES[self.device]
        if self.device == "cuda":
            return rows + min(limit, self.rows * vocab * e)
        cast = min(linear_sampling.WEIGHT_BYTES, 4 * vocab * h) if self._half else 0
        copied = min(limit, 4 * self.rows * linear_sampling.TILE * h)
        return rows + min(limit, 8 * self.rows * vocab) + max(copied, cast)

    @property
    def loss(self) -> int:
        """The loss and its gradient, which one forward computes."""
        e, h = ITEMSIZE[self.config.dtype], self.arch.hidden
        on_gpu = self.device == "cuda"
        rows_and_gradient = e + 4
        target_rows = 0 if on_gpu else e + 4 * self._half  # the head's rows of the targets
        total = self.rows * h * (rows_and_gradient + target_rows) + self.logits_tile(whole_rows=not self.config.lora_r)
        return total if self.config.lora_r else total + 4 * self.arch.head
