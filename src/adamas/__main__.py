"""`python -m adamas` is the command `adamas`; `python -m adamas script.py` is `adamas explain script.py`."""

import sys

from adamas.cli import main

words = sys.argv[1:]
sys.exit(main(["explain", *words] if words and words[0].endswith(".py") else words))
