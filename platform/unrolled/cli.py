"""The command line: each command parses, calls one function and prints.

Exit codes: 0 done, 1 work began and failed, 2 something given cannot be used, 130 interrupted with a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence

from unrolled.errors import RunFailed, UserError, listing, nearest
from unrolled.options import make_parser

OVERRIDE = re.compile(r"^[a-z_][\w.]*=")
OVERRIDDEN = ("train", "tune", "features", "evaluate", "gradients", "profile", "config")
"""Commands whose overrides may stand anywhere, between options too."""
SIGINT_CODE = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except UserError as error:
        print(f"unrolled: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"unrolled: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"unrolled: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return SIGINT_CODE
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return 0


def _run(given: list[str]) -> int:
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        raise UserError(f"{given[0]!r} is not a command; there is {listing(COMMANDS)}.{nearest(given[0], COMMANDS)}")
    parser = make_parser()
    if not given:
        parser.print_help()
        return 2
    overrides: list[str] = []
    if given[0] in OVERRIDDEN:
        overrides = [word for word in given if OVERRIDE.match(word)]
        given = [word for word in given if not OVERRIDE.match(word)]
    options, rest = parser.parse_known_args(given)
    if unknown := [word for word in rest if word.startswith("-") or "texts" not in options]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:  # texts behind options, of which argparse has read none
        options.texts += rest
    options.overrides = overrides
    return COMMANDS[options.command](options)


def _train(options: argparse.Namespace) -> int:
    from unrolled.api import train
    from unrolled.training.console import Console

    run = train(
        options.config,
        overrides=options.overrides,
        workers=options.workers,
        local=options.local,
        address=options.address,
        resume=options.resume,
        overwrite=options.overwrite,
        tiny=options.smoke,
        console=Console(json_lines=options.json),
    )
    return SIGINT_CODE if run.interrupted else 0


def _tune(options: argparse.Namespace) -> int:
    from unrolled.sweeps import tune
    from unrolled.training.console import Console

    sweep = tune(
        options.config,
        overrides=options.overrides,
        trials=options.trials,
        workers=options.workers,
        address=options.address,
        resume=options.resume,
        overwrite=options.overwrite,
        tiny=options.smoke,
        console=Console(json_lines=options.json),
    )
    return SIGINT_CODE if sweep.interrupted else 0


def _evaluate(options: argparse.Namespace) -> int:
    from unrolled.api import evaluate, load
    from unrolled.decoding import split
    from unrolled.evaluation.table import together
    from unrolled.training.console import Console

    if options.outputs:
        return _score(options)
    for flag in ("references", "metrics"):
        if getattr(options, flag):
            raise UserError(f"--{flag} goes with --outputs FILE, texts made elsewhere.")
    if not options.runs:
        raise UserError("evaluate: give the folder of a run, or --outputs FILE --references FILE.")
    if isinstance(options.workers, tuple):
        raise UserError(f"--workers {'{}..{}'.format(*options.workers)}: an evaluation takes one number of workers.")
    console = Console(json_lines=options.json)
    runs = list(dict.fromkeys(options.runs))
    reports = evaluate(
        [load(run) for run in runs],
        options.split.split(","),
        split(options.decode) if options.decode else (),
        ensemble=[load(run) for run in options.ensemble],
        overrides=options.overrides,
        checkpoint=options.checkpoint,
        workers=options.workers,
        local=options.local,
        address=options.address,
        console=console,
    )
    lines = reports[0].lines if len(reports) == 1 else together(reports)
    console.conclude([report.scores for report in reports], lines, [report.path for report in reports])
    return 0


def _score(options: argparse.Namespace) -> int:
    from unrolled.evaluation.elsewhere import score_files
    from unrolled.evaluation.table import table

    given = {"a run": options.runs, "overrides": options.overrides, "--decode": options.decode}
    given["--ensemble"] = options.ensemble
    if more := [name for name, value in given.items() if value]:
        raise UserError(f"evaluate: --outputs are texts made elsewhere; {more[0]} cannot be given as well.")
    if not options.references:
        raise UserError("evaluate: --outputs wants --references FILE, a text a line, to compare them with.")
    metrics = (options.metrics or "bleu,chrf,exact_match").split(",")
    scores, comparisons = score_files(options.outputs, options.references, metrics)
    if options.json:
        print(json.dumps({"scores": scores, "comparisons": comparisons}, ensure_ascii=False))
    else:
        print(*table(metrics, scores), sep="\n")
    return 0


def _generate(options: argparse.Namespace) -> int:
    from unrolled.generation import generate

    for line in generate(options):
        print(line)
    return 0


def _gradients(options: argparse.Namespace) -> int:
    import unrolled
    from unrolled.evaluation.gradients import measure, table
    from unrolled.evaluation.gradients_page import write_page

    measurement = measure(options.source, overrides=options.overrides, checkpoint=options.checkpoint)
    print(*table(measurement), sep="\n")
    write_page(measurement, version=unrolled.__version__)
    print(f"page: {measurement.page}")
    return 0


def _profile(options: argparse.Namespace) -> int:
    from unrolled.training.profile import profile
    from unrolled.training.profile_table import table

    measured = profile(options.source, overrides=options.overrides, steps=options.steps, workers=options.workers)
    print(*table(measured), sep="\n")
    return 0


def _report(options: argparse.Namespace) -> int:
    import unrolled
    from unrolled.evaluation.curves import compare, table, write_comparison

    comparison = compare(options.runs)
    write_comparison(comparison, version=unrolled.__version__)
    print(*table(comparison), f"page: {comparison.page}", sep="\n")
    return 0


def _config(options: argparse.Namespace) -> int:
    from unrolled.config_file import dump_config, load_config, reference

    if options.schema:
        print(reference(), end="")
    elif options.config is None:
        raise UserError("config: give a config file, or --schema for every key there is.")
    else:
        print(dump_config(load_config(options.config, options.overrides)), end="")
    return 0


def _runs(options: argparse.Namespace) -> int:
    from unrolled.training.overview import overview

    for line in overview(options.storage):
        print(line)
    return 0


def _submit(options: argparse.Namespace) -> int:
    from unrolled.cluster.submit import submit

    return submit(options.address, options.words, storage=options.storage, known=tuple(COMMANDS))


def _features(options: argparse.Namespace) -> int:
    from unrolled.api import make_features
    from unrolled.training.console import Console

    make_features(
        options.config,
        options.split.split(","),
        overrides=options.overrides,
        workers=options.workers,
        local=options.local,
        address=options.address,
        console=Console(json_lines=options.json),
    )
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "tune": _tune,
    "features": _features,
    "evaluate": _evaluate,
    "generate": _generate,
    "gradients": _gradients,
    "profile": _profile,
    "report": _report,
    "config": _config,
    "runs": _runs,
    "submit": _submit,
}
