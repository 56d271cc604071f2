"""compare.html: the images on which two detectors differ most, with both side by side.

The page is one file without scripts: pictures are inside as data, and its content security policy
allows nothing else. Names of files and classes are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from tqdm import tqdm

from mxrcnn import viz
from mxrcnn.config import DataConfig
from mxrcnn.data.images import read_image
from mxrcnn.data.records import DataError, Dataset, Detections, ImageId, ImageRecord
from mxrcnn.evaluation.changes import Change, shown
from mxrcnn.files import atomic_write

if TYPE_CHECKING:
    from mxrcnn.evaluation.compare import Comparison

SIDE, QUALITY = 480, 80  # of a picture: pixels, at most; JPEG
STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 100rem; margin: 0 auto; padding: 1rem }
pre { overflow-x: auto; font-size: 14px }
h2 { font-size: 1rem; overflow-wrap: anywhere; margin-bottom: 0 }
.panes { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr));
  gap: .5rem }
figure { margin: 0 }
img { max-width: 100%; height: auto }
"""


def write_page(
    comparison: Comparison,
    dataset: Dataset,
    sides: Sequence[Mapping[ImageId, Detections]],
    path: Path,
    most: int = 50,
    data: DataConfig = DataConfig(),  # noqa: B008
) -> None:
    """Write the page with the `most` images that changed most. data: how to read image files.

    A picture shows the detections that reach their class's threshold. An image that cannot be read
    has the reason in its place.
    """
    moved = [change for change in comparison.changes if change.size]
    records = {record.image_id: record for record in dataset.records}
    title = f"{comparison.names[0]} and {comparison.names[1]}"
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
    left = len(moved) - min(most, len(moved))
    count = f"{len(moved)} of {comparison.images} images changed."
    count += f" {left} with smaller changes are left out (--pictures)." if left else ""
    with atomic_write(path) as handle:
        handle.write(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width">\n'
            f"<title>{_text(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
            f"<h1>{_text(title)}</h1>\n<p><strong>{_text(comparison.verdict)}</strong></p>\n"
            f'<pre tabindex="0">{_text(comparison.table())}</pre>\n<p>{count} Boxes: detections '
            "that reach the score with the best F1 of their class, by detector; they count as "
            "right from IoU 0.5.</p>\n"
        )
        for change in tqdm(moved[:most], "pictures", leave=False, disable=None):
            record = records[change.image_id]
            handle.write(_section(change, record, comparison, dataset.class_names, sides, data))
        handle.write("</body></html>\n")


def _text(text: str) -> str:
    """Escaped; half of a surrogate pair, which a file's name can have, is not UTF-8."""
    return escape(text.encode("utf-8", "replace").decode("utf-8"))


def _section(
    change: Change,
    record: ImageRecord,
    comparison: Comparison,
    names: Sequence[str],
    sides: Sequence[Mapping[ImageId, Detections]],
    data: DataConfig,
) -> str:
    head = f"<section><h2>{_text(str(record.image_id))} ({_text(record.path.name)})</h2>\n"
    try:
        pixels = read_image(record.path, data.exif_orientation, data.max_image_pixels)
    except (DataError, OSError) as error:
        return f"{head}<p>{_summary(change)}</p><p>No picture: {_text(str(error))}</p></section>\n"
    panes = [("objects", viz.draw_ground_truth(pixels, record, names))]
    for side, found, least in zip("AB", sides, comparison.least):
        kept = shown(found.get(record.image_id, Detections.empty()), least)
        panes.append((side, viz.draw_detections(pixels, kept, names, threshold=0.0)))
    figures = "".join(
        f'<figure><figcaption>{name}</figcaption><img alt="{name} of {_text(record.path.name)}" '
        f'src="{_data(picture)}"></figure>'
        for name, picture in panes
    )
    return f'{head}<p>{_summary(change)}</p><div class="panes">{figures}</div></section>\n'


def _summary(change: Change) -> str:
    return (
        f"{change.objects} objects: found by both {change.both}, only by A {change.only_a}, only "
        f"by B {change.only_b}. False detections: A {change.false_a}, B {change.false_b}."
    )


def _data(picture: Image.Image) -> str:
    """A small copy of the picture as a data URI."""
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
