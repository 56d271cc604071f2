"""Label Studio's tasks with predictions ("Import pre-annotated data into Label Studio")."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import numpy as np

from mxrcnn.data.voc.write import escaped
from mxrcnn.files import atomic_write
from mxrcnn.inference.outputs.coco import JsonList
from mxrcnn.inference.outputs.result import Output, Result, Writer


@contextmanager
def labelstudio_file(output: Output) -> Iterator[Writer]:
    """labelstudio.json, to import, and labelstudio.xml, the labelling interface that it is for.

    Regions are boxes, or, with `output.polygons`, the outlines of masks. An image's address is
    `image_url` and its name. A task's score is the mean of its regions' scores; one without regions
    has none.
    """
    kind = "PolygonLabels" if output.polygons else "RectangleLabels"
    labels = "\n".join(f'    <Label value="{escaped(name)}"/>' for name in output.class_names)
    with atomic_write(output.folder / "labelstudio.xml") as file:
        file.write(
            '<View>\n  <Image name="image" value="$image"/>\n'
            f'  <{kind} name="label" toName="image">\n{labels}\n  </{kind}>\n</View>\n'
        )
    with atomic_write(output.folder / "labelstudio.json") as file:
        tasks = JsonList(file)
        yield lambda result: tasks.add(_task(result, output))
        tasks.end()


def _task(result: Result, output: Output) -> dict[str, object]:
    found = result.found
    height, width = found.size
    kind = "polygonlabels" if output.polygons else "rectanglelabels"
    if output.polygons:
        rings = [100 * ring / (width, height) for ring in result.rings]
        values = [{"points": ring.tolist(), "closed": True} for ring in rings]
    else:
        places = percents(found.boxes, height, width).tolist()
        values = [dict(zip(("x", "y", "width", "height"), p), rotation=0) for p in places]
    regions = [
        {
            "id": f"{result.image_id}-{number}",
            "type": kind,
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": score,
            "value": {**value, kind: [name]},
        }
        for number, (name, score, value) in enumerate(
            zip(found.names, found.scores.tolist(), values)
        )
    ]
    prediction: dict[str, object] = {"model_version": output.model, "result": regions}
    if regions:
        prediction["score"] = float(np.mean(found.scores))
    address = output.image_url + quote(result.name)
    return {"data": {"image": address}, "predictions": [prediction]}


def percents(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (D, 4) xyxy as Label Studio's x, y, width, height (D, 4) in percent of the sides."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return 100 * xywh / (width, height, width, height)
