"""One HTML file that shows a run, compares runs, or shows the results of an evaluation. It needs no network.

`write_page` writes it, `watch_runs` writes it again while a run goes on. The files in assets/ are the page itself.
"""

from __future__ import annotations

from .page import write_page
from .watch import watch_runs

__all__ = ["watch_runs", "write_page"]
