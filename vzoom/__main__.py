"""`python -m vzoom` is `vzoom`."""

import sys

from vzoom.cli import main

sys.exit(main())
