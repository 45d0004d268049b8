"""If this fails, a run in a narrow terminal shows a number that is cut, or no banner and no progress."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.cells import cell_len

COLUMNS = 60
QUICK = ["max_steps=4", "num_prompts=2", "num_generations=2", "eval_prompts=4", "eval_steps=2", "save_steps=0"]


def in_terminal(command: list[str], columns: int) -> str:
    """What a command prints on a terminal of so many columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment, close_fds=True
    ) as process:
        os.close(follower)
        chunks = []
        while True:
            try:
                chunk = os.read(leader, 4096)
            except OSError:  # Linux: the last one with the terminal has left
                break
            if not chunk:
                break
            chunks.append(chunk)
    os.close(leader)
    text = b"".join(chunks).decode()
    assert process.returncode == 0, text
    return text


def test_a_run_in_a_terminal_of_sixty_columns(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dmpo", "train", "sudoku-tiny", "--output-dir", str(tmp_path / "run"), *QUICK]
    text = in_terminal(command, COLUMNS)
    assert "\x1b[" in text, "a terminal has colours and a line that changes"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", plain)]
    lines = lines[next(i for i, line in enumerate(lines) if line.startswith("model ")) :]
    assert "…" not in plain
    assert max(map(cell_len, lines)) <= COLUMNS
    unwrapped = " ".join(" ".join(lines).split())
    assert "658,560 parameters trained (all weights, beside a frozen copy), 0 frozen" in unwrapped
    assert re.search(r"step 4/4 \d:\d\d:\d\d left 0:00:00 reward \d\.\d{3} ESS \d\.\d\d", unwrapped)
    assert "Held-out accuracy, 4 test rows, 95 % intervals" in unwrapped
    assert not any("loss" in line for line in lines if line.startswith("step")), "plain lines are for files"
