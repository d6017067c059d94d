"""The training engine. Ray appears in `launch.py` alone."""
