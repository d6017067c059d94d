"""The trainer without Ray: same results for any number of workers and any interruption; run directories."""

from __future__ import annotations

import json

import pytest
import torch

from training_runs import start, train, train_together, weights
from unrolled.config import Schedule
from unrolled.config.load import load_config
from unrolled.errors import RunFailed, UserError
from unrolled.tasks import make_task, prepare
from unrolled.training import checkpoint
from unrolled.training.distributed import SingleWorker
from unrolled.training.optim import Schedule as LearningRate
from unrolled.training.optim import build_optimizer
from unrolled.training.run_dir import RunDir, choose_checkpoint, list_runs, open_run, resolve_run_dir
from unrolled.training.trainer import train_worker

EXACT = ["training.precision=float64", "training.max_steps=20", "training.epochs=99", "training.validate_every=8"]


@pytest.mark.parametrize("variant", ["attention", "state"])
def test_any_number_of_workers_gives_the_same_parameters(tiny, variant):
    options = (*EXACT, f"model.decoder.conditioning={variant}")
    alone, _ = train(tiny, "name=alone", *options)
    for size in (2, 3):
        together = train_together(tiny, size, f"name=together{size}", *options)
        want, got = weights(alone), weights(together)
        assert want.keys() == got.keys()
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-9)
        rows = [[row for row in run.history() if row["kind"] == "validation"] for run in (alone, together)]
        for one, other in zip(*rows, strict=True):
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-9)
            assert {k: one[k] for k in ("step", "bleu", "chrf", "exact_match", "best")} == {
                k: other[k] for k in ("step", "bleu", "chrf", "exact_match", "best")
            }


def test_training_learns(tiny):
    run, progress = train(tiny, "training.epochs=30", "training.optimizer.learning_rate=0.01")
    losses = [row["loss"] for row in run.history() if row["kind"] == "validation"]
    assert losses[-1] < 0.7 * losses[0]
    assert progress.finished and progress.epoch == 30


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tiny, dropout):
    options = [f"model.encoder.dropout={dropout}", f"model.decoder.dropout={dropout}", "training.keep=9"]
    whole, _ = train(tiny, "name=whole", *options, "training.max_steps=17", "training.epochs=99")
    for step in (7, 12, 17):  # in the middle of epochs and between validations
        parts, progress = train(
            tiny, "name=parts", *options, "training.epochs=99", f"training.max_steps={step}", resume=step > 7
        )
        assert progress.step == step
    # Ending at a step validates there, which must change neither schedule nor parameters.
    want, got = weights(whole), weights(parts)
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_an_interruption_leaves_a_checkpoint_and_resumes(tiny):
    run, fingerprint = start(tiny, "training.epochs=3", "training.log_every=1")

    def stop_after_seven(row):
        if row["step"] == 7:
            run.stop_file.touch()

    cpu = torch.device("cpu")
    progress = train_worker(run, fingerprint, SingleWorker(), device=cpu, threads=1, show=stop_after_seven)
    assert not progress.finished and progress.step == 8
    assert checkpoint.last(run.checkpoints).name == "step-8"
    run.stop_file.unlink()
    _, after = train(tiny, "training.epochs=3", resume=True)
    whole, _ = train(tiny, "name=whole", "training.epochs=3")
    assert after.finished
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(whole).items())


def test_a_resumed_history_has_every_step_once(tiny):
    run, _ = train(tiny, "training.max_steps=12", "training.epochs=9")
    run.append_metrics({"kind": "train", "step": 99, "loss": 0.0})  # written after the checkpoint by a run that died
    train(tiny, "training.max_steps=20", "training.epochs=9", resume=True)
    steps = [row["step"] for row in run.history() if row["kind"] == "train"]
    assert steps == [5, 10, 15, 20]


def test_checkpoints_keep_the_newest_and_the_best(tiny):
    run, progress = train(tiny, "training.checkpoint_every=3", "training.keep=2", "training.epochs=4")
    steps = [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(run.checkpoints)]
    assert len(steps) <= 3 and progress.step in steps and progress.best_step in steps
    assert choose_checkpoint(run, "best").name == f"step-{progress.best_step}"
    assert not list(run.checkpoints.glob(".*"))


