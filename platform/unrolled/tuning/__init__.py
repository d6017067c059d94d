"""Sweeps: trials over a space of configs, run by Ray Tune."""
