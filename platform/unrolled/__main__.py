"""`python -m unrolled` is the command line."""

import sys

from unrolled.cli import main

sys.exit(main())
