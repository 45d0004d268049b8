"""Triton kernels run in Triton's interpreter here, and only where a test asks for them.

Triton reads TRITON_INTERPRET when a kernel is defined, so it is set before anything imports Triton. DMPO_PLAIN keeps
every op on its plain PyTorch path; kernel tests lift that inside `dmpo.kernels.launch.plain_path(False)`.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["DMPO_PLAIN"] = "1"
