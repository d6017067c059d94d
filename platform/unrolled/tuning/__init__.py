"""Sweeps: many trainings over a space of configs, on Ray Tune."""
