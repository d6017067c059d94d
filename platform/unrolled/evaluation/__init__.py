"""Evaluation of trained runs: splits decoded or measured on workers, scores, results files and reports.

Modules that start workers (`evaluate`, `worker_pool`) import Ray and are not imported here.
"""

from __future__ import annotations

from unrolled.evaluation.predictor import (
    EnsembleMember,
    Predictor,
    check_strategy,
    ensemble_members,
    load_task_and_model,
)

__all__ = ["EnsembleMember", "Predictor", "check_strategy", "ensemble_members", "load_task_and_model"]
