"""The objectives by their names in the config: DMPO's own two and published ones, on the same views and kernels."""

from .diffu_grpo import DIFFU_GRPO
from .step import Objective
from .wd1 import WD1
from .wdce import WDCE
from .wddo import WDDO

OBJECTIVES: dict[str, Objective] = {"wdce": WDCE, "wddo": WDDO, "wd1": WD1, "diffu_grpo": DIFFU_GRPO}
