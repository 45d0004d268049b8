"""The objectives by their names in the config: DMPO's own two and published ones, on the same views and kernels."""

from .diffu_grpo import DIFFU_GRPO
from .rspo import RSPO
from .step import Objective
from .tb import TB
from .wd1 import WD1
from .wdce import WDCE
from .wdce_path import WDCE_PATH
from .wddo import WDDO

OBJECTIVES: dict[str, Objective] = {
    "wdce": WDCE,
    "wdce_path": WDCE_PATH,
    "wddo": WDDO,
    "rspo": RSPO,
    "tb": TB,
    "wd1": WD1,
    "diffu_grpo": DIFFU_GRPO,
}
