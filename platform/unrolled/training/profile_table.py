"""What `unrolled profile` prints."""

from __future__ import annotations

from unrolled.training.profile import Operation, Profile

SHOWN = 12
"""Operations, the most expensive ones."""
NAME = 58
"""Columns for the name of an operation."""
MEANING = {
    "data": "collating the batch",
    "forward": "the loss",
    "backward": "its gradient",
    "communication": "the gradients' sum over the workers, and waiting for them",
    "optimizer": "norm, clipping, step, moving average",
    "other": "random numbers, bookkeeping",
}


def table(profile: Profile) -> list[str]:
    """Returns the lines that the command prints, 100 columns at most."""
    size = f"{_updates(profile.updates)} of {profile.tokens:,.0f} tokens on average"
    lines = [
        f"{profile.name}: {size}; {profile.where}, {profile.precision}",
        f"{'part of an update':<20}{'ms':>10}{'share':>9}",
        *(
            f"{part:<20}{seconds * 1000:>10.3f}{_share(seconds / profile.whole)}  {MEANING[part]}"
            for part, seconds in profile.seconds.items()
        ),
        f"{'together':<20}{profile.whole * 1000:>10.3f}{_share(1)}  {profile.tokens / profile.whole:,.0f} tokens/s",
    ]
    if profile.left_out:
        lines.append(f"{_updates(profile.left_out)} not made: loss or gradient not finite")
    return [
        *lines,
        "",
        f"{'operation':<{NAME}}{'calls':>10}{'ms':>11}{'share':>9}",
        *(_row(operation) for operation in profile.operations[:SHOWN]),
        f"of {_updates(profile.profiled)} under torch.profiler, which slows them down; "
        "ms: without operations called within",
    ]


def _row(operation: Operation) -> str:
    name = operation.name if len(operation.name) < NAME else f"{operation.name[: NAME - 2]}…"
    return f"{name:<{NAME}}{operation.calls:>10,.1f}{operation.seconds * 1000:>11.3f}{_share(operation.share)}"


def _share(share: float) -> str:
    return f"{100 * share:>7.1f} %"


def _updates(count: int) -> str:
    return f"{count} update{'s' if count != 1 else ''}"
