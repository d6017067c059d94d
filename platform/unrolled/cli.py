"""The command line.

The options of every command, and what their help says.

The command line: each command parses, calls one function and prints.

Exit codes: 0 done, 1 work began and failed, 2 something given cannot be used, 130 interrupted with a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from unrolled.errors import RunFailed, UserError, did_you_mean, listing

TOGETHER = "a run that decodes together with it: the mean of the models' probabilities"
STRATEGIES = "greedy, sample, beam, best or mbr, with options as in beam:size=10,length_penalty=0.6"


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line, its texts of help included."""
    from unrolled import __version__

    parser = Parser(prog="unrolled", description="Recurrent sequence models, trained and evaluated on Ray.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    where = Parser(add_help=False)
    number = "Ray workers that share the work (1); train also takes 2..4: as many as there is room for"
    where.add_argument("--workers", type=_workers, default=1, metavar="N", help=number)
    where.add_argument("--local", action="store_true", help="in this process, without Ray")
    where.add_argument("--address", metavar="HOST:PORT", help="a running Ray cluster (else $RAY_ADDRESS, else our own)")
    where.add_argument("--json", action="store_true", help="print JSON lines for machines")
    decoded = Parser(add_help=False)
    names = "best, last, step-N; average, average-N: the mean weights of all kept, of the N newest"
    decoded.add_argument("--checkpoint", default="best", metavar="NAME", help=f"{names} (best)")

    train = commands.add_parser("train", parents=[where], help="train what a config describes")
    train.add_argument("config", help="YAML file; follow it with key.path=value to override")
    train.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
    train.add_argument("--overwrite", action="store_true", help="replace a run of that name")
    train.add_argument("--smoke", action="store_true", help="few examples, few steps: does the config work?")

    _tune_options(commands.add_parser("tune", help="search a space of configs with many trainings"))

    _features_options(commands.add_parser("features", help="make the features of photographs, unless they are there"))

    evaluate = commands.add_parser("evaluate", parents=[where, decoded], help="score a run and write its report")
    _evaluate_options(evaluate)

    generate = commands.add_parser("generate", parents=[decoded], help="write outputs for new inputs")
    _generate_options(generate)

    gradients = commands.add_parser("gradients", help="measure how far gradients reach back through time")
    gradients.add_argument("source", metavar="CONFIG|RUN", help="YAML file (with key.path=value overrides) or a run")
    gradients.add_argument("--checkpoint", metavar="NAME", help=f"of a run: {names} (best)")

    profile = commands.add_parser("profile", help="measure where the time of training updates goes")
    profile.add_argument("source", metavar="CONFIG|RUN", help="YAML file or a run; key.path=value overrides its config")
    profile.add_argument("--steps", type=int, default=20, metavar="N", help="updates that are measured (20)")
    profile.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the work (1)")

    report = commands.add_parser("report", help="compare the learning curves of runs in one page")
    report.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")

    config = commands.add_parser("config", help="print a config, complete, or the reference of all keys")
    config.add_argument("config", nargs="?", help="YAML file; follow it with key.path=value to override")
    config.add_argument("--schema", action="store_true", help="print every key with its values, default and meaning")

    runs = commands.add_parser("runs", help="list runs")
    runs.add_argument("storage", nargs="?", default="runs", help="folder of run folders (runs)")

    submit = commands.add_parser("submit", help="run a command on a Ray cluster")
    submit.add_argument("--address", required=True, metavar="URL", help="of the cluster's job server, http://HOST:8265")
    submit.add_argument("--storage", metavar="FOLDER", help="on the cluster, for run folders (~/unrolled)")
    submit.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="train …, evaluate …")
    return parser


def _tune_options(tune: argparse.ArgumentParser) -> None:
    config_help = "YAML file with a tuning section, or the folder of a sweep; follow it with key.path=value to override"
    tune.add_argument("config", help=config_help)
    tune.add_argument("--trials", type=int, metavar="N", help="points of the space, in place of tuning.trials")
    tune.add_argument("--workers", type=int, default=1, metavar="N", help="Ray workers of every trial (1)")
    tune.add_argument("--address", metavar="HOST:PORT", help="a running Ray cluster (else $RAY_ADDRESS, else our own)")
    tune.add_argument("--resume", action="store_true", help="continue; what ended is not trained again")
    tune.add_argument("--overwrite", action="store_true", help="replace a sweep of that name")
    tune.add_argument("--smoke", action="store_true", help="few trials of few steps: does the config work?")
    tune.add_argument("--json", action="store_true", help="print JSON lines for machines")


def _generate_options(generate: argparse.ArgumentParser) -> None:
    generate.add_argument("run", help="folder of the run")
    inputs = "texts; or photographs: files, folders, http addresses; or a photograph and questions about it; default: "
    inputs += "lines of --file"
    generate.add_argument("texts", nargs="*", metavar="TEXT", help=inputs)
    generate.add_argument("--file", default="-", help="inputs, one a line; - is standard input (-)")
    choices = "of which the answer to a question is one; prints their probabilities, the likeliest first"
    generate.add_argument("--choices", nargs="+", default=[], metavar="TEXT", help=choices)
    generate.add_argument("--ensemble", action="append", default=[], metavar="RUN", help=f"{TOGETHER}; several times")
    generate.add_argument("--decode", help=f"{STRATEGIES} (what suits the task)")
    instead = generate.add_mutually_exclusive_group()
    scored = "the N best outputs of each input, lines of score, tab, text; an empty line between inputs"
    instead.add_argument("--n-best", type=int, metavar="N", help=scored)
    instead.add_argument(
        "--explain", nargs="?", const="", metavar="TEXT", help="print what a character model computes, step by step"
    )
    boxes = "of which a question asks for one: [[x, y, width, height], …] or Visual7W's boxes; in pixels"
    generate.add_argument("--boxes", metavar="FILE.json", help=boxes)
    strip = "draw where the model looked at photographs, word by word, into a picture"
    instead.add_argument("--attention", metavar="OUT.png", help=strip)
    generate.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the run's config")


