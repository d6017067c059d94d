"""A captioner of drawn scenes that is trained for seconds, and a folder of photographs of which one is broken."""

from __future__ import annotations

from pathlib import Path

from unrolled.api import train
from unrolled.config.captioning import CaptioningConfig
from unrolled.data.builtin_scenes import scenes
from unrolled.run import Run

BROKEN = "broken.png"


def captioner(folder: Path, source: str = "scenes", *, conditioning: str = "attention") -> Run:
    """Trains for an epoch of 48 photographs; the run lands in `folder`."""
    config = CaptioningConfig.model_validate(
        {
            "task": "captioning",
            "name": "gallery",
            "storage": str(folder),
            "data": {"source": source, "limit": 48, "vocabulary": {"min_frequency": 1}},
            "model": {
                "features": {"backbone": "small"},
                "decoder": {"hidden": 16, "embedding": 8, "picture": 8, "conditioning": conditioning},
            },
            "training": {"batch_tokens": 200, "metric": "cider_d", "epochs": 1},
            "decoding": {"max_length": 12},
            "evaluation": {"metrics": ["cider_d", "bleu_1"]},
        }
    )
    return train(config, local=True)


def photographs(folder: Path, splits: tuple[str, ...] = ("train", "validation")) -> Path:
    """Writes an image folder with two captions a photograph; of the last photograph of each split half is missing."""
    for split in splits:
        place = folder / split
        place.mkdir(parents=True)
        lines = ["file_name,captions"]
        for number, scene in enumerate(scenes()[split][:24]):
            name = f"{number:02}.png" if number < 23 else BROKEN
            png = scene.png()
            (place / name).write_bytes(png if number < 23 else png[: len(png) // 2])
            lines += [f'{name},"{scene.caption}"', f'{name},"{scene.caption} on grey"']
        (place / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