def test_early_stopping_waits_for_its_patience(tiny):
    run, progress = train(
        tiny,
        "training.early_stopping.patience=2",
        "training.metric=exact_match",
        "training.validate_every=2",
        "training.epochs=99",
    )
    rows = [row for row in run.history() if row["kind"] == "validation"]
    assert progress.finished
    assert [row["best"] for row in rows[-2:]] == [False, False]


def test_time_runs_out(tiny):
    _, progress = train(tiny, "training.max_minutes=0.0001", "training.epochs=999")
    assert progress.finished and progress.step < 100


def test_a_loss_that_is_not_finite_ends_with_one_sentence(tiny):
    options = ["training.optimizer.name=sgd", "training.optimizer.learning_rate=1e300", "training.skip_non_finite=1"]
    run, fingerprint = start(tiny, *options)
    with pytest.raises(RunFailed, match=r"step 3: .*not finite, 2 updates in a row.*learning_rate"):
        train_worker(run, fingerprint, SingleWorker(), device=torch.device("cpu"), threads=1)


def test_anomaly_detection_says_where_numbers_stop_being_finite(tiny):
    run, fingerprint = start(
        tiny,
        "training.optimizer.name=sgd",
        "training.optimizer.learning_rate=1e300",
        "training.detect_anomaly=true",
    )
    with pytest.raises(RunFailed, match=r"step 2: encoder: the input of layer 1 is not finite at step 1 of example"):
        train_worker(run, fingerprint, SingleWorker(), device=torch.device("cpu"), threads=1)


def test_anomaly_detection_changes_no_number(tiny):
    run, _ = train(tiny, "training.max_steps=4")
    watched, _ = train(tiny, "training.max_steps=4", "training.detect_anomaly=true", "name=watched")
    want, got = weights(run), weights(watched)
    assert all(torch.equal(got[name], value) for name, value in want.items())


def test_training_in_bfloat16_follows_float32(tiny):
    exact, _ = train(tiny, "training.max_steps=20", "training.precision=float32")
    bf16, _ = train(tiny, "training.max_steps=20", "training.precision=bfloat16", "model.engine=bptt", "name=bf16")
    assert {tensor.dtype for tensor in weights(bf16).values()} == {torch.float32}
    losses = [[row["loss"] for row in run.history() if row["kind"] == "validation"][-1] for run in (exact, bf16)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)


def test_a_run_is_never_overwritten_unasked(tiny):
    run, _ = train(tiny, "training.max_steps=2")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    config = load_config(tiny)
    with pytest.raises(UserError, match=r"exists already.*--resume.*--overwrite"):
        resolve_run_dir(config, resume=False, overwrite=False)
    with pytest.raises(UserError, match="contradict"):
        resolve_run_dir(config, resume=True, overwrite=True)
    with pytest.raises(UserError, match=r"model\.decoder\.cell=gru, the config says rnn"):
        resolve_run_dir(load_config(tiny, ["model.decoder.cell=rnn"]), resume=True, overwrite=False)
    with pytest.raises(UserError, match="no run to resume"):
        resolve_run_dir(load_config(tiny, ["name=other"]), resume=True, overwrite=False)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_run_of_another_format_is_refused_in_one_sentence(tiny):
    run, _ = train(tiny, "training.max_steps=2")
    text = run.config_file.read_text(encoding="utf-8")
    for format, words in (("", "has no format number"), ("format: 0\n", "has format 0")):
        run.config_file.write_text(text.replace("format: 1\n", format), encoding="utf-8")
        with pytest.raises(UserError, match=f"^{run.path}: {words}; this version of unrolled reads format 1"):
            resolve_run_dir(load_config(tiny), resume=True, overwrite=False)
        assert "unreadable" in list(list_runs(run.path.parent))[1]
    assert resolve_run_dir(load_config(tiny), resume=False, overwrite=True) == run


