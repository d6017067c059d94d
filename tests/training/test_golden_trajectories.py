"""The first fifty updates of a tiny run of every family, in float64: as they were written down, and with any number
of workers.

    python tests/test_trajectories.py        writes them down anew, which changes what the tests expect
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
import torch

from repository import GOLDEN
from small_configs import TINY
from training_runs import train, train_together, weights

STEPS = 50
WORDS = "the king is dead, long live the Queen; and so it goes.\n"
LANGUAGE = """\
task: language_modeling
name: text
data: {source: TEXT}
model: {cell: gru, hidden: 8, layers: 2, dropout: 0.0}
training: {lanes: 6, truncate: 12}
"""
ADDING = """\
task: memory
name: adding
data: {problem: adding, length: 20, validation: 16}
model: {cell: peephole_lstm, hidden: 8}
training: {batch: 10, truncate: 7}
"""
FAMILIES = {
    "translation": (TINY, ["model.encoder.cell=lstm"]),
    "translation-truncated": (
        TINY,
        ["training.truncate=4", "model.decoder.attention.input_feeding=true", "model.decoder.cell=lstm"],
    ),
    "language-model": (LANGUAGE, []),
    "adding-truncated": (ADDING, []),
}
EVERY = [
    *("training.precision=float64", f"training.max_steps={STEPS}", "training.epochs=99"),
    *("training.validate_every=99", "training.log_every=1"),
]


def config_of(family: str, folder: Path) -> tuple[Path, list[str]]:
    text, overrides = FAMILIES[family]
    (folder / "text.txt").write_text(WORDS * 60, encoding="utf-8")
    path = folder / f"{family}.yaml"
    path.write_text(text.replace("TEXT", str(folder / "text.txt")) + f"storage: {folder / 'runs'}\n", encoding="utf-8")
    return path, [*overrides, *EVERY]


def trajectory(run) -> list[tuple[float, float]]:
    """Loss and gradient norm of every update."""
    return [(row["loss"], row["gradient_norm"]) for row in run.history() if row["kind"] == "train"]


@pytest.fixture(scope="module", params=FAMILIES)
def alone(request, tmp_path_factory):
    """A family, and its run in one process."""
    path, options = config_of(request.param, tmp_path_factory.mktemp("alone"))
    run, _ = train(path, *options)
    return request.param, run


def test_a_run_takes_the_steps_that_were_written_down(alone):
    family, run = alone
    lines = (GOLDEN / f"{family}.txt").read_text(encoding="utf-8").splitlines()
    want = [tuple(float(word) for word in line.split()) for line in lines]
    assert len(want) == STEPS
    assert trajectory(run) == [pytest.approx(numbers, rel=1e-7) for numbers in want]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_workers_together_take_the_steps_of_one(alone, size, tmp_path):
    family, run = alone
    path, options = config_of(family, tmp_path)
    together = train_together(path, size, *options)
    for one, other in zip(trajectory(run), trajectory(together), strict=True):
        assert other == pytest.approx(one, abs=1e-9)
    want, got = weights(run), weights(together)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    for each in FAMILIES:
        with tempfile.TemporaryDirectory() as scratch:
            config, given = config_of(each, Path(scratch))
            numbers = trajectory(train(config, *given)[0])
        text = "".join(f"{loss:.12g} {norm:.12g}\n" for loss, norm in numbers)
        (GOLDEN / f"{each}.txt").write_text(text, encoding="utf-8")
        print(f"{each}: {len(numbers)} updates", file=sys.stderr)
