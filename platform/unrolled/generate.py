"""The command `unrolled generate`."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from unrolled.data.visual7w_io import read_boxes
from unrolled.errors import UserError
from unrolled.evaluation.predictor import Predictor
from unrolled.reports.gallery import check_picture_name, save_attention
from unrolled.run import Run, load
from unrolled.tasks import ImageInputTask


def generate(options: Namespace) -> Iterator[str]:
    """Yields what the command prints, line by line.

    Raises:
        UserError: something given cannot be used.
    """
    run, ensemble = load(options.run), [load(other) for other in options.ensemble]
    if options.explain is not None:
        if ensemble:
            raise UserError("--explain shows the steps of one run; leave --ensemble out.")
        yield run.explain(options.explain or None, overrides=options.set, checkpoint=options.checkpoint)
        return
    if run.points:
        yield from _pointed(run, ensemble, options)
        return
    if options.boxes:
        raise UserError(f"--boxes: a run of task {run.folder.config().task} chooses no regions.")
    if run.asks:
        yield from _replies(run, ensemble, options)
        return
    if options.choices:
        raise UserError(f"--choices: a run of task {run.folder.config().task} answers no questions.")
    inputs = run.inputs(list(options.texts) or _lines(options.file))
    given = {"ensemble": ensemble, "overrides": options.set, "checkpoint": options.checkpoint}
    if options.n_best is not None:
        for number, candidates in enumerate(run.candidates(inputs, options.n_best, options.decode, **given)):
            if number:
                yield ""
            yield from (f"{one.score:.4f}\t{one.text}" for one in candidates)
        return
    if options.attention:
        check_picture_name(Path(options.attention))
    outputs = run.generate(inputs, options.decode, **given)
    if options.attention:
        _draw(run.predictor(**given), inputs, outputs, Path(options.attention))
    yield from _named(run, inputs, outputs)


def _pointed(run: Run, ensemble: Sequence[Run], options: Namespace) -> Iterator[str]:
    """Yields a line a box for every question: its probability, its number and the box, the likeliest first."""
    for option in ("n_best", "attention", "choices", "decode"):
        if getattr(options, option):
            name = option.replace("_", "-")
            raise UserError(f"--{name}: does not go with regions; leave it out.")
    photo, *questions = options.texts or [""]
    if not questions or not options.boxes:
        raise UserError('give a photograph, a question and boxes: photo.jpg "Which is the dog?" --boxes boxes.json')
    boxes = read_boxes(Path(options.boxes))
    given = {"ensemble": ensemble, "overrides": options.set, "checkpoint": options.checkpoint}
    replies = run.point(photo, questions, boxes, **given)
    for question, reply in zip(questions, replies, strict=True):
        if len(questions) > 1:
            yield question
        for place in sorted(range(len(boxes)), key=lambda place: -reply.probabilities[place]):
            box = ", ".join(f"{side:g}" for side in boxes[place])
            yield f"{reply.probabilities[place]:.4f}\t{place + 1}\t[{box}]"


def _replies(run: Run, ensemble: Sequence[Run], options: Namespace) -> Iterator[str]:
    """Answers questions about one photograph; yields a line each, or a line a candidate, the likeliest first."""
    for option in ("n_best", "attention"):
        if getattr(options, option):
            name = option.replace("_", "-")
            raise UserError(f"--{name}: does not go with questions; leave it out.")
    photo, *questions = options.texts or [""]
    if not questions:
        raise UserError('give a photograph and a question about it: photo.jpg "What colour is the chair?"')
    given = {"ensemble": ensemble, "overrides": options.set, "checkpoint": options.checkpoint}
    for question, reply in zip(
        questions, run.ask(photo, questions, options.choices, options.decode, **given), strict=True
    ):
        if not options.choices:
            yield f"{question}\t{reply.answer}" if len(questions) > 1 else reply.answer
            continue
        if len(questions) > 1:
            yield question
        ranked = sorted(zip(reply.probabilities, options.choices, strict=True), key=lambda pair: -pair[0])
        yield from (f"{share:.4f}\t{choice}" for share, choice in ranked)


def _draw(trained: Predictor, photos: Sequence[str], captions: Sequence[str], path: Path) -> None:
    """Draws where the model looks at photographs while it writes captions."""
    if not isinstance(trained.task, ImageInputTask):
        raise UserError(f"--attention: a run of task {trained.config.task} looks at no photographs.")
    attended = [one for one in map(trained.attention, photos, captions) if one is not None]
    if len(attended) < len(photos):
        raise UserError("--attention: the run's model has no attention (model.decoder.conditioning: attention has).")
    save_attention(path, [trained.task.load_photo(name) for name in photos], attended)


def _named(run: Run, inputs: Sequence[str], outputs: Sequence[str]) -> Iterator[str]:
    """Yields the outputs; those of several photographs behind their names."""
    for name, output in zip(inputs, outputs, strict=True):
        yield f"{name}\t{output}" if run.sees and len(inputs) > 1 else output


def _lines(file: str) -> list[str]:
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return raw.decode("utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--file {file}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UserError(f"--file {file}: is not UTF-8 text.") from None