def test_two_processes_never_train_one_run(tiny):
    run, _ = start(tiny)
    with run.lock(), pytest.raises(UserError, match="another process"), RunDir(run.path).lock():
        pass
    with run.lock():
        pass


def test_a_folder_that_is_no_run_is_left_alone(tiny, tmp_path):
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match="is not a run"):
        resolve_run_dir(load_config(tiny), resume=False, overwrite=True)


def test_changed_data_is_noticed_on_resume(tiny, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for split in ("train", "validation"):
        for suffix in ("input", "target"):
            (folder / f"{split}.{suffix}").write_text("a b\nb a\n", encoding="utf-8")
    train(tiny, f"data.source={folder}", "training.max_steps=2")
    (folder / "train.input").write_text("b b\nb a\n", encoding="utf-8")
    with pytest.raises(UserError, match="has changed since"):
        start(tiny, f"data.source={folder}", resume=True)


def test_foreign_and_damaged_checkpoints_are_named(tiny):
    run, _ = train(tiny, "training.max_steps=2")
    small = choose_checkpoint(run)
    folder = small.folders[0]
    other, _ = train(tiny, "name=other", "training.max_steps=2", "model.encoder.hidden=13")
    from unrolled.evaluation import EnsembleMember, load_task_and_model

    with pytest.raises(UserError, match=r"belongs to another model: .*\(12, 24\) there, \(12, 26\)"):
        load_task_and_model([EnsembleMember(other, other.config(), small)], torch.device("cpu"))
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"model\.safetensors: is damaged"):
        load_task_and_model([EnsembleMember(run, run.config(), small)], torch.device("cpu"))
    (folder / "progress.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not a checkpoint's progress"):
        choose_checkpoint(run)
    with pytest.raises(UserError, match=r"best, last, average or step-2\. Did you mean 'step-2'"):
        choose_checkpoint(run, "step-3")


