"""From a task to the evaluation that suits it, with everything checked that can be before work begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from unrolled.decoding import USUAL, choose
from unrolled.errors import UserError
from unrolled.evaluation.decoded import evaluate_decoded
from unrolled.evaluation.evaluation import Evaluation, Report
from unrolled.evaluation.examined import evaluate_examined
from unrolled.evaluation.job import Workforce
from unrolled.evaluation.members import Member, check
from unrolled.tasks import Answerer, Examinee, Task

Conduct = Callable[[Evaluation, Workforce], Report]


def prepare_evaluation(task: Task, members: Sequence[Member], split: str, decode: Sequence[str]) -> Conduct:
    """Opens the split and returns what conducts the evaluation.

    Args:
        task: of the first member.
        decode: strategies, such as `beam` or `beam:size=10`; the usual ones if empty.

    Raises:
        UserError: an unknown strategy or split, settings that contradict a strategy, or strategies for a task that is
            not decoded.
    """
    if isinstance(task, Answerer):
        strategies = choose(decode or USUAL, task.decoding)
        for strategy in strategies.values():
            task.check(strategy)
            check(members[1:], strategy)
        texts = task.texts(split)
        return partial(evaluate_decoded, task=task, strategies=strategies, texts=texts)
    if decode:
        raise UserError(
            f"--decode: task {members[0].config.task} is measured on the data themselves; leave --decode out."
        )
    assert isinstance(task, Examinee), f"nobody knows how to evaluate {members[0].config.task}"
    return partial(evaluate_examined, task=task, data=task.open(split))
