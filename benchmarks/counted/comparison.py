"""How do the bytes and FLOPs of our kernels compare with the best peer? All are of one live row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BYTES, FLOPS = "bytes_per_live_row", "flops_per_live_row"
EQUAL = 1.01  # masks, targets and partial sums are some tenths of a percent of the traffic of logits


@dataclass(frozen=True)
class PeerComparison:
    """One kind of problem in a table: our kernel, and the peers with the fewest bytes and FLOPs for a live row. A peer
    is None if no peer, or no matrix product, was counted."""

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


def compare_with_peers(tables: dict[str, Any]) -> list[PeerComparison]:
    """Our kernels and the best peers. Peers that weight each sample are compared separately from peers that do not."""
    # A report's process sets up Triton before this import.
    from benchmarks.baselines.kernels import LINEAR, LOGITS, SAMPLING

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
            fewest_bytes, fewest_flops = (min(others, key=lambda name: here[name][key]) for key in (BYTES, FLOPS))
            product = here[own][FLOPS] > 0
            least_bytes = (here[fewest_bytes][BYTES], fewest_bytes)
            least_flops = (here[fewest_flops][FLOPS], fewest_flops) if product else (None, None)
            ours = (own, here[own][BYTES], here[own][FLOPS])
            found.append(PeerComparison(title, kind, *ours, *least_bytes, *least_flops))
    return found
