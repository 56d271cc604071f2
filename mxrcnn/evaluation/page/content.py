"""What the page of a report shows, as one JSON object.

Boxes are rounded to 0.1 pixels, scores to 4 digits. Detections below LEAST_SCORE are left out; the
page says how many. Letters: T thresholds.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image
from tqdm import tqdm

from mxrcnn import __version__
from mxrcnn.config import DataConfig
from mxrcnn.data.identity import DataIdentity
from mxrcnn.data.images import read_image
from mxrcnn.data.records import DataError, Dataset, Detections, ImageId, ImageRecord
from mxrcnn.evaluation.confusion import best_score
from mxrcnn.evaluation.core import without_unannotated
from mxrcnn.evaluation.errors import IGNORED as LEFT_OUT
from mxrcnn.evaluation.errors import RIGHT, Errors, find_errors
from mxrcnn.evaluation.matching import IGNORED, TRUE_POSITIVE, ClassVerdicts, ignored, match_all
from mxrcnn.program import command
from mxrcnn.tables import plain

LEAST_SCORE = 0.05
#: from this score on a wrong detection makes an image worth a picture
WORTH = 0.3
#: images that get a picture at most, the ones with the most errors; and bytes for all pictures
PICTURES, PICTURE_BYTES = 500, 9_000_000
#: a picture's longest side is at most the first of these at which all fit
SIDES, QUALITY = (960, 640, 480, 360, 256, 192, 128), 75
#: points of a curve, at most
POINTS = 200
IOU = 0.5


@dataclass(frozen=True)
class Shown:
    """A test: its data and detections, its report, and how image files are read.

    title: the name of the run. report: what report.json holds. log: rows of log.jsonl. commands:
    what made the report. config: of the run, as it is stored.
    """

    title: str
    dataset: Dataset
    detections: Mapping[ImageId, Detections]
    report: Mapping[str, Any]
    data: DataConfig
    log: Sequence[Mapping[str, Any]] = ()
    commands: Sequence[str] = ()
    config: Mapping[str, Any] | None = None


def content(shown: Shown, folder: Path) -> dict[str, Any]:
    """The page's JSON object. folder: where the page will be, for links to the image files."""
    counted, left_out = without_unannotated(shown.dataset, shown.detections)
    found, low = _rounded(counted)
    errors = find_errors(shown.dataset, found)
    dataset = replace(shown.dataset, records=tuple(map(_rounded_record, shown.dataset.records)))
    images = _images(dataset, found, errors)
    _add_pictures(images, dataset.records, errors, shown.data, folder)
    notes = list(shown.report.get("notes", ()))
    if low:
        notes.append(f"{low} detections with scores below {LEAST_SCORE} are not in this page")
    if left_out:
        notes.append(f"{left_out} detections of classes that their image's file does not annotate")
    without = sum("picture" not in image for image in images)
    if without:
        notes.append(
            f"{without} images have no picture here: they could not be read, or there are "
            f"more than {PICTURES} and they have the fewest errors"
        )
    matched = match_all(dataset.records, counted, dataset.num_classes, IOU)
    return plain(
        {
            "title": shown.title,
            "version": __version__,
            "data_hash": DataIdentity.of(shown.dataset).hash,
            "classes": list(dataset.class_names),
            "report": shown.report,
            "errors": shown.report.get("errors") or errors.to_json(),
            "curves": dict(zip(dataset.class_names, map(curve, matched))),
            "score": round(best_score(dataset, found), 2),
            "images": images,
            "losses": losses(shown.log),
            "notes": notes,
            "commands": list(shown.commands),
            "config": shown.config,
        }
    )


def _rounded(
    detections: Mapping[ImageId, Detections],
) -> tuple[dict[ImageId, Detections], int]:
    """Detections as the page has them, and the number of those that score too low for it."""
    kept, low = {}, 0
    for image, found in detections.items():
        high = found[np.asarray(found.scores) >= LEAST_SCORE]
        low += len(found) - len(high)
        boxes = np.round(np.asarray(high.boxes, np.float64).reshape(-1, 4), 1)
        scores = np.round(np.asarray(high.scores, np.float64), 4)
        kept[image] = Detections(boxes, scores, high.classes)
    return kept, low


def _rounded_record(record: ImageRecord) -> ImageRecord:
    return replace(record, boxes=np.round(np.asarray(record.boxes, np.float64), 1))


