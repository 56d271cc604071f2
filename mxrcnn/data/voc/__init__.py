"""Pascal VOC on disk: `VOC{year}/{Annotations,ImageSets/Main,JPEGImages}`.

`image_sets` finds the images that an image set lists, `annotations` reads their XML files, `load`
makes a Dataset of both. The metrics of VOC live in `mxrcnn.evaluation.voc`.
"""

from mxrcnn.data.reading import VOC_CLASSES
from mxrcnn.data.voc.load import load_voc

__all__ = ["VOC_CLASSES", "load_voc"]
