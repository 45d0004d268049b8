"""How much memory does a training step take at sizes that no machine here could hold? Simulated with fake tensors.

The trainer's own code (`dmpo.objectives.gradient.accumulate_gradient`, `dmpo.rollouts.likelihood.sequence_log_prob`)
runs on tensors that have shapes and dtypes and no memory. Every storage counts while it lives. Assumed:

- Attention keeps no score matrix: PyTorch's flash kernel for CPUs stands in for the GPU's, both keep queries, keys,
  values, output and one logarithm a row. It takes the additive mask [N, 1, T, T] that left padding needs.
- Dropout keeps a mask of one byte an element, as on a GPU; a CPU would keep a float.
- The kernels of dmpo are seen from outside: their results are counted, the bounded tile of logits inside is not.
  A mask selects the given share of its elements.
- A 4-bit base is a stand-in for bitsandbytes: packed bytes, unpacked weight by weight where forward and backward use
  them and not kept between the two.
- If the host reads from the device, a question (is this finite, is that all true) is answered with yes, a number with 1
  and a count with 0.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig

from dmpo.config import DMPOConfig
from dmpo.models.masked_lm import MaskedLlama
from dmpo.models.model_config import make_bidirectional
from dmpo.objectives.gradient import accumulate_gradient
from dmpo.planning.memory import NF4_BYTES
from dmpo.rollouts.batch import Batch, Completions
from dmpo.rollouts.policy import make_policy


class LiveBytes(TorchDispatchMode):
    """Bytes of live storages, now and at most; counts the storages that ops make while the mode is on."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = [tensor.untyped_storage() for tensor in known]  # not counted
        self._seen = {storage._cdata for storage in self._known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        self.peak = max(self.peak, self.live)
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.live += size
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def gpu_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`F.dropout` as on a GPU: it keeps a mask of one byte an element."""
    return torch.native_dropout(x, p, True)[0] if training and p else x


class _Oracle(TorchDispatchMode):
    """Answers reads that depend on data: counts are 0, other numbers 1, a mask selects `share` of its elements."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name == "aten::_local_scalar_dense":
            return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 0)
        if name == "aten::index" and args[1][0] is not None and args[1][0].dtype == torch.bool:
            mask = args[1][0]
            return args[0].new_empty(self._chosen(mask), *args[0].shape[mask.dim() :])
        if name == "aten::nonzero":
            return args[0].new_empty(self._chosen(args[0]), args[0].dim(), dtype=torch.int64)
        if name == "dmpo::linear_weighted_ce":
            return self._weighted_ce(*args)
        return func(*args, **(kwargs or {}))

    def _chosen(self, mask: Tensor) -> int:
        return round(self.share * mask.numel())

    def _weighted_ce(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
        """Outputs of the op, sized as if the share of its mask were live."""
        mask, needs = rest[1], rest[-1]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        shapes = ((self._chosen(mask), hidden.shape[2]), weight.shape, None if bias is None else bias.shape)
        parts = zip(shapes, needs, strict=True)
        slopes = [hidden.new_empty(s if need and s is not None else (0,), dtype=wide) for s, need in parts]
        loss, nll = hidden.new_empty((), dtype=wide), hidden.new_empty(len(mask), dtype=wide)
        return loss, nll, mask.new_empty(self._chosen(mask), dtype=torch.int64), *slopes


def llama_config(
    *, layers: int, hidden: int, mlp: int, heads: int, vocab: int, kv_heads: int | None = None, attention: str = "sdpa"
) -> LlamaConfig:
    """A LLaDA-type config of these sizes."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=vocab - 3,
        pad_token_id=vocab - 3,
    )
    config._attn_implementation = attention
    make_bidirectional(config, vocab - 2)
    return config


def llada_8b(layers: int = 32) -> LlamaConfig:
    return llama_config(layers=layers, hidden=4096, mlp=12288, heads=32, vocab=126464)


def update_peak(config: DMPOConfig, model_config: LlamaConfig) -> int:
    """Bytes at the peak of one gradient step, above weights, moments and inputs; gradients count."""
    return max(passes_peak(config, model_config), optimizer_peak(config, model_config))


def optimizer_peak(config: DMPOConfig, model_config: LlamaConfig) -> int:
    """Bytes of the gradients and of AdamW's temporary tensors: on a GPU the roots of all second moments at once."""
    model = _policy(config, model_config)
    with simulation(config.mask_rate_max):
        trained = [p for p in fill(model).parameters() if p.requires_grad]

        def run() -> None:
            torch._foreach_sqrt([torch.zeros_like(gradient) for gradient in trained])

        return peak_bytes(model, (), run)


def passes_peak(config: DMPOConfig, model_config: LlamaConfig) -> int:
    """Bytes at the peak of one gradient step's passes over all its views, above weights and inputs; gradients count."""
    model, accelerator = _policy(config, model_config), Accelerator(cpu=True)
    with simulation(config.mask_rate_max):
        batch = empty_batch(config, config.num_prompts)
        return peak_bytes(fill(model), batch, lambda: accumulate_gradient(accelerator, model, model, batch, config, 0))


def empty_batch(config: DMPOConfig, groups: int) -> Batch:
    """Full-length prompts and completions of zeros, all tokens eligible."""
    rows, group = groups * config.num_generations, (groups, config.num_generations)
    prompts, tokens = (torch.zeros(rows, n, dtype=torch.int64) for n in (config.max_prompt_length, config.gen_length))
    completions = Completions(prompts, torch.ones_like(prompts).bool(), tokens, torch.ones_like(tokens).bool())
    rewards, ref, cur = (torch.zeros(group) for _ in range(3))
    return Batch(
        completions=completions,
        row_ids=torch.arange(rows),
        rewards=rewards,
        log_prob_ref=ref,
        log_prob_cur=cur,
        age=torch.zeros(groups, dtype=torch.int64),
        report={},
    )


def resident(config: DMPOConfig, model_config: LlamaConfig) -> int:
    """Bytes of the model, its buffers and AdamW's moments."""
    model = _policy(config, model_config)
    moments = sum(2 * p.nbytes for p in model.parameters() if p.requires_grad)
    return moments + sum(x.nbytes for x in [*model.parameters(), *model.buffers()])


def _policy(config: DMPOConfig, model_config: LlamaConfig) -> nn.Module:
    with torch.device("meta"):
        model = MaskedLlama(model_config).to(getattr(torch, config.dtype))
        if config.load_in_4bit:
            for module in list(model.model.modules()):
                for name, child in module.named_children():
                    if isinstance(child, nn.Linear):
                        setattr(module, name, _FourBit(child.in_features, child.out_features))
        return make_policy(config, "meta", model)


class _FourBit(nn.Linear):
    """A linear layer whose weight is packed bytes; see above."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        packed = torch.empty(int(inputs * outputs * NF4_BYTES), 1, dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Unpacked.apply(x, self.weight, (self.out_features, self.in_features))
        return out


class _Unpacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        return x @ x.new_empty(shape).t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] @ grads[0].new_empty(ctx.shape), None, None


def fill(model: nn.Module) -> nn.Module:
    """A model built on the meta device gets fake parameters, in place; inside `simulation`."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                if id(p) not in made:
                    made[id(p)] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), requires_grad=p.requires_grad)
                module._parameters[name] = made[id(p)]
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = torch.empty(b.shape, dtype=b.dtype)
    return model


@contextmanager
def simulation(share: float) -> Iterator[None]:
    """Tensors made inside are fake; masks select `share` of their elements.

    The prompts' mask counts 0 tokens, which means that some prompt of a pass is padded and no column is blank.
    """
    with FakeTensorMode(), _Oracle(share), mock.patch("torch.nn.functional.dropout", gpu_dropout):
        yield


def peak_bytes(model: nn.Module, inputs: Any, run: Callable[[], Any]) -> int:
    """The most bytes alive at once while `run` runs, above the model's and the inputs'; inside `simulation`."""
    with LiveBytes([*model.parameters(), *model.buffers(), *_tensors(inputs)]) as live:
        run()
    return live.peak


def _tensors(value: Any) -> list[Tensor]:
    if dataclasses.is_dataclass(value):
        return _tensors([getattr(value, field.name) for field in dataclasses.fields(value)])
    leaves = tree_leaves(value)
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return found + [tensor for leaf in leaves if dataclasses.is_dataclass(leaf) for tensor in _tensors(leaf)]
