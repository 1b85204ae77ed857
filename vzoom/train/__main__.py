"""`python -m vzoom.train` is `vzoom train`; launchers such as `accelerate launch` start this one."""

import sys

from .command_line import main

if __name__ == "__main__":
    sys.exit(main())
