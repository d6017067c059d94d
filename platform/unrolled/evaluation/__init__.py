"""Evaluation of trained runs: splits decoded or measured on workers, scores, results files and reports."""
