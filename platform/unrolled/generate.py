"""Output of the command `unrolled generate`."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from unrolled.data.visual7w_results import read_boxes
from unrolled.errors import UserError
from unrolled.evaluation import Predictor
from unrolled.reports.attention_plots import check_picture_name, save_attention
from unrolled.run import PredictorOptions, Run, load
from unrolled.tasks import ImageInputTask


def generate(arguments: Namespace) -> Iterator[str]:
    """Yields the lines that the command prints.

    Raises:
        UserError: an argument cannot be used.
    """
    run = load(arguments.run)
    options: PredictorOptions = {
        "ensemble": [load(other) for other in arguments.ensemble],
        "overrides": arguments.set,
        "checkpoint": arguments.checkpoint,
    }
    if arguments.explain is not None:
        if arguments.ensemble:
            raise UserError("--explain shows the steps of one run; leave --ensemble out.")
        yield run.explain(arguments.explain or None, overrides=arguments.set, checkpoint=arguments.checkpoint)
    elif run.chooses_regions:
        yield from _regions(run, options, arguments)
    elif arguments.boxes:
        raise UserError(f"--boxes: a run of task {run.folder.config().task} chooses no regions.")
    elif run.answers_questions:
        yield from _answers(run, options, arguments)
    elif arguments.choices:
        raise UserError(f"--choices: a run of task {run.folder.config().task} answers no questions.")
    else:
        yield from _outputs(run, options, arguments)


def _outputs(run: Run, options: PredictorOptions, arguments: Namespace) -> Iterator[str]:
    """Yields one line per input, or an n-best list per input."""
    inputs = run.expand_inputs(list(arguments.texts) or _read_lines(arguments.file))
    if arguments.n_best is not None:
        for i, candidates in enumerate(run.candidates(inputs, arguments.n_best, arguments.decode, **options)):
            if i:
                yield ""
            yield from (f"{candidate.score:.4f}\t{candidate.text}" for candidate in candidates)
        return
    if arguments.attention:
        check_picture_name(Path(arguments.attention))
    outputs = run.generate(inputs, arguments.decode, **options)
    if arguments.attention:
        _draw_attention(run.predictor(**options), inputs, outputs, Path(arguments.attention))
    with_names = run.takes_photos and len(inputs) > 1
    yield from (f"{name}\t{output}" if with_names else output for name, output in zip(inputs, outputs, strict=True))


def _regions(run: Run, options: PredictorOptions, arguments: Namespace) -> Iterator[str]:
    """Yields, for each question, one line per box, the most probable first: its probability, number and corners."""
    _refuse(arguments, ("n_best", "attention", "choices", "decode"), "regions")
    photo, *questions = arguments.texts or [""]
    if not questions or not arguments.boxes:
        raise UserError('give a photograph, a question and boxes: photo.jpg "Which is the dog?" --boxes boxes.json')
    boxes = read_boxes(Path(arguments.boxes))
    for question, prediction in zip(questions, run.point(photo, questions, boxes, **options), strict=True):
        if len(questions) > 1:
            yield question
        for i in sorted(range(len(boxes)), key=lambda i: -prediction.probabilities[i]):
            box = ", ".join(f"{side:g}" for side in boxes[i])
            yield f"{prediction.probabilities[i]:.4f}\t{i + 1}\t[{box}]"


def _answers(run: Run, options: PredictorOptions, arguments: Namespace) -> Iterator[str]:
    """Yields one line per question about a photograph, or one per choice, the most probable first."""
    _refuse(arguments, ("n_best", "attention"), "questions")
    photo, *questions = arguments.texts or [""]
    if not questions:
        raise UserError('give a photograph and a question about it: photo.jpg "What colour is the chair?"')
    choices = arguments.choices
    for question, prediction in zip(
        questions, run.ask(photo, questions, choices, arguments.decode, **options), strict=True
    ):
        if not choices:
            yield f"{question}\t{prediction.answer}" if len(questions) > 1 else prediction.answer
            continue
        if len(questions) > 1:
            yield question
        ranked = sorted(zip(prediction.probabilities, choices, strict=True), key=lambda pair: -pair[0])
        yield from (f"{probability:.4f}\t{choice}" for probability, choice in ranked)


def _refuse(arguments: Namespace, names: Sequence[str], outputs: str) -> None:
    for name in names:
        if getattr(arguments, name):
            raise UserError(f"--{name.replace('_', '-')}: does not go with {outputs}; leave it out.")


def _draw_attention(predictor: Predictor, photos: Sequence[str], captions: Sequence[str], path: Path) -> None:
    """Draws the attention of each word of the captions over the photographs."""
    if not isinstance(predictor.task, ImageInputTask):
        raise UserError(f"--attention: a run of task {predictor.config.task} looks at no photographs.")
    attended = [each for each in map(predictor.attention, photos, captions) if each is not None]
    if len(attended) < len(photos):
        raise UserError("--attention: the run's model has no attention (model.decoder.conditioning: attention has).")
    save_attention(path, [predictor.task.load_photo(name) for name in photos], attended)


def _read_lines(file: str) -> list[str]:
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return content.decode("utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--file {file}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UserError(f"--file {file}: is not UTF-8 text.") from None
