"""COCO's class names and ids, and the class names implied by a number of classes."""

from __future__ import annotations

import numpy as np

from mxrcnn.data.voc import VOC_CLASSES

#: COCO's 80 categories, in id order
COCO_CLASSES = tuple(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,"
    "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush".split(",")
)
#: the ids from 1 to 90 that COCO does not use
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
#: classes of a network with one class per COCO id, background included
COCO_IDS = 91

#: class lists that --class-names accepts by name
KNOWN_NAMES = {"voc": VOC_CLASSES, "coco": COCO_CLASSES}


def implied_names(num_classes: int) -> tuple[str, ...] | None:
    """The names of classes 1, 2, ... of VOC or COCO; None if neither has that many.

    num_classes includes the background.
    """
    return {len(names) + 1: names for names in KNOWN_NAMES.values()}.get(num_classes)


def gaps_last(values: np.ndarray, per_class: int = 1, keep: bool = False) -> np.ndarray:
    """Remove the rows of COCO's unused ids from an array (91 * per_class, ...) of ids 0-90.

    keep: move them to the end instead.
    """
    rows = values.reshape(COCO_IDS, per_class, *values.shape[1:])
    kept = [np.delete(rows, COCO_GAPS, axis=0)] + [rows[list(COCO_GAPS)]] * keep
    return np.concatenate(kept).reshape(-1, *values.shape[1:])
