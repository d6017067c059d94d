"""Task pointing: regions, batches, choices."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

import unrolled
from unrolled.cli import main
from unrolled.config import PointingConfig
from unrolled.config.load import load_config
from unrolled.config.vqa import PointingData
from unrolled.data.batching import find_candidates
from unrolled.data.image_sets import candidate_regions, open_photos, region_crops
from unrolled.data.question_readers import open_questions
from unrolled.data.visual7w_results import read_boxes
from unrolled.errors import UserError
from unrolled.models.region_pointer import RegionEncoder, Regions
from unrolled.recurrence import Dropout
from unrolled.tasks import make_task, prepare

COLOURS = ("red", "green", "blue", "yellow")
SMALL = {
    "features": {"backbone": "small", "grid": 7},
    "encoder": {"size": 8},
    "question": {"hidden": 12, "embedding": 8, "dropout": 0.0},
    "regions": {"dropout": 0.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Visual7W's files: photographs of four coloured squares, a question each about one of them."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "images").mkdir()
    images, boxes = [], []
    for number in range(12):
        generator = random.Random(number)
        photo = Image.new("RGB", (80, 60), (200, 200, 200))
        colours = generator.sample(COLOURS, 4)
        ids = []
        for place, colour in enumerate(colours):
            x, y = 4 + 40 * (place % 2), 4 + 30 * (place // 2)
            ImageDraw.Draw(photo).rectangle((x, y, x + 19, y + 14), colour)
            ids.append(10 * number + place)
            box = {"box_id": ids[-1], "image_id": number, "name": colour}
            boxes.append(box | {"x": x, "y": y, "width": 20, "height": 15})
        photo.save(folder / "images" / f"v7w_{number}.png")
        right = generator.randrange(4)
        wrong = [id for id in ids if id != ids[right]][: 3 if number % 3 else 2]
        pair = {"qa_id": number, "image_id": number, "type": "which", "question": f"Which is {colours[right]}?"}
        pair |= {"answer": ids[right], "multiple_choices": wrong}
        split = "train" if number < 8 else "val"
        images.append({"image_id": number, "filename": f"v7w_{number}.png", "split": split, "qa_pairs": [pair]})
    content = {"dataset": "squares", "images": images, "boxes": boxes}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _config(folder: Path, storage: Path, **changes) -> PointingConfig:
    data = {"source": str(folder), "splits": {"validation": "val", "test": "val"}}
    training = {"epochs": 1, "batch_tokens": 12, "precision": "float64", "optimizer": {"learning_rate": 0.01}}
    values = {"task": "pointing", "name": "squares", "storage": str(storage), "data": data | changes.pop("data", {})}
    values["model"] = SMALL | changes.pop("model", {})
    return PointingConfig.model_validate(values | {"training": training | changes})


def _task(config: PointingConfig, tmp_path: Path):
    data = prepare(config)
    data.save(tmp_path / "vocabulary")
    torch.manual_seed(1)
    task = make_task(config, tmp_path / "vocabulary")
    return task, data, task.build_model().double()


ALIGN = {"regions": {"by": "align", "dropout": 0.0}}


@pytest.mark.parametrize("model", [{}, ALIGN, {"attention": False}, {"sees": "question"}, {"sees": "picture"}])
def test_shuffled_candidates_never_change_a_choice(folder, tmp_path, model):
    task, _, net = _task(_config(folder, tmp_path, model=model), tmp_path)
    opened = task.open("train")
    first = task.evaluate_shard(net, opened, 0, 1)
    generator = random.Random(3)
    shuffled = []
    for question in opened.questions:
        order = generator.sample(range(len(question.choices)), len(question.choices))
        choices = tuple(question.choices[place] for place in order)
        shuffled.append(replace(question, choices=choices, answer_index=choices.index(question.answer)))
    again = task.evaluate_shard(net, replace(opened, questions=shuffled), 0, 1)
    for one, other in zip(first, again, strict=True):
        assert one.chosen == other.chosen
        shares = dict(zip(one.question.choices, one.prediction.probabilities, strict=True))
        assert shares == dict(zip(other.question.choices, other.prediction.probabilities, strict=True))


def test_equal_regions_are_chosen_alike_in_every_order(folder, tmp_path):
    task, _, net = _task(_config(folder, tmp_path), tmp_path)
    torch.nn.init.zeros_(net.regions.map.weight)
    opened = task.open("train")
    turned = [
        replace(each, choices=each.choices[::-1], answer_index=each.choices[::-1].index(each.answer))
        for each in opened.questions
    ]
    again = task.evaluate_shard(net, replace(opened, questions=turned), 0, 1)
    assert [one.chosen for one in task.evaluate_shard(net, opened, 0, 1)] == [one.chosen for one in again]


def test_padding_candidates_never_change_a_probability(folder, tmp_path):
    """Questions with three candidates, alone and beside those with four."""
    task, data, net = _task(_config(folder, tmp_path), tmp_path)
    opened = task.open("train")
    together = task.evaluate_shard(net, opened, 0, 1)
    for place, question in enumerate(opened.questions):
        (alone,) = task.evaluate_shard(net, replace(opened, questions=[question]), 0, 1)
        assert alone.prediction.probabilities == pytest.approx(together[place].prediction.probabilities, abs=1e-12)
    assert {len(one.question.choices) for one in together} == {3, 4}
    losses = [-torch.tensor(one.prediction.probabilities[one.question.answer_index]).log() for one in together]
    for batch in task.plan(data, 0):
        (window_loss,) = task.losses(net, batch.shard(0, 1), None)
        ids = {question.id for question in batch.corpus.questions(batch.rows)}
        own = [loss for one, loss in zip(together, losses, strict=True) if one.question.id in ids]
        assert float(window_loss.loss) == pytest.approx(float(sum(own)), abs=1e-5)


@pytest.mark.parametrize("changes", [{}, {"against": "batch"}, {"model": ALIGN}])
def test_two_workers_add_up_to_one(folder, tmp_path, changes):
    task, data, net = _task(_config(folder, tmp_path, **changes), tmp_path)
    for batch in task.plan(data, 0):
        shards = [shard for rank in range(2) if (shard := batch.shard(rank, 2)) is not None]
        whole = _gradients(net, task, [batch.shard(0, 1)])
        for name, gradient in _gradients(net, task, shards).items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-9, atol=1e-12)
        assert sum(map(len, shards)) == batch.tokens


def _gradients(net, task, shards):
    net.zero_grad()
    for shard in shards:
        for window_loss in task.losses(net, shard, None):
            window_loss.loss.backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}


def test_steps_by_hand_and_by_autograd_are_the_same(folder, tmp_path):
    grown = []
    for engine in ("auto", "autograd"):
        task, data, net = _task(_config(folder, tmp_path, model={"engine": engine}), tmp_path)
        grown.append(_gradients(net, task, [batch.shard(0, 1) for batch in task.plan(data, 0)]))
    for name, gradient in grown[0].items():
        torch.testing.assert_close(gradient, grown[1][name], rtol=1e-9, atol=1e-11)


def test_a_score_is_the_product_of_state_and_region():
    """By hand: f = (1, 3) is (−1, 1) brought to mean 0 and variance 1; W swaps, P adds left edge and area."""
    encoder = RegionEncoder(2, 2, 1, use_location=True, dropout=Dropout(0.0)).double()
    with torch.no_grad():
        encoder.map.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        encoder.map.bias.copy_(torch.tensor([0.0, 0.5]))
        encoder.location.weight.copy_(torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 1.0]]))
    features = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    edges = torch.tensor([[0.25, 0.0, 0.75, 0.5]], dtype=torch.float64)
    vector = encoder(Regions(features, edges, torch.zeros(1, dtype=torch.long)), torch.zeros(1, 1, 2))
    torch.testing.assert_close(vector, torch.tensor([[1.25, -0.25]], dtype=torch.float64), rtol=0, atol=1e-5)


def test_a_region_is_read_off_its_place_of_the_grid():
    encoder = RegionEncoder(4 * 2, 3, 2, use_location=False, dropout=Dropout(0.0))
    grid = torch.arange(16.0).view(1, 16, 1) * torch.tensor([1.0, -1.0])
    whole, corner = (
        encoder._read_off(Regions(None, torch.tensor([edges]), torch.zeros(1, dtype=torch.long)), grid)
        for edges in ((0.0, 0.0, 1.0, 1.0), (0.5, 0.5, 1.0, 1.0))
    )
    assert whole.view(2, 2, 2)[1].equal(-whole.view(2, 2, 2)[0])
    # Each of the four points of the lower right quarter stands in one position: 10, 11, 14, 15.
    assert corner.view(2, 4)[0].tolist() == pytest.approx([10.0, 11.0, 14.0, 15.0], abs=0.7)
    assert corner.view(2, 4)[0].mean() > whole.view(2, 4)[0].mean()


def test_candidates_are_found_among_the_regions():
    found = find_candidates([("b", "a"), ("c", "a", "b")], [1, -1], ["a", "b", "c"])
    assert found.indices.tolist() == [[1, 0, 0], [2, 0, 1]]
    assert found.mask.tolist() == [[True, True, False], [True, True, True]]
    assert found.correct.tolist() == [1, 0]


def test_crops_show_their_region_alone(folder):
    asked = open_questions(PointingData(source=str(folder)), "train")
    cut = region_crops(asked, 0.0)
    regions = candidate_regions(asked)
    assert list(cut.names) == list(regions)
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    names = {str(box["box_id"]): box["name"] for box in content["boxes"]}
    for name, image in zip(cut.names, cut.images, strict=True):
        photo = Image.open(io.BytesIO(image))
        assert photo.size == (20, 15)
        assert photo.getpixel((10, 7)) == Image.new("RGB", (1, 1), names[name]).getpixel((0, 0))
    wider = region_crops(asked, 0.1)
    assert wider.fingerprint != cut.fingerprint
    assert Image.open(io.BytesIO(wider.images[0])).size[0] > 20


def test_folds_share_the_regions(folder):
    data = PointingData(source=str(folder), splits={"train": "train", "validation": "val", "test": "val"}, folds=3)
    folds = [data.model_copy(update={"fold": fold}) for fold in range(3)]
    assert len({open_photos(fold, "regions of train").fingerprint for fold in folds}) == 1


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> unrolled.Run:
    storage = tmp_path_factory.mktemp("runs")
    config = _config(folder, storage, epochs=30, precision="float32", metric="multiple_choice")
    return unrolled.train(config, local=True)


def test_learns_evaluates_and_points(run, folder, tmp_path, capsys):
    report = run.evaluate("validation", local=True)
    assert report.scores["multiple_choice"] >= 50
    kept = report.path.parent
    rows = [json.loads(line) for line in (kept / "outputs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 4
    toolkit = json.loads((kept / "visual7w.json").read_text(encoding="utf-8"))
    assert [str(row["candidates"][0]["answer"]) for row in toolkit] == [row["chosen"] for row in rows]
    page = report.path.read_text(encoding="utf-8")
    assert all(word in page for word in ("The largest region", "Chance", 'class="region'))

    photo, boxes = str(folder / "images" / "v7w_9.png"), tmp_path / "boxes.json"
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    own = [box for box in content["boxes"] if box["image_id"] == 9]
    boxes.write_text(json.dumps({"boxes": own}), encoding="utf-8")
    capsys.readouterr()
    assert main(["generate", str(run.path), photo, "Which is red?", "--boxes", str(boxes)]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert sum(float(share) for share, *_ in lines) == pytest.approx(1, abs=1e-3)
    assert sorted(int(number) for _, number, _ in lines) == [1, 2, 3, 4]


def test_two_runs_point_with_the_mean_of_their_probabilities(run, folder, tmp_path):
    other = unrolled.train(_config(folder, tmp_path, epochs=5).model_copy(update={"seed": 2}), local=True)
    photo, boxes = str(folder / "images" / "v7w_9.png"), [(4, 4, 20, 15), (44, 4, 20, 15), (4, 34, 20, 15)]
    each = [one.point(photo, ["Which is red?"], boxes)[0].probabilities for one in (run, other)]
    (together,) = run.point(photo, ["Which is red?"], boxes, ensemble=[other])
    assert each[0] != pytest.approx(each[1], abs=1e-3)
    assert together.probabilities == pytest.approx([sum(pair) / 2 for pair in zip(*each, strict=True)], abs=1e-6)
    report = run.evaluate("validation", local=True, ensemble=[other])
    assert report.path.parent.name == f"validation-with-{other.path.name}" and "multiple_choice" in report.scores


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[[1, 2, 3]]", "box 1: [1, 2, 3] is not x, y, width and height"),
        ("[[0, 0, 0, 5]]", "holds no pixel"),
        ('{"photo": 1}', "holds no list of boxes"),
        ("[[0, 0, 10, 10], [70, 0, 20, 10]]", "reaches beyond"),
        ("[[0, 0, 10, 10]]", "two boxes or more"),
    ],
)
def test_boxes_that_cannot_be_used(run, folder, tmp_path, capsys, content, says):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(content, encoding="utf-8")
    photo = str(folder / "images" / "v7w_9.png")
    assert main(["generate", str(run.path), photo, "Which is red?", "--boxes", str(boxes)]) == 2
    assert says in capsys.readouterr().err


def test_boxes_of_no_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_boxes(tmp_path / "boxes.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("model.features.fine_tune=true", "accepted is 'align'"),
        ("model.features.grid=1", "model.attention needs positions"),
        ("data.captions=true", "model.sees must be 'question'"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, change, says):
    path = tmp_path / "pointing.yaml"
    path.write_text("task: pointing\ndata: {source: scenes}\n", encoding="utf-8")
    with pytest.raises(UserError, match=says):
        load_config(path, [change])
