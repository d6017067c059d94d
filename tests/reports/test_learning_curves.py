"""`unrolled report`: learning curves of runs in one table and one page."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from training_runs import train
from unrolled.cli import main
from unrolled.reports.learning_curves import compare, write_report

CONFIG = """\
task: memory
name: lstm
storage: {storage}
data: {{problem: adding, length: 10, validation: 20, test: 20}}
model: {{hidden: 4}}
training: {{batch: 4, epoch_steps: 4, epochs: 3, log_every: 2, metric: mse}}
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """Three runs: two that differ in one key and one of another metric."""
    folder = tmp_path_factory.mktemp("curves")
    path = folder / "lstm.yaml"
    path.write_text(CONFIG.format(storage=folder / "runs"), encoding="utf-8")
    train(path)
    train(path, "name=rnn", "model.cell=rnn", "training.truncate=5")
    train(path, "name=by-loss", "training.metric=loss", "training.max_steps=2")
    return folder / "runs"


def figures(page):
    found = re.search(r'id="figures-data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(found[1])


def test_the_table_says_what_sets_runs_apart(storage, capsys):
    assert main(["report", str(storage / "lstm"), str(storage / "rnn")]) == 0
    heading, *rows, last = capsys.readouterr().out.splitlines()
    assert heading.split() == ["RUN", "MEAN", "SQUARED", "ERROR", "AT", "STEP", "TIME", "SETTINGS"]
    assert [row.split()[0] for row in rows] == ["lstm", "rnn"]
    assert rows[0].endswith("model.cell=lstm training.truncate=null")
    assert rows[1].endswith("model.cell=rnn training.truncate=5")
    assert last == f"page: {storage / 'curves.html'}"


def test_the_curves_are_the_runs_validations(storage):
    comparison = compare([str(storage / "rnn"), str(storage / "lstm")])
    write_report(comparison, version="0")
    drawn = figures(comparison.page)
    for number, curve in enumerate(comparison.curves):
        by_step, by_time = (drawn[f"score-{axis}"]["data"][number] for axis in ("step", "seconds"))
        assert by_step["name"] == curve.name and by_step["x"] == [4, 8, 12]
        assert by_step["y"] == by_time["y"] == [row["mse"] for row in curve.validation]
        assert by_time["x"] == [row["seconds"] for row in curve.validation]
        assert drawn["loss"]["data"][number]["x"] == [2, 4, 6, 8, 10, 12]
    (line,) = drawn["score-step"]["layout"]["shapes"]
    assert line["y0"] == line["y1"] == pytest.approx(1 / 6)
    best = min(comparison.curves, key=lambda curve: min(row["mse"] for row in curve.validation))
    assert f"<h1>{best.name} leads with mean squared error" in comparison.page.read_text(encoding="utf-8")


def test_a_run_given_twice_is_one_curve_and_equal_names_are_told_apart(storage, tmp_path):
    copy = tmp_path / "lstm"
    shutil.copytree(storage / "lstm", copy)
    given = [str(storage / "lstm"), str(storage / "lstm"), str(copy), str(storage / "rnn")]
    assert [curve.name for curve in compare(given).curves] == [given[0], given[2], "rnn"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lstm", "by-loss"], ["training.metric", "lstm has mse, by-loss has loss"]),
        (["lstm", "lsmt"], ["lsmt", "Did you mean"]),
        (["empty"], ["empty", "no validation"]),
    ],
)
def test_runs_that_cannot_be_compared_are_one_sentence(storage, names, words, capsys):
    empty = storage / "empty"
    empty.mkdir(exist_ok=True)
    (empty / "config.yaml").write_text((storage / "lstm" / "config.yaml").read_text(encoding="utf-8"))
    assert main(["report", *(str(storage / name) for name in names)]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words) and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(browser, storage, width, scheme):
    comparison = compare([str(storage / "lstm"), str(storage / "rnn")])
    write_report(comparison, version="0")
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 640}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(comparison.page.as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {comparison.page.as_uri()}
    assert browser.get_log("browser") == []
    counts = browser.execute_script(
        "return [...document.querySelectorAll('[data-chart]')].map(n => n.querySelectorAll('svg .trace').length)"
    )
    assert counts == [2, 2, 2]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
