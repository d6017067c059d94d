"""`unrolled tune` as a plain script: `python jobs/tune.py configs/language_modeling/sweep.yaml`."""

import sys
from pathlib import Path

# In place of this folder, whose evaluate.py would hide the library of that name.
sys.path[0] = str(Path(__file__).resolve().parent.parent / "platform")

from unrolled.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
