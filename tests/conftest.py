"""Triton kernels run in Triton's interpreter here, and only where a test asks for them; one thread a test process.

Triton reads TRITON_INTERPRET when a kernel is defined, so it is set before anything imports Triton. DMPO_PLAIN keeps
every op on its plain PyTorch path; kernel tests lift that inside `dmpo.kernels.launch.plain_path(False)`. Tiny tensors
gain nothing from more threads, and lose much on a busy machine.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["DMPO_PLAIN"] = "1"

import torch

torch.set_num_threads(1)