def _features_options(features: argparse.ArgumentParser) -> None:
    features.add_argument("config", help="YAML file; follow it with key.path=value to override")
    features.add_argument("--split", default="train,validation", help="splits, with commas (train,validation)")
    features.add_argument("--workers", type=int, metavar="N", help="Ray workers of a CPU each (all that are free)")
    features.add_argument("--local", action="store_true", help="in this process, without Ray")
    cluster = "a running Ray cluster (else $RAY_ADDRESS, else our own)"
    features.add_argument("--address", metavar="HOST:PORT", help=cluster)
    features.add_argument("--json", action="store_true", help="print JSON lines for machines")


def _evaluate_options(evaluate: argparse.ArgumentParser) -> None:
    runs_help = "folder of a run; follow it with key.path=value to override its config"
    evaluate.add_argument("runs", nargs="*", metavar="RUN", help=runs_help)
    evaluate.add_argument("--ensemble", action="extend", nargs="+", default=[], metavar="RUN", help=TOGETHER)
    evaluate.add_argument("--split", default="test", help="train, validation, test or others, with commas (test)")
    evaluate.add_argument(
        "--decode", default="", help=f"strategies, separated by commas: {STRATEGIES} (greedy,sample,beam)"
    )
    for flag, what in (("outputs", "score texts made elsewhere, one a line"), ("references", "what they should be")):
        evaluate.add_argument(f"--{flag}", action="append", metavar="FILE", help=f"{what}; may be given several times")
    evaluate.add_argument("--metrics", metavar="NAMES", help="of --outputs, with commas (bleu,chrf,exact_match)")


def _workers(text: str) -> int | tuple[int, int]:
    least, dots, most = text.partition("..")
    try:
        return (int(least), int(most)) if dots else int(least)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers, such as 2, or 1..4") from None


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
        raise UserError(
            f"{given[0]!r} is not a command; there is {listing(COMMANDS)}.{did_you_mean(given[0], COMMANDS)}"
        )
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
        smoke=options.smoke,
        console=Console(json_lines=options.json),
    )
    return SIGINT_CODE if run.interrupted else 0


def _tune(options: argparse.Namespace) -> int:
    from unrolled.api import tune
    from unrolled.training.console import Console

    sweep = tune(
        options.config,
        overrides=options.overrides,
        trials=options.trials,
        workers=options.workers,
        address=options.address,
        resume=options.resume,
        overwrite=options.overwrite,
        smoke=options.smoke,
        console=Console(json_lines=options.json),
    )
    return SIGINT_CODE if sweep.interrupted else 0


def _evaluate(options: argparse.Namespace) -> int:
    from unrolled.decoding import split_spellings
    from unrolled.evaluation.results import merge_tables
    from unrolled.run import evaluate, load
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
        split_spellings(options.decode) if options.decode else (),
        ensemble=[load(run) for run in options.ensemble],
        overrides=options.overrides,
        checkpoint=options.checkpoint,
        workers=options.workers,
        local=options.local,
        address=options.address,
        console=console,
    )
    lines = reports[0].lines if len(reports) == 1 else merge_tables(reports)
    console.conclude([report.scores for report in reports], lines, [report.path for report in reports])
    return 0


def _score(options: argparse.Namespace) -> int:
    from unrolled.evaluation.results import score_files, score_table

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
        print(*score_table(metrics, scores), sep="\n")
    return 0


def _generate(options: argparse.Namespace) -> int:
    from unrolled.generate import generate

    for line in generate(options):
        print(line)
    return 0


def _gradients(options: argparse.Namespace) -> int:
    import unrolled
    from unrolled.reports.gradient_flow import measure, table, write_report

    measurement = measure(options.source, overrides=options.overrides, checkpoint=options.checkpoint)
    print(*table(measurement), sep="\n")
    write_report(measurement, version=unrolled.__version__)
    print(f"page: {measurement.page}")
    return 0


def _profile(options: argparse.Namespace) -> int:
    from unrolled.training.profiler import profile, table

    measured = profile(options.source, overrides=options.overrides, steps=options.steps, workers=options.workers)
    print(*table(measured), sep="\n")
    return 0


def _report(options: argparse.Namespace) -> int:
    import unrolled
    from unrolled.reports.learning_curves import compare, table, write_report

    comparison = compare(options.runs)
    write_report(comparison, version=unrolled.__version__)
    print(*table(comparison), f"page: {comparison.page}", sep="\n")
    return 0


def _config(options: argparse.Namespace) -> int:
    from unrolled.config.load import dump_config, load_config, reference_table

    if options.schema:
        print(reference_table(), end="")
    elif options.config is None:
        raise UserError("config: give a config file, or --schema for every key there is.")
    else:
        print(dump_config(load_config(options.config, options.overrides)), end="")
    return 0


def _runs(options: argparse.Namespace) -> int:
    from unrolled.training.run_dir import list_runs

    for line in list_runs(options.storage):
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
