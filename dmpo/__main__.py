"""`python -m dmpo` is the `dmpo` command, for launchers such as `accelerate launch -m dmpo train …`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
