"""Command line: options of all commands, and the functions that run them.

Exit codes: 0 success, 1 work began and failed, 2 an argument cannot be used, 130 interrupted with a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from unrolled.errors import RunFailed, UserError, did_you_mean, listing

CONFIG = "YAML file; followed by key.path=value to override keys"
CHECKPOINT = "best, last, step-N, or average, average-N: mean weights of all or the N newest checkpoints (best)"
ENSEMBLE = "run to decode together with: the models' probabilities are averaged"
STRATEGIES = "greedy, sample, beam, best or mbr, with options as in beam:size=10,length_penalty=0.6"


class Parser(argparse.ArgumentParser):
    """Raises `UserError` for wrong arguments."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    from unrolled import __version__

    parser = Parser(prog="unrolled", description="Recurrent sequence models, trained and evaluated on Ray.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    output, cluster, local, workers, folder, checkpoint = (Parser(add_help=False) for _ in range(6))
    output.add_argument("--json", action="store_true", help="print JSON lines")
    cluster.add_argument("--address", metavar="HOST:PORT", help="running Ray cluster ($RAY_ADDRESS, or a private Ray)")
    local.add_argument("--local", action="store_true", help="run in this process, without Ray")
    count = "number of Ray workers (1); train also takes a range such as 2..4: as many as fit"
    workers.add_argument("--workers", type=_workers, default=1, metavar="N", help=count)
    folder.add_argument("--resume", action="store_true", help="continue a run or sweep from its checkpoints")
    folder.add_argument("--overwrite", action="store_true", help="replace a run or sweep of that name")
    folder.add_argument("--smoke", action="store_true", help="few examples and few updates, to test the config")
    checkpoint.add_argument("--checkpoint", default="best", metavar="NAME", help=CHECKPOINT)

    train = commands.add_parser("train", parents=[workers, local, cluster, folder, output], help="train a model")
    train.add_argument("config", help=CONFIG)

    tune = commands.add_parser("tune", parents=[cluster, folder, output], help="search a space of configs")
    tune.add_argument("config", help="YAML file with a tuning section, or the folder of a sweep; then key.path=value")
    tune.add_argument("--trials", type=int, metavar="N", help="number of points, in place of tuning.trials")
    tune.add_argument("--workers", type=int, default=1, metavar="N", help="number of Ray workers per trial (1)")

    features = commands.add_parser(
        "features", parents=[local, cluster, output], help="compute and cache image features"
    )
    features.add_argument("config", help=CONFIG)
    features.add_argument("--split", default="train,validation", help="comma-separated splits (train,validation)")
    features.add_argument("--workers", type=int, metavar="N", help="number of one-CPU Ray workers (all free CPUs)")

    evaluate_parents = [workers, local, cluster, output, checkpoint]
    _add_evaluate_options(commands.add_parser("evaluate", parents=evaluate_parents, help="score runs, write reports"))
    _add_generate_options(commands.add_parser("generate", parents=[checkpoint], help="generate outputs for new inputs"))

    gradients = commands.add_parser("gradients", help="measure the gradient flow through time")
    gradients.add_argument("source", metavar="CONFIG|RUN", help="YAML file (with key.path=value overrides) or a run")
    gradients.add_argument("--checkpoint", metavar="NAME", help=f"of a run: {CHECKPOINT}")

    profile = commands.add_parser("profile", help="measure the time of training updates by phase and operation")
    profile.add_argument("source", metavar="CONFIG|RUN", help="YAML file or a run, with key.path=value overrides")
    profile.add_argument("--steps", type=int, default=20, metavar="N", help="number of measured updates (20)")
    profile.add_argument("--workers", type=int, default=1, metavar="N", help="number of worker processes (1)")

    report = commands.add_parser("report", help="compare the learning curves of runs on one page")
    report.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")

    config = commands.add_parser("config", help="print a complete config, or the reference of all keys")
    config.add_argument("config", nargs="?", help=CONFIG)
    config.add_argument("--schema", action="store_true", help="print all keys with values, defaults and meanings")

    runs = commands.add_parser("runs", help="list runs")
    runs.add_argument("storage", nargs="?", default="runs", help="folder of run folders (runs)")

    submit = commands.add_parser("submit", help="run a command on a Ray cluster")
    submit.add_argument("--address", required=True, metavar="URL", help="of the cluster's job server, http://HOST:8265")
    submit.add_argument("--storage", metavar="FOLDER", help="folder of run folders on the cluster (~/unrolled)")
    submit.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="train …, evaluate …")
    return parser


def _add_evaluate_options(evaluate: argparse.ArgumentParser) -> None:
    runs_help = "folder of a run; followed by key.path=value to override its config"
    evaluate.add_argument("runs", nargs="*", metavar="RUN", help=runs_help)
    evaluate.add_argument("--ensemble", action="extend", nargs="+", default=[], metavar="RUN", help=ENSEMBLE)
    evaluate.add_argument("--split", default="test", help="comma-separated splits: train, validation, test, … (test)")
    strategies = f"comma-separated strategies: {STRATEGIES} (greedy,sample,beam)"
    evaluate.add_argument("--decode", default="", help=strategies)
    outputs = "score the outputs of another system, one per line; repeatable"
    evaluate.add_argument("--outputs", action="append", metavar="FILE", help=outputs)
    evaluate.add_argument("--references", action="append", metavar="FILE", help="their references; repeatable")
    evaluate.add_argument("--metrics", metavar="NAMES", help="comma-separated, of --outputs (bleu,chrf,exact_match)")


