"""`python -m adamas` is the command `adamas`."""

import sys

from adamas.cli import main

sys.exit(main())
