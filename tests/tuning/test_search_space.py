"""The space of a sweep: points, samplers, and a sentence for every mistake."""

from __future__ import annotations

import json
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_sweeps import MEMORY, write_config
from unrolled.cli import main
from unrolled.config import Parameter, Tuning
from unrolled.config.load import load_config
from unrolled.errors import UserError
from unrolled.tuning.samplers import FixedSampler, TPESampler, random_points
from unrolled.tuning.search_space import check_space, dependency_order, grid_points, is_active, perturb, sample_value


@st.composite
def spaces(draw):
    """Spaces of up to four keys, each of which may depend on those before it."""
    space: dict[str, Parameter] = {}
    for name in ("one", "two", "three", "four")[: draw(st.integers(1, 4))]:
        kind = draw(st.sampled_from(["choice", "grid", "uniform", "loguniform", "randint"]))
        if kind in ("choice", "grid"):
            given = draw(st.lists(st.sampled_from([0, 1, "a", "b", None]), min_size=1, max_size=3, unique=True))
        else:
            low = draw(st.integers(1, 5))
            given = [low, low + draw(st.integers(1, 3))]
        discrete = [other for other, parameter in space.items() if parameter.kind in ("choice", "grid")]
        when = {}
        if discrete and draw(st.booleans()):
            other = draw(st.sampled_from(discrete))
            when = {other: draw(st.lists(st.sampled_from(space[other].values), min_size=1, unique=True))}
        space[name] = Parameter.model_validate({kind: given, "when": when}, strict=False)
    return space


def belongs(space, point):
    """Whether exactly the active keys have values, and allowed ones."""
    for key, parameter in space.items():
        if (key in point) != is_active(parameter, point):
            return False
        if key in point and parameter.values is not None and point[key] not in parameter.values:
            return False
        if key in point and parameter.values is None and not parameter.given[0] <= point[key] <= parameter.given[1]:
            return False
    return True


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 99))
def test_random_points_lie_in_the_space_and_none_comes_twice(space, seed):
    points = [point for point, _ in zip(random_points(space, seed), range(12), strict=False)]
    assert points and all(belongs(space, point) for point in points)
    assert all(point not in points[:place] for place, point in enumerate(points))
    again = [point for point, _ in zip(random_points(space, seed), range(12), strict=False)]
    assert again == points


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 99))
def test_neighbours_lie_in_the_space(space, seed):
    generator, point = random.Random(seed), next(random_points(space, seed))
    for _ in range(5):
        point = perturb(space, point, generator)
        assert belongs(space, point)


@settings(max_examples=60, deadline=None)
@given(spaces())
def test_a_grid_has_every_point_once(space):
    space = {key: parameter for key, parameter in space.items() if parameter.values is not None}
    space = {key: parameter for key, parameter in space.items() if parameter.when.keys() <= space.keys()}
    points = list(grid_points(space))
    assert all(belongs(space, point) for point in points)
    assert all(point not in points[:place] for place, point in enumerate(points))
    found = list(random_points(space, 1)) if len(points) < 30 else points
    assert len(found) == len(points)  # chance exhausts a small space, too


@settings(max_examples=20, deadline=None)
@given(spaces(), st.integers(1, 8))
def test_tpe_goes_on_from_what_is_known(space, count):
    first = TPESampler(space, ["minimize", "maximize"], 1)
    points = []
    for number in range(count):
        if (point := first.ask()) is None:
            break
        points.append(point)
        assert belongs(space, point)
        first.tell(number, None if number % 3 == 0 else [number, -number])
    again = TPESampler(space, ["minimize", "maximize"], 1)
    for number, point in enumerate(points):
        again.restore(point)
        again.tell(number, [number, -number])
    more = again.ask()
    assert more is None or (belongs(space, more) and more not in points)


def test_the_grid_kind_is_spread_evenly_whatever_the_sampler():
    tuning = Tuning.model_validate({"space": {"a": {"grid": ["x", "y", "z"]}, "b": {"uniform": [0, 1]}}})
    for sampler in (FixedSampler(random_points(tuning.space, 1)), TPESampler(tuning.space, ["minimize"], 1)):
        points = [sampler.ask() for _ in range(9)]
        assert [point["a"] for point in points] == ["x", "y", "z"] * 3


def test_a_logarithmic_key_is_uniform_in_its_logarithm():
    parameter = Parameter.model_validate({"loguniform": [0.01, 100]})
    generator = random.Random(1)
    below = sum(sample_value(parameter, generator) < 1 for _ in range(2000))
    assert math.isclose(below / 2000, 0.5, abs_tol=0.05)


def test_keys_come_after_those_that_they_depend_on():
    tuning = Tuning.model_validate(
        {"space": {"t": {"uniform": [0, 1], "when": {"c": ["norm"]}}, "c": {"choice": ["norm", "none"]}}}
    )
    assert [key for key, _ in dependency_order(tuning.space)] == ["c", "t"]


