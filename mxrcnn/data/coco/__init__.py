"""COCO detection files: reading, finding and writing them.

`load` makes a Dataset of one file or of several, `files` finds files and image folders in the usual
layouts, `document` reads the JSON and checks its fields, `images`, `objects` and `masks` read those
entries, `write` turns any Dataset into COCO's form. Scores live in `mxrcnn.evaluation.coco`.
"""

from mxrcnn.data.coco.files import resolve_coco
from mxrcnn.data.coco.load import load_coco, load_joined
from mxrcnn.data.coco.write import dataset_to_coco

__all__ = ["dataset_to_coco", "load_coco", "load_joined", "resolve_coco"]
