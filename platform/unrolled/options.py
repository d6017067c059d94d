"""The options of every command, and what their help says."""

from __future__ import annotations

import argparse
from typing import NoReturn

from unrolled.errors import UserError

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
