"""`unrolled evaluate` as a plain script: `python jobs/evaluate.py runs/dates --split test`."""

import sys
from pathlib import Path

# In place of this folder, whose evaluate.py would hide the library of that name.
sys.path[0] = str(Path(__file__).resolve().parent.parent / "platform")

from unrolled.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
