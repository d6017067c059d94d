"""Sweeps: many trainings over a space of configs, on Ray Tune, and the report of what they found."""
