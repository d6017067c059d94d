"""Evaluation: a split decoded on workers, scored, and told to a person."""
