"""The tests of two runs as `mxrcnn test` wrote them, and the data that both were tested on."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.config import Config, ConfigError, DataConfig, make_config, override
from mxrcnn.data import open_dataset
from mxrcnn.data.identity import DataIdentity, differences
from mxrcnn.data.records import DataError, Dataset, Detections, ImageId
from mxrcnn.evaluation.run import choose_imageset, open_tested
from mxrcnn.evaluation.submission import DATA, RESULTS
from mxrcnn.files import safe_name
from mxrcnn.program import command
from mxrcnn.runs.checkpoint import RunFolder


@dataclass(frozen=True)
class Tested:
    """Where a test's results are.

    place: as the user gave it. run: the run's folder, or None. file: the COCO results. imageset: of
    the run. identity: of the data it was tested on, or None if the test does not say.
    """

    __test__ = False  # tell pytest that this is not a test class

    place: str
    run: Path | None
    file: Path
    imageset: str
    identity: DataIdentity | None

    @property
    def test_command(self) -> str:
        """The command that tests the run."""
        return command("test", self.place, "--imageset", self.imageset)


def find_tested(place: str, imageset: str | None, settings: Mapping[str, Any]) -> Tested:
    """The test at a place: a run's folder, a test's folder, or a file of COCO results.

    imageset: which of a run's tests; default: of its validation images. Raises ConfigError if the
    place is none of these or if the run was not tested on the image set, and DataError for an
    identity that cannot be read.
    """
    path = Path(place)
    if path.is_file():
        return Tested(place, None, path, "", None)
    if (path / RESULTS).is_file():
        return Tested(place, None, path / RESULTS, "", _identity(path))
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"{place} is not a run, a folder that {command('test')} wrote, or a file of COCO "
            f"results: it has neither config.json nor {RESULTS}"
        )
    name = choose_imageset(override(RunFolder(path).config(), settings), imageset)
    folder = path / f"test_{safe_name(name)}"
    found = Tested(place, path, folder / RESULTS, name, None)
    if not found.file.is_file():
        hint = f"test it: {found.test_command}"
        raise ConfigError(f"{place} was not tested on {name} (no {found.file}); {hint}")
    return Tested(place, path, found.file, name, _identity(folder))


def _identity(folder: Path) -> DataIdentity | None:
    path = folder / DATA
    if not path.is_file():
        return None  # written by a version from before this file
    try:
        return DataIdentity.from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DataError(path, str(error)) from error


def open_truth(
    sides: Sequence[Tested], settings: Mapping[str, Any], imageset: str | None
) -> tuple[Dataset, DataConfig, list[str]]:
    """The data that all sides were tested on, how to read them, and what could not be checked.

    settings: those given, such as data.root. Raises ConfigError if the sides were tested on
    different images, objects or classes, or on others than the data hold now, and says which; and
    if none is a run and no data are given. Raises as `open_dataset` does.
    """
    runs = [side for side in sides if side.run is not None]
    if not runs and "data.root" not in settings:
        raise ConfigError(
            "neither is a run, so the objects are not known: give the data with --data PATH"
        )
    if runs:
        opened = [(side, *_open_run(side, settings, imageset)) for side in runs]
        (first, config, dataset), *rest = opened
        for side, _, other in rest:
            _must_be_same(first.place, DataIdentity.of(dataset), side.place, DataIdentity.of(other))
    else:
        names = next((s.identity.class_names for s in sides if s.identity), ("auto",))
        config = override(make_config(), {**settings, "data.class_names": tuple(names)})
        dataset = open_dataset(config.data, choose_imageset(config, imageset))
    now = DataIdentity.of(dataset)
    known = [(side, side.identity) for side in sides if side.identity is not None]
    for (side, before), (other, after) in zip(known, known[1:]):
        _must_be_same(side.place, before, other.place, after)
    for side, before in known:
        changes = differences(before, now)
        if changes:
            again = side.test_command if side.run else "test it again"
            raise ConfigError(
                f"{side.place} was tested on other data than {dataset.name} is now: "
                f"{'; '.join(changes)}. If these data are the right ones: {again}; otherwise give "
                "the ones it was tested on with --data PATH"
            )
    notes = [
        f"{side.place} does not say which objects it was tested on: only its image and category "
        "ids were checked"
        for side in sides
        if side.identity is None
    ]
    return dataset, config.data, notes


def _open_run(
    side: Tested, settings: Mapping[str, Any], imageset: str | None
) -> tuple[Config, Dataset]:
    config = override(RunFolder(side.run).config(), settings)
    return config, open_tested(config, settings, imageset, side.run)[1]


def _must_be_same(a: str, before: DataIdentity, b: str, now: DataIdentity) -> None:
    changes = differences(before, now)
    if changes:
        raise ConfigError(
            f"{a} and {b} were not tested on the same data. From the first to the second: "
            f"{'; '.join(changes)}. Test both on the same image set, with the same classes"
        )


def read_results(path: Path, dataset: Dataset) -> dict[ImageId, Detections]:
    """Detections by image from a file of COCO results, best first.

    Raises DataError, with the place in the file, for results that are not valid, of an image or
    category that is not in the data set, or with a number that is not finite.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"not JSON: {error}") from error
    if not isinstance(rows, list):
        raise DataError(path, f"not a list of COCO results but {type(rows).__name__}")
    ids = dataset.category_ids or tuple(range(1, dataset.num_classes))
    number = {category: k for k, category in enumerate(ids, 1)}
    images = {record.image_id for record in dataset.records}
    groups: dict[ImageId, list[tuple[Any, ...]]] = defaultdict(list)
    for index, row in enumerate(rows):
        try:
            image, category = row["image_id"], row["category_id"]
            x, y, width, height = map(float, row["bbox"])
            score = float(row["score"])
            known = image in images, category in number
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(path, f"result {index} is not a COCO result: {error!r}") from error
        if not all(known):
            what = f"category {category!r}" if known[0] else f"image {image!r}"
            raise DataError(path, f"result {index}: {what} is not in {dataset.name}")
        if not all(map(math.isfinite, (x, y, width, height, score))):
            raise DataError(path, f"result {index}: a box or score that is not finite")
        box = x, y, x + width, y + height
        groups[image].append((box, score, number[category], row.get("segmentation")))
    return {image: _detections(rows) for image, rows in groups.items()}


def _detections(rows: Sequence[tuple[Any, ...]]) -> Detections:
    """Stable by score, so that equal ones keep the file's order."""
    boxes, scores, classes, masks = zip(*sorted(rows, key=lambda row: -row[1]))
    return Detections(
        np.array(boxes, np.float64),
        np.array(scores, np.float64),
        np.array(classes, np.int64),
        masks if all(masks) else None,
    )
