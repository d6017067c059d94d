"""A resumed run equals an uninterrupted one, including schedule and early stopping."""

from __future__ import annotations

import torch

from training_runs import start, train, weights
from unrolled.training import checkpoint
from unrolled.training.distributed import SingleWorker
from unrolled.training.run_dir import choose_checkpoint
from unrolled.training.trainer import train_worker

RESTLESS = [
    "training.schedule.patience=0",
    "training.schedule.factor=0.5",
    "training.optimizer.learning_rate=0.2",  # so large that the validation loss goes up and down
    *("training.validate_every=4", "training.log_every=1", "training.keep=99", "training.epochs=99"),
]


def rows(run, kind, key):
    return {row["step"]: row[key] for row in run.history() if row["kind"] == kind}


def same(one, other):
    """Whether two runs stand at the same step with the same parameters, rates and optimizer."""
    states = [checkpoint.load_training(choose_checkpoint(run, "last").folders[0]) for run in (one, other)]
    assert states[0]["schedule"] == states[1]["schedule"]
    assert rows(one, "train", "learning_rate") == rows(other, "train", "learning_rate")
    want, got = weights(one), weights(other)
    return all(torch.equal(want[name], value) for name, value in got.items())


def test_ending_between_validations_moves_no_plateau(tiny):
    whole, _ = train(tiny, "name=whole", *RESTLESS, "training.max_steps=34")
    ends = (6, 15, 23, 34)
    for step in ends:
        parts, _ = train(tiny, "name=parts", *RESTLESS, f"training.max_steps={step}", resume=step > ends[0])
    assert same(whole, parts)
    rates, losses = rows(whole, "train", "learning_rate"), rows(parts, "validation", "loss")
    assert rates[33] <= rates[1] / 4  # the schedule has acted
    regular = {step: loss for step, loss in losses.items() if step % 4 == 0}
    assert rows(whole, "validation", "loss").keys() == {*regular, 34}
    worse = [end for end in ends[:-1] if losses[end] >= min(loss for step, loss in regular.items() if step < end)]
    assert worse  # the schedule would have acted on a validation made only because the run ended


def test_a_validation_that_an_interruption_left_out_is_made_up_for(tiny):
    whole, _ = train(tiny, "name=whole", *RESTLESS, "training.max_steps=30")
    run, fingerprint = start(tiny, *RESTLESS, "training.max_steps=30")

    def stop_after_fifteen(row):
        if row["step"] == 15:
            run.stop_file.touch()

    progress = train_worker(
        run, fingerprint, SingleWorker(), device=torch.device("cpu"), threads=1, show=stop_after_fifteen
    )
    run.stop_file.unlink()
    assert (progress.step, progress.validated) == (16, 12)
    run, progress = train(tiny, *RESTLESS, "training.max_steps=30", resume=True)
    assert same(whole, run)
    for key in ("loss", "epoch"):
        assert rows(run, "validation", key) == rows(whole, "validation", key)


def test_ending_between_validations_does_not_use_up_patience(tiny):
    options = ["training.early_stopping.patience=2", "training.metric=exact_match"]  # which stays at 0 for long
    options += ["training.validate_every=4", "training.epochs=99"]
    _, whole = train(tiny, "name=whole", *options)
    train(tiny, "name=parts", *options, "training.max_steps=6")
    _, parts = train(tiny, "name=parts", *options, resume=True)
    assert parts.step == whole.step == 12 and parts.finished


def test_the_model_at_the_end_may_be_the_best(tiny):
    run, progress = train(tiny, "training.validate_every=4", "training.max_steps=6", "training.epochs=99")
    losses = rows(run, "validation", "loss")
    assert losses[6] < losses[4]
    assert (progress.best, progress.best_step) == (losses[6], 6)
    assert choose_checkpoint(run, "best").name == "step-6"