RATE, KIND, THRESHOLD = "training.optimizer.learning_rate", "training.clipping.kind", "training.clipping.threshold"


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("model.sell: {choice: [rnn]}", "is not a key of a config of this task. Did you mean 'model.cell'?"),
        ("cell: {choice: [rnn]}", "Did you mean 'model.cell'?"),
        ("model: {choice: [rnn]}", "model is a section; vary a key of it, such as model.cell"),
        ("seed: {choice: [1]}", "seed cannot be varied"),
        ("model.cell: {choice: []}", "model.cell has an empty choice; give one value or more"),
        ("model.cell: {choice: [rnn, rnn]}", "has 'rnn' twice"),
        ("model.cell: {chioce: [rnn]}", "Did you mean 'choice'?"),
        ("model.cell: {}", "give one of choice, grid, uniform, loguniform, randint"),
        ("model.cell: {choice: [rnn], grid: [lstm]}", "has choice and grid"),
        ("model.cell: {choice: [rnn, grru]}", "model.cell is 'grru'; expected one of rnn, irnn, lstm"),
        ("model.dropout: {uniform: [0, 1]}", "less than 1"),
        (f"{RATE}: {{loguniform: [0, 1]}}", "is loguniform from 0; a logarithm needs bounds above 0"),
        ("model.hidden: {randint: [9, 3]}", "the second bound must be the larger one"),
        ("model.hidden: {uniform: [4, 9]}", "model.hidden is 4.0; expected a whole number"),
        (f"{THRESHOLD}: {{uniform: [1, 2], when: {{{KIND}: [norm]}}}}", "which is no other key of the space"),
        (
            "model.cell: {choice: [rnn]}, model.hidden: {choice: [4], when: {model.cell: [lstm]}}",
            "when model.cell is 'lstm', which is none of its values ('rnn')",
        ),
        ("model.engine: {choice: [fused]}, model.cell: {choice: [rnn, mut1]}", "model.engine=fused"),
        ("", "tuning.space is missing"),
    ],
)
def test_a_wrong_space_is_one_sentence_before_anything_starts(tmp_path, capsys, space, words):
    refused(tmp_path, capsys, f"tuning: {{space: {{{space}}}}}\n", words)


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        ("sampler: grid", "tuning.sampler is grid, but model.dropout is uniform"),
        ("metric: blue", "blue is no score of this training, which has loss, mse or tokens_per_second"),
        ("metric: [mse, mse]", "mse is named twice"),
        ("{metric: [tokens_per_second], scheduler: asha}", "comes first"),
        ("scheduler: pbt", "model.dropout cannot change in a trained model"),
        ("grace: 0.9", "tuning.grace is 0.9; expected 0.5 or less"),
        ("trials: 0", "tuning.trials is 0; expected 1 or more"),
    ],
)
def test_a_search_that_cannot_be_is_one_sentence(tmp_path, capsys, tuning, words):
    space = "model.dropout: {uniform: [0, 0.5]}"
    refused(tmp_path, capsys, f"tuning: {{space: {{{space}}}, {tuning.strip('{}')}}}\n", words)


def refused(folder, capsys, tuning, words):
    config = write_config(folder, MEMORY + tuning)
    assert main(["tune", str(config)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (folder / "runs").exists()


def test_other_mistakes(tmp_path, capsys):
    bare = write_config(tmp_path, MEMORY)
    tuned = write_config(tmp_path, MEMORY + "tuning: {space: {model.cell: {choice: [rnn, gru]}}}\n", "tuned.yaml")
    for words, message in [
        ([bare], "tuning.space is missing"),
        ([tuned, "--trials", "0"], "--trials 0: give 1 or more"),
        ([tuned, "--resume"], "there is no sweep to resume"),
        ([tuned, "--workers", "2", "tuning.scheduler=hyperband"], "leave --workers 2 out"),
        ([tuned, "--resume", "--overwrite"], "contradict each other"),
        ([tuned, "tuning.space={model.hidden: {choice: [0]}}"], "model.hidden is 0; expected 1 or more"),
        ([tuned, "tuning.space.model.hidden={choice: [0]}"], "model.hidden is 0; expected 1 or more"),
        ([tuned, "tuning.space.model.hidden={chioce: [0]}"], "Did you mean 'choice'?"),
    ]:
        assert main(["tune", *map(str, words)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_points_that_only_go_wrong_together_are_found(tmp_path):
    space = {"model.engine": {"choice": ["auto", "fused"]}, "model.cell": {"choice": ["rnn", "mut1"]}}
    config = load_config(write_config(tmp_path, MEMORY + f"tuning: {json.dumps({'space': space})}\n"))
    with pytest.raises(UserError, match=r"at the point model.engine=fused, model.cell=mut1"):
        check_space(config, config.tuning.space)
    space["model.engine"]["when"] = {"model.cell": ["rnn"]}
    config = load_config(write_config(tmp_path, MEMORY + f"tuning: {json.dumps({'space': space})}\n"))
    check_space(config, config.tuning.space)


def test_choices_come_equally_often():
    space = {"a": {"choice": ["x", "y", "z"]}, "b": {"choice": [1, None]}, "c": {"uniform": [0, 1]}}
    points = [
        point
        for point, _ in zip(random_points(Tuning.model_validate({"space": space}).space, 4), range(12), strict=False)
    ]
    assert Counter(point["a"] for point in points) == {"x": 4, "y": 4, "z": 4}
    assert Counter(point["b"] for point in points) == {1: 6, None: 6}
