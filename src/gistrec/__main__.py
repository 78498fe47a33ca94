"""`python -m gistrec` is the command line."""

import sys

from gistrec.cli import main

sys.exit(main())
