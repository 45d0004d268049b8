"""The memory of supervised fine-tuning: no rollouts, no reference; evaluations decode and score held-out rows."""

from __future__ import annotations

from .ledger import Ledger


class SFTLedger(Ledger):
    """`Ledger` of an `SFTConfig`. The phases rollout and score are those of an evaluation."""

    @property
    def _replicates(self) -> int:
        return 1

    @property
    def _decoded(self) -> int:
        return -(-self.config.eval_prompts // self.gpus)

    @property
    def _scored(self) -> tuple[int, bool]:
        return self._decoded, False

    @property
    def _whole_views(self) -> bool:
        return False

    @property
    def _has_reference(self) -> bool:
        return False

    @property
    def _mask_rate(self) -> float:
        return float(self._keys.mask_rate_max)
