"""How long does the host work on each kernel of a pass? CPU time of a model whose kernels have next to nothing to do.

    python -m benchmarks.predict.host_time        half a minute; one thread of the CPU

A LLaDA of 32 blocks and hidden size 16, with and without adapters, a prompt of 4 tokens: such a pass costs Python and
PyTorch's dispatch, as much as at the size of LLaDA-8B. Its launches are those that `Simulation` counts. On a GPU each
of them is a CUDA launch, too, which is not measured here. `roofline.HOST` rests on this.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.predict.llada_passes import Simulation
from benchmarks.predict.op_counts import total
from dmpo.config import DMPOConfig
from dmpo.config.files import load_config
from dmpo.models import new_model
from dmpo.models.lora import add_lora
from dmpo.models.masked_lm import hidden_states

SIZES: dict[str, Any] = {"hidden_size": 16, "num_layers": 32, "num_heads": 2, "mlp_hidden_size": 16}


@torch.no_grad()
def pass_seconds(*, adapters: bool, repeats: int = 15) -> float:
    """CPU seconds of one pass, the least of several: what else runs on the machine only adds to it."""
    model: Any = new_model(vocab_size=300, mask_id=298, eos_id=297, **SIZES)
    model.to(torch.bfloat16)
    policy: torch.nn.Module = add_lora(model, rank=2, alpha=4, dropout=0.0) if adapters else model
    policy.eval()
    ids, seconds = torch.randint(0, 290, (1, 4)), []
    for _ in range(repeats):
        begun = time.process_time()
        hidden_states(policy, ids)
        seconds.append(time.process_time() - begun)
    return min(seconds)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    counts = Simulation(load_config(DMPOConfig, "llada-8b-gsm8k"), wide_adapters=True)
    for adapters in (False, True):
        launches = total(counts.forward(1, 4, adapters=adapters))["launches"]
        seconds = pass_seconds(adapters=adapters)
        name = "with adapters" if adapters else "without adapters"
        print(f"{name}: {seconds * 1e3:.1f} ms for {launches:.0f} launches, {seconds / launches * 1e6:.1f} µs each")


if __name__ == "__main__":
    main()
