"""The command line, one file a command: `dmpo train`, `dmpo eval`, …; `commands.COMMANDS` lists them."""

from .commands import DOES_NOT_FIT as DOES_NOT_FIT
from .commands import INTERRUPTED as INTERRUPTED
from .commands import MISTAKE as MISTAKE
from .commands import NO_STEP_TAKEN as NO_STEP_TAKEN
from .entry import main as main