def _add_generate_options(generate: argparse.ArgumentParser) -> None:
    generate.add_argument("run", help="folder of the run")
    inputs = "texts; or photographs: files, folders, http addresses; or a photograph and questions about it; default: "
    inputs += "lines of --file"
    generate.add_argument("texts", nargs="*", metavar="TEXT", help=inputs)
    generate.add_argument("--file", default="-", help="inputs, one per line; - is standard input (-)")
    choices = "candidate answers to a question; their probabilities are printed, the most probable first"
    generate.add_argument("--choices", nargs="+", default=[], metavar="TEXT", help=choices)
    generate.add_argument("--ensemble", action="append", default=[], metavar="RUN", help=f"{ENSEMBLE}; repeatable")
    generate.add_argument("--decode", help=f"{STRATEGIES} (the task's default)")
    boxes = "candidate regions of a question, in pixels: [[x, y, width, height], …], or Visual7W's boxes"
    generate.add_argument("--boxes", metavar="FILE.json", help=boxes)
    generate.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the run's config")
    mode = generate.add_mutually_exclusive_group()
    n_best = "print the N best outputs of each input as lines of score, tab, text; inputs separated by empty lines"
    mode.add_argument("--n-best", type=int, metavar="N", help=n_best)
    explain = "print the computation of a character model step by step"
    mode.add_argument("--explain", nargs="?", const="", metavar="TEXT", help=explain)
    attention = "draw the attention over photographs, word by word, into an image"
    mode.add_argument("--attention", metavar="OUT.png", help=attention)


def _workers(text: str) -> int | tuple[int, int]:
    least, dots, most = text.partition("..")
    try:
        return (int(least), int(most)) if dots else int(least)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers, such as 2, or 1..4") from None


OVERRIDE = re.compile(r"^[a-z_][\w.]*=")
WITH_OVERRIDES = ("train", "tune", "features", "evaluate", "gradients", "profile", "config")
"""Commands that take overrides, in any position."""
SIGINT_CODE = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
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
    except BrokenPipeError:  # the reader of the output has closed it
        sys.stderr.close()
        return 0


def _run(words: list[str]) -> int:
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        hint = did_you_mean(words[0], COMMANDS)
        raise UserError(f"{words[0]!r} is not a command; there is {listing(COMMANDS)}.{hint}")
    parser = make_parser()
    if not words:
        parser.print_help()
        return 2
    overrides: list[str] = []
    if words[0] in WITH_OVERRIDES:
        overrides = [word for word in words if OVERRIDE.match(word)]
        words = [word for word in words if not OVERRIDE.match(word)]
    options, rest = parser.parse_known_args(words)
    if unknown := [word for word in rest if word.startswith("-") or "texts" not in options]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:  # texts after options, which argparse does not assign
        options.texts += rest
    options.overrides = overrides
    return COMMANDS[options.command](options)


def _arguments(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Returns the options of these names, those of all commands that run on workers, and the console."""
    from unrolled.training.console import Console

    values = {name: getattr(options, name) for name in (*names, "overrides", "workers", "address")}
    return values | {"console": Console(json_lines=options.json)}


def _train(options: argparse.Namespace) -> int:
    from unrolled.api import train

    run = train(options.config, **_arguments(options, "local", "resume", "overwrite", "smoke"))
    return SIGINT_CODE if run.interrupted else 0


def _tune(options: argparse.Namespace) -> int:
    from unrolled.api import tune

    sweep = tune(options.config, **_arguments(options, "trials", "resume", "overwrite", "smoke"))
    return SIGINT_CODE if sweep.interrupted else 0


def _evaluate(options: argparse.Namespace) -> int:
    from unrolled.decoding import split_spellings
    from unrolled.evaluation.results import merge_tables
    from unrolled.run import evaluate, load

    if options.outputs:
        return _score_outputs(options)
    for flag in ("references", "metrics"):
        if getattr(options, flag):
            raise UserError(f"--{flag} goes with --outputs FILE, texts made elsewhere.")
    if not options.runs:
        raise UserError("evaluate: give the folder of a run, or --outputs FILE --references FILE.")
    if isinstance(options.workers, tuple):
        raise UserError(f"--workers {'{}..{}'.format(*options.workers)}: an evaluation takes one number of workers.")
    arguments = _arguments(options, "checkpoint", "local")
    reports = evaluate(
        [load(run) for run in dict.fromkeys(options.runs)],
        options.split.split(","),
        split_spellings(options.decode) if options.decode else (),
        ensemble=[load(run) for run in options.ensemble],
        **arguments,
    )
    lines = reports[0].lines if len(reports) == 1 else merge_tables(reports)
    arguments["console"].conclude([report.scores for report in reports], lines, [report.path for report in reports])
    return 0


def _score_outputs(options: argparse.Namespace) -> int:
    from unrolled.evaluation.results import score_files, score_table

    unusable = {"a run": options.runs, "overrides": options.overrides, "--decode": options.decode}
    unusable["--ensemble"] = options.ensemble
    if given := [name for name, value in unusable.items() if value]:
        raise UserError(f"evaluate: --outputs are texts made elsewhere; {given[0]} cannot be given as well.")
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

    make_features(options.config, options.split.split(","), **_arguments(options, "local"))
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
