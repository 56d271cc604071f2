"""XML: Pascal VOC's annotation files, and CVAT's file 1.1 "for images"."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

import numpy as np

from mxrcnn.data.voc.write import annotation_xml, escaped
from mxrcnn.files import atomic_write
from mxrcnn.inference.outputs.result import Output, Result, Writer
from symnet.geometry.masks import decode


@contextmanager
def voc_files(output: Output) -> Iterator[Writer]:
    """voc/STEM.xml: corners are whole pixels, 1-based and inclusive. An object has its `score`."""

    def write(result: Result) -> None:
        found = result.found
        scores = found.scores.tolist()
        text = annotation_xml(result.name, found.size, found.names, found.boxes, scores=scores)
        with atomic_write(output.folder / "voc" / f"{result.stem}.xml") as file:
            file.write(text)

    yield write


@contextmanager
def cvat_file(output: Output) -> Iterator[Writer]:
    """cvat.xml, with the score of each shape as its attribute `score`.

    Shapes are masks if the detector finds them (boxes if they are empty), or polygons with
    `output.polygons`, else boxes. The task in CVAT needs these labels; if they have a text
    attribute `score`, it is shown. See CVAT's "XML annotation format" 1.1.
    """
    count = 0
    path = output.folder / "cvat.xml"
    with (
        TemporaryFile("w+", encoding="utf-8", dir=path.parent) as images,
        atomic_write(path) as file,
    ):

        def write(result: Result) -> None:
            nonlocal count
            height, width = result.found.size
            place = f'id="{count}" name="{escaped(result.name)}"'
            images.write(f'  <image {place} width="{width}" height="{height}">\n')
            images.writelines(_cvat_shapes(result, output.polygons))
            images.write("  </image>\n")
            count += 1

        yield write
        file.write(_cvat_head(output, count))  # the count stands first, and is known last
        images.seek(0)
        shutil.copyfileobj(images, file)
        file.write("</annotations>\n")


def _cvat_head(output: Output, count: int) -> str:
    score = (
        "<attributes><attribute><name>score</name><mutable>False</mutable>"
        "<input_type>text</input_type><default_value></default_value><values></values>"
        "</attribute></attributes>"
    )
    labels = "\n".join(
        f"    <label><name>{escaped(name)}</name>{score}</label>" for name in output.class_names
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f"  <meta><task>\n    <name>{escaped(output.model)}</name><size>{count}</size>"
        f"<mode>annotation</mode>\n    <labels>\n{labels}\n    </labels>\n  </task></meta>\n"
    )


def _cvat_shapes(result: Result, polygons: bool) -> Iterator[str]:
    found = result.found
    for i, (name, score, box) in enumerate(zip(found.names, found.scores, found.boxes.tolist())):
        kind, place = "box", 'xtl="{:.2f}" ytl="{:.2f}" xbr="{:.2f}" ybr="{:.2f}"'.format(*box)
        if polygons:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in result.rings[i].tolist())
            kind, place = "polygon", f'points="{points}"'
        elif found.masks is not None:
            bits = decode(found.masks[i], *found.size)
            if bits.any():
                kind, place = "mask", cvat_mask(bits)
        label = f'label="{escaped(name)}" source="auto" occluded="0"'
        yield f'    <{kind} {label} {place} z_order="0">\n'
        yield f'      <attribute name="score">{score:.6f}</attribute>\n    </{kind}>\n'


def cvat_mask(bits: np.ndarray) -> str:
    """A mask (H, W) bool, not empty, as CVAT's attributes: its rectangle, and runs by row.

    The first run is of background.
    """
    rows, columns = (np.flatnonzero(bits.any(axis=axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    part = bits[top : rows[-1] + 1, left : columns[-1] + 1]
    flat = np.concatenate([[False], part.ravel(), [not part[-1, -1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(ends, prepend=0)
    height, width = part.shape
    rle = ", ".join(map(str, runs.tolist()))
    return f'rle="{rle}" left="{left}" top="{top}" width="{width}" height="{height}"'
