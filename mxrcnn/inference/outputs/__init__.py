"""Writes detections as other tools read them: COCO, CSV, YOLO, VOC, Label Studio, CVAT, pictures.

`result` holds what a writer gets. Each other module holds writers; `WRITERS` names them all.
Writers stream: no more than one image's detections are in memory. A format of one file is whole or
not there at all; a format of one file an image has those that were finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from mxrcnn.config import ConfigError
from mxrcnn.inference.outputs.coco import Ids, coco_file
from mxrcnn.inference.outputs.labelstudio import labelstudio_file
from mxrcnn.inference.outputs.pictures import crop_files, drawn_files
from mxrcnn.inference.outputs.result import Names, Output, Result, Writer
from mxrcnn.inference.outputs.text import csv_file, yolo_files
from mxrcnn.inference.outputs.xml import cvat_file, voc_files

__all__ = ["WRITERS", "Ids", "Names", "Output", "Result", "open_writers"]

WRITERS = {
    "coco": coco_file,
    "csv": csv_file,
    "yolo": yolo_files,
    "voc": voc_files,
    "labelstudio": labelstudio_file,
    "cvat": cvat_file,
    "draw": drawn_files,
    "crops": crop_files,
}


@contextmanager
def open_writers(formats: Iterable[str], output: Output) -> Iterator[Writer]:
    """A function that writes a Result in all these formats; their files are complete at the end.

    Raises ConfigError for an unknown format, or if the folder cannot be made.
    """
    formats = list(dict.fromkeys(formats))
    unknown = [name for name in formats if name not in WRITERS]
    if unknown:
        raise ConfigError(f"no output format {unknown[0]!r}; there are: {', '.join(WRITERS)}")
    if formats:
        try:
            output.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{output.folder}: cannot be made a folder: {error}") from None
    with ExitStack() as stack:
        writers = [stack.enter_context(WRITERS[name](output)) for name in formats]

        def write(result: Result) -> None:
            for writer in writers:
                writer(result)

        yield write