def _images(
    dataset: Dataset, detections: Mapping[ImageId, Detections], errors: Errors
) -> list[dict[str, Any]]:
    """Each image with its objects [x1, y1, x2, y2, class, ignored (0 or 1)] and detections
    [x1, y1, x2, y2, class, score, kind]."""
    kinds = iter(errors.of_detections)
    images = []
    for record in dataset.records:
        found = detections.get(record.image_id, Detections.empty())
        objects = [
            [*box, int(number), int(left_out)]
            for box, number, left_out in zip(record.boxes.tolist(), record.classes, ignored(record))
        ]
        rows = [
            [*box, int(number), score, next(kinds)]
            for box, number, score in zip(
                np.reshape(found.boxes, (-1, 4)).tolist(), found.classes, found.scores.tolist()
            )
        ]
        images.append(
            {
                "id": str(record.image_id),
                "name": _utf8(record.path.name),
                "height": record.height,
                "width": record.width,
                "objects": objects,
                "detections": rows,
            }
        )
    return images


def _utf8(text: str) -> str:
    """Half of a surrogate pair, which a file's name can have, is not UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _add_pictures(
    images: list[dict[str, Any]],
    records: Sequence[ImageRecord],
    errors: Errors,
    data: DataConfig,
    folder: Path,
) -> None:
    """Add a small picture to the images with the most errors, and to all a link to the file."""
    for image, record in zip(images, records):
        path = os.path.relpath(record.path.absolute(), folder.absolute())
        image["file"] = quote(os.fsencode(path))
    missed = np.array([state in ("missed", "mendable") for state in errors.of_objects], bool)
    ends = np.cumsum([len(image["objects"]) for image in images])
    wrong = [
        sum(row[6] not in (RIGHT, LEFT_OUT) and row[5] >= WORTH for row in image["detections"])
        + int(missed[end - len(image["objects"]) : end].sum())
        for image, end in zip(images, ends)
    ]
    chosen = np.argsort(-np.array(wrong, np.int64), kind="stable")[:PICTURES]
    budget = PICTURE_BYTES // max(1, len(chosen))
    for place in tqdm(sorted(chosen.tolist()), "report", leave=False, disable=None):
        try:
            pixels = read_image(records[place].path, data.exif_orientation, data.max_image_pixels)
        except (DataError, OSError) as error:
            images[place]["problem"] = _utf8(str(error))
            continue
        images[place]["picture"] = picture(pixels, budget)


def picture(pixels: np.ndarray, most: int) -> str:
    """A JPEG of an image as a data URI, as large as `most` bytes allow."""
    image = Image.fromarray(pixels)
    for side in SIDES:
        small = image.copy()
        small.thumbnail((side, side))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=QUALITY)
        if buffer.tell() <= most * 3 // 4:  # base64 needs a third more
            break
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def curve(verdicts: ClassVerdicts) -> dict[str, Any]:
    """A class at up to POINTS scores, highest first: score, right, shown (T,); and objects.

    At a threshold of `score`, `shown` detections count, and `right` of them find an object.
    """
    counted = verdicts.verdicts != IGNORED
    scores = np.asarray(verdicts.scores)[counted]
    right = np.cumsum(verdicts.verdicts[counted] == TRUE_POSITIVE)
    ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], [True] * bool(len(scores))))
    if len(ends) > POINTS:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, POINTS).round().astype(int))]
    return {
        "objects": int((~verdicts.gt_ignored).sum()),
        "score": np.round(scores[ends], 4).tolist(),
        "right": right[ends].tolist(),
        "shown": (ends + 1).tolist(),
    }


def losses(log: Iterable[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """[step, value] by name of the losses in a training log; of many rows, evenly spread ones."""
    rows = {row["step"]: row for row in log if row.get("kind") == "train" and "step" in row}
    steps = sorted(rows)
    if len(steps) > POINTS:
        steps = [steps[i] for i in np.linspace(0, len(steps) - 1, POINTS).round().astype(int)]
    names = dict.fromkeys(name for row in rows.values() for name in row if name.endswith("Loss"))
    series = {
        name: [[step, rows[step][name]] for step in steps if _is_number(rows[step].get(name))]
        for name in names
    }
    return {name: points for name, points in series.items() if points}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and bool(np.isfinite(value))


def run_commands(run: str | Path, imageset: str) -> list[str]:
    """The commands that train, test and report a run once more."""
    where = ("--imageset", imageset) if imageset else ()
    again = command("train", "--config", Path(run) / "config.json", "--out", "AGAIN")
    return [again, command("test", run, *where), command("report", run, *where)]
