"""`python -m unrolled` is the command line."""

from __future__ import annotations

import sys

from unrolled.cli import main

sys.exit(main())