def test_a_checkpoint_is_whole_or_absent(tiny, monkeypatch):
    run, _ = train(tiny, "training.max_steps=4", "training.validate_every=2")
    last = checkpoint.last(run.checkpoints)

    def full_disk(*arguments, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(RunFailed, match=r"step-6: cannot be written \(no space left"):
        train(tiny, "training.max_steps=6", resume=True)
    assert checkpoint.last(run.checkpoints) == last
    weights(run)


def test_open_run_names_the_nearest(tiny, tmp_path):
    train(tiny, "training.max_steps=2")
    with pytest.raises(UserError, match="Did you mean"):
        open_run(tmp_path / "runs" / "tinny")


def test_a_copied_run_folder_still_writes(tiny, tmp_path):
    import shutil

    from unrolled.decoding import Greedy
    from unrolled.evaluation import EnsembleMember, Predictor

    run, _ = train(tiny, "training.max_steps=2")
    shutil.copytree(run.path, tmp_path / "elsewhere")
    texts = ["3 March 2025", "", "x" * 60]
    outputs = [
        Predictor([EnsembleMember(folder, folder.config(), choose_checkpoint(folder))]).predict(
            Greedy(max_length=9), range(3), texts
        )
        for folder in (run, RunDir(tmp_path / "elsewhere"))
    ]
    assert outputs[0] == outputs[1] and len(outputs[0]) == 3


def test_a_gradient_that_is_not_finite_is_left_out_and_named(tiny, monkeypatch):
    """Makes one loss NaN: that update must change nothing, and all others must be made."""
    from unrolled.models import EncoderDecoder

    whole, _ = train(tiny, "training.max_steps=3", "name=whole")
    window_losses, calls = EncoderDecoder.window_losses, []

    def spoiled(self, *arguments, **options):
        calls.append(self.training)
        bad = self.training and calls.count(True) == 4
        for loss in window_losses(self, *arguments, **options):
            yield loss * (float("nan") if bad else 1.0)

    monkeypatch.setattr(EncoderDecoder, "window_losses", spoiled)
    run, progress = train(tiny, "training.max_steps=4", "training.log_every=2")
    want, got = weights(whole), weights(run)
    assert progress.finished and progress.skipped == 1
    assert all(torch.equal(got[name], value) for name, value in want.items())
    (row,) = (row for row in run.history() if row["kind"] == "skipped")
    assert (row["step"], row["loss"], row["in_a_row"]) == (4, "nan", 1)
    assert any(name.startswith("decoder") for name in row["where"])
    last = [row for row in run.history() if row["kind"] == "train"][-1]
    assert last["skipped"] == 1 and last["loss"] == last["loss"]


def test_norms_by_layer_make_up_the_whole(tiny):
    run, _ = train(tiny, "training.max_steps=4", "training.log_every=1")
    for row in (row for row in run.history() if row["kind"] == "train"):
        assert sum(norm**2 for norm in row["layers"].values()) == pytest.approx(row["gradient_norm"] ** 2, rel=1e-4)
        assert {"encoder.embedding", "decoder.readout", "head"} <= row["layers"].keys()


def test_accumulated_batches_are_one_large_batch(tiny):
    """Two batches per update must give the same step as one batch of all their examples."""
    options = [*EXACT[:1], "training.max_steps=1", "training.epochs=99", "model.encoder.dropout=0"]
    options += ["model.decoder.dropout=0", "training.optimizer.name=sgd", "training.clipping.kind=none"]
    config = load_config(tiny, options)
    fresh = start(tiny, *options, "name=fresh")[0]
    together, _ = train(tiny, *options, "training.accumulate=2", "name=together")
    task = make_task(config, fresh.vocabulary)
    torch.manual_seed(config.seed)
    model = task.build_model().double().train()
    batches = task.plan(prepare(config), 0)[:2]
    tokens = sum(batch.tokens for batch in batches)
    for batch in batches:
        for piece in task.losses(model, batch.shard(0, 1), None):
            (piece.loss / tokens).backward()
    for name, parameter in model.named_parameters():
        expected = parameter.detach() - config.training.optimizer.learning_rate * parameter.grad
        torch.testing.assert_close(weights(together)[name], expected, rtol=0, atol=1e-12)


def test_a_moving_average_is_validated_kept_and_resumed(tiny):
    options = ["training.precision=float64", "training.moving_average=0.5", "training.epochs=99", "training.keep=9"]
    steps = []
    for step in (1, 2, 3):
        run, _ = train(tiny, *options[:1], *options[2:], f"training.max_steps={step}", f"name=raw{step}")
        steps.append(weights(run))
    torch.manual_seed(1)
    config = load_config(tiny, options)
    first = make_task(config, run.vocabulary).build_model().double().state_dict()
    averaged, _ = train(tiny, *options, "training.max_steps=2")
    averaged, _ = train(tiny, *options, "training.max_steps=3", resume=True)
    for name, got in weights(averaged).items():
        want = first[name]
        for decay, raw in zip((1 / 10, 2 / 11, 3 / 12), steps, strict=True):
            want = decay * want + (1 - decay) * raw[name]
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_the_learning_rate_warms_up_and_falls_on_a_plateau():
    rate = LearningRate(Schedule(warmup_steps=4, factor=0.5, patience=1), base=1.0)
    assert [rate.rate(step, 0.0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    for loss in (3.0, 2.0, 2.5):
        rate.after_validation(loss)
    assert rate.rate(9, 0.0) == 1.0
    rate.after_validation(2.0)
    assert rate.rate(9, 0.0) == 0.5
    other = LearningRate(rate.config, base=1.0)
    other.load_state_dict(json.loads(json.dumps(rate.state_dict())))
    assert other.rate(9, 0.0) == 0.5
    constant = LearningRate(Schedule(name="constant"), base=1.0)
    for _ in range(5):
        constant.after_validation(1.0)
    assert constant.rate(0, 0.0) == 1.0


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_every_optimizer_descends(name):
    from unrolled.config import Optimizer

    model = torch.nn.Linear(2, 1)
    optimizer = build_optimizer(model, Optimizer(name=name, learning_rate=0.05))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (model(torch.ones(1, 2)) - 3).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
