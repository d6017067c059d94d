"""Config files: defaults, overrides, and one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from repository import CONFIGS
from unrolled.config import Config
from unrolled.config.common import FUSED_CELLS
from unrolled.config.load import (
    dump_config,
    dump_stored_config,
    load_config,
    load_stored_config,
    reference_table,
    resolve_storage,
)
from unrolled.errors import UserError
from unrolled.recurrence import CELLS

SMALLEST = "task: translation\ndata:\n  source: dates\n"
SHIPPED = sorted(CONFIGS.rglob("*.yaml"))


@pytest.fixture
def config(tmp_path):
    def write(text=SMALLEST, name="small.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_smallest_file_is_task_and_source(config):
    loaded = load_config(config())
    assert loaded.name == "small"
    assert loaded.model.decoder.conditioning == "attention"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads(path):
    assert load_config(path).name == path.stem


def test_overrides_win_and_are_read_as_yaml(config):
    loaded = load_config(
        config(),
        ["model.decoder.cell=lstm", "training.optimizer.learning_rate=1e-3", "training.max_steps=null", "data.limit=5"],
    )
    assert loaded.model.decoder.cell == "lstm"
    assert loaded.training.optimizer.learning_rate == 0.001
    assert loaded.training.max_steps is None
    assert loaded.data.limit == 5


def test_a_dumped_config_is_the_same_config(config):
    loaded = load_config(config(), ["name=other", "model.encoder.layers=2"])
    again = load_config(config(dump_config(loaded), "again.yaml"))
    assert again == loaded


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("task: translation\ndata:\n  source: dates\nmodel:\n  decoder:\n    cel: gru\n", [], ["line 6", "'cell'"]),
        ("task: translation\ndata:\n  source: dates\n  limit: many\n", [], ["line 4", "data.limit", "whole number"]),
        ("task: translation\ndata: {}\n", [], ["data.source is missing"]),
        ("task: translation\ndata:\n  source: dates\n  source: x\n", [], ["line 4", "duplicate"]),
        ("task: [translation\n", [], ["not valid YAML"]),
        ("- a\n- b\n", [], ["a mapping"]),
        ("task: painting\ndata: {source: dates}\n", [], ["task is 'painting'", "translation"]),
        (
            SMALLEST,
            ["model.decoder.cell=grru"],
            ["'model.decoder.cell=grru'", "rnn, irnn, lstm, peephole_lstm, gru, cho_gru, mut1, mut2 or mut3"],
        ),
        (SMALLEST, ["model.decoder.sell=gru"], ["Did you mean 'cell'?"]),
        (SMALLEST, ["model.decoder.cell=grru"], ["Did you mean 'gru'?"]),
        (SMALLEST, ["training.clipping.kind=lecture"], ["Did you mean 'squared_norm'?"]),
        (SMALLEST + "format: 2\n", [], ["has format 2", "reads format 1"]),
        (SMALLEST, ["model.encoder.hidden=0"], ["model.encoder.hidden is 0", "1 or more"]),
        (SMALLEST, ["model.encoder.zoneout=1.0"], ["less than 1"]),
        (SMALLEST, ["model.encoder.initialization=eye"], ["orthogonal, uniform or identity"]),
        (SMALLEST, ["model.decoder.learned_state=true"], ["model.decoder.learned_state is not a key"]),
        (SMALLEST, ["model.engine=fused", "model.decoder.cell=mut1"], ["model.decoder.cell 'mut1'", "rnn, irnn, lstm"]),
        (SMALLEST, ["model.engine=fused", "model.encoder.zoneout=0.1"], ["does without model.encoder.zoneout"]),
        (SMALLEST, ["training.precision=float8"], ["auto, float32, float64, bfloat16 or float16"]),
        (SMALLEST, ["training.keep=0"], ["1 or more"]),
        (SMALLEST, ["training.label_smoothing=1.0"], ["less than 1"]),
        (SMALLEST, ["training.optimizer.learning_rate=true"], ["is true", "a number"]),
        (SMALLEST, ["seed"], ["key.path=value"]),
        (SMALLEST, ["seed.x=1", "seed=2"], []),
        (SMALLEST, ["name=../outside"], ["letters, digits"]),
        (SMALLEST, ["model.decoder.attention.score=dot"], ["model.decoder.hidden is 256", "512"]),
        (SMALLEST, ["model.decoder.conditioning=state", "model.decoder.attention.input_feeding=true"], ["'attention'"]),
        (SMALLEST, ["training.metric=bleu", "evaluation.metrics=[chrf]"], ["training.metric is 'bleu'"]),
        (SMALLEST, ["model.tie_embeddings=true", "data.vocabulary.shared=false"], ["data.vocabulary.shared"]),
        (SMALLEST, ["model.tie_embeddings=true", "model.decoder.embedding=7"], ["(256)", "(7)"]),
    ],
)
def test_a_mistake_gets_one_sentence(config, text, overrides, words):
    if not words:
        assert load_config(config(text), overrides).seed == 2
        return
    with pytest.raises(UserError) as caught:
        load_config(config(text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_dict_or_a_config_is_a_config_too(config):
    made = load_config({"task": "translation", "data": {"source": "dates"}}, ["model.encoder.layers=2"])
    assert (made.name, made.model.encoder.layers) == ("translation", 2)
    assert load_config(made, ["name=small", "model.encoder.layers=1"]) == load_config(config())


def test_a_stored_config_names_its_format(config):
    loaded = load_config(config())
    stored = config(dump_stored_config(loaded), "stored.yaml")
    assert stored.read_text(encoding="utf-8").startswith("format: 1\n")
    assert load_stored_config(stored, ["seed=5"]) == loaded.model_copy(update={"seed": 5})
    with pytest.raises(UserError, match=r"has no format number; this version of unrolled reads format 1"):
        load_stored_config(config(dump_config(loaded), "old.yaml"))


def test_missing_foreign_and_unreadable_files(config, tmp_path):
    config()
    with pytest.raises(UserError, match=r"no such config file\. Did you mean"):
        load_config(tmp_path / "smal.yaml")
    with pytest.raises(UserError, match="is a folder"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("task: ü".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_a_folder_is_remembered_by_its_full_path(config, tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config(config(), ["data.source=./texts"]).data.source == str(tmp_path / "texts")
    assert load_config(config(), ["data.source=owner/name"]).data.source == "owner/name"


def test_engine_fused_is_known_to_run_what_torch_has_kernels_for():
    assert set(FUSED_CELLS) == {name for name, cell in CELLS.items() if cell.torch_function}


def test_relative_runs_live_under_the_storage_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("UNROLLED_STORAGE", str(tmp_path))
    assert resolve_storage("runs/a") == tmp_path / "runs" / "a"
    assert resolve_storage("/runs/a") == Path("/runs/a")


def test_the_reference_names_every_key():
    table = reference_table()
    for key in ("task", "data.vocabulary.kind", "model.decoder.attention.score", "training.clipping.threshold"):
        assert f"| `{key}` |" in table


def test_smoke_is_small(config):
    tiny = load_config(config()).smoke_version()
    assert isinstance(tiny, Config)
    assert tiny.training.max_steps == 4
