"""Where do the kernels stand beside the leanest of their peers, in bytes and FLOPs of a live row?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BYTES, FLOPS = "bytes_per_live_row", "flops_per_live_row"
EQUAL = 1.01  # masks, targets and partial sums are some tenths of a percent of the traffic of logits


@dataclass(frozen=True)
class Standing:
    """A kind of problem in a table: ours, and the peers with the fewest bytes and FLOPs for a live row; None where no
    peer, or no matrix product, was counted."""

    title: str
    weighted: bool
    ours: str
    bytes: float
    flops: float
    least_bytes: float | None
    least_bytes_peer: str | None
    least_flops: float | None
    least_flops_peer: str | None

    @property
    def holds(self) -> dict[str, bool]:
        """Whether ours is at or below every peer, within `EQUAL`."""
        return {
            "bytes": self.least_bytes is None or self.bytes <= self.least_bytes * EQUAL,
            "FLOPs": not self.least_flops or self.flops <= self.least_flops * EQUAL,
        }


def standings(tables: dict[str, Any]) -> list[Standing]:
    """Ours beside the leanest peers, those that weight each sample and those that do not apart."""
    from benchmarks.peers import LINEAR, LOGITS, SAMPLING  # with Triton, which a report's process sets up first

    weighted = {peer.name: peer.weighted for peer in LOGITS + LINEAR + SAMPLING}
    found = []
    for title, rows in tables.items():
        counted = {name: row for name, row in rows.items() if "error" not in row}
        for kind in (True, False):
            here = {name: row for name, row in counted.items() if weighted[name] is kind}
            own = min((n for n in here if n.startswith("dmpo")), key=lambda n: here[n][BYTES], default=None)
            others = [name for name in here if not name.startswith("dmpo")]
            if own is None or not others:
                continue
            lean, quick = (min(others, key=lambda name: here[name][key]) for key in (BYTES, FLOPS))
            product = here[own][FLOPS] > 0
            least = (here[lean][BYTES], lean, here[quick][FLOPS] if product else None, quick if product else None)
            found.append(Standing(title, kind, own, here[own][BYTES], here[own][FLOPS], *least))
    return found
