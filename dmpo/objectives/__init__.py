"""The objectives by their names in the config: DMPO's own two and published ones, on the same views and kernels."""

from . import diffu_grpo, wd1, wdce, wddo
from .terms import Objective

OBJECTIVES: dict[str, Objective] = {"wdce": wdce, "wddo": wddo, "wd1": wd1, "diffu_grpo": diffu_grpo}
