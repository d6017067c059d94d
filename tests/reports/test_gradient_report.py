"""`unrolled gradients`: the table, the page, and what it answers to bad input."""

from __future__ import annotations

import json
import re

import pytest
import torch

from small_configs import TINY
from unrolled.cli import main
from unrolled.recurrence import CELLS, Stack
from unrolled.recurrence.gradient_flow import gradient_flow
from unrolled.reports.gradient_flow import Measurement, measure, table, table_distances, write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run of the tiny config."""
    folder = tmp_path_factory.mktemp("gradients")
    (folder / "tiny.yaml").write_text(TINY + f"storage: {folder / 'runs'}\n", encoding="utf-8")
    assert main(["train", str(folder / "tiny.yaml"), "--local", "--smoke"]) == 0
    return folder / "runs" / "tiny"


@pytest.fixture
def sample(tmp_path):
    """A measurement of a model with many layers and long sequences."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {
            "encoder": Stack(CELLS["rnn"], 3, 4, bidirectional=True),
            "decoder": Stack(CELLS["lstm"], 8, 4, layers=2),
        }
    ).double()
    inputs = torch.randn(2, 130, 3, dtype=torch.float64)
    flows = gradient_flow(model, lambda: model["decoder"](model["encoder"](inputs)[0])[0].square().mean())
    return Measurement("sample <b>", "fresh parameters", 260, flows, tmp_path / "gradients.html")


def test_a_config_is_measured_with_its_first_parameters(tiny, capsys):
    assert main(["gradients", str(tiny), "model.decoder.cell=lstm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 100
    layers = [re.split(r"\s{2,}", line)[:2] for line in lines[3:6]]
    assert layers == [["encoder 1 →", "GRU"], ["encoder 1 ←", "GRU"], ["decoder 1", "LSTM"]]
    page = tiny.parent / "runs" / "tiny.gradients.html"
    assert lines[-1] == f"page: {page}"
    assert "fresh parameters" in page.read_text(encoding="utf-8")


def test_a_run_is_measured_with_its_checkpoint(run, capsys):
    assert main(["gradients", str(run), "--checkpoint", "last"]) == 0
    assert "tiny, checkpoint step-4: first training batch" in capsys.readouterr().out
    assert (run / "gradients.html").is_file()
    assert measure(run).flows != measure(run / "config.yaml").flows


def test_a_long_table_shows_some_distances(sample):
    assert table_distances(sample.flows) == [1, 2, 5, 20, 50, 100]
    lines = table(sample)
    assert max(map(len, lines)) <= 100 and len(lines) == 3 + 4 + 2
    assert len({line.rindex(word) + len(word) for line in lines[2:7] if (word := line.split()[-1])}) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.yaml"], "missing.yaml"),
        (["missing"], "is not a run folder"),
        (["RUN", "seed=2"], "seed=2: a run keeps its config"),
        (["RUN", "--checkpoint", "step-9"], "--checkpoint step-9: "),
        (["CONFIG", "--checkpoint", "last"], "give a run's folder"),
        (["CONFIG", "model.decoder.cell=gur"], "gru"),
    ],
)
def test_bad_input_is_one_sentence(words, message, run, tiny, capsys):
    given = [{"RUN": str(run), "CONFIG": str(tiny)}.get(word, word) for word in words]
    assert main(["gradients", *given]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_changed_data_are_refused(run, capsys, tmp_path):
    copy = tmp_path / "copy"
    (copy / "vocabulary").mkdir(parents=True)
    for file in [run / "config.yaml", *run.glob("vocabulary/*")]:
        (copy / file.relative_to(run)).write_bytes(file.read_bytes())
    (copy / "checkpoints").symlink_to(run / "checkpoints")
    (copy / "vocabulary" / "fingerprint").write_text("other", encoding="utf-8")
    assert main(["gradients", str(copy)]) == 2
    assert "have changed" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_in_a_browser(browser, sample, width):
    write_report(sample, version="0")
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 640}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(sample.page.as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {sample.page.as_uri()}
    assert browser.get_log("browser") == []
    counts = browser.execute_script(
        "return [...document.querySelectorAll('[data-chart]')].map(n => n.querySelectorAll('svg .trace').length)"
    )
    assert counts == [4, 4, 8]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.find_element("css selector", ".kicker b").text == "sample <b>"
