"""Average precision of resampled test sets: detections are matched once, images get weights.

Letters: N images, K classes, M metrics, R resamples (columns of weights), D detections of a class
that count, best first, P of them that are right, G objects to find.
Matching looks at one image at a time. So a test set in which an image occurs w times has that
image's detections and objects w times, and no detection is matched anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.evaluation.coco import CocoInputs, detections_to_coco
from mxrcnn.evaluation.core import coco_ground_truth, without_unannotated
from mxrcnn.evaluation.matching import IGNORED, TRUE_POSITIVE, ClassVerdicts, match_all

SIZES = ("", "s", "m", "l")
#: the recalls whose precisions are averaged; None: the area under the curve
RULES = {"coco": np.linspace(0, 1, 101), "voc07": np.arange(0.0, 1.1, 0.1), "voc12": None}


@dataclass(frozen=True)
class Curve:
    """The detections of one class that count at one IoU and range of sizes, best first.

    images (D,): the number of each one's image. hits (P,): the places of the right ones, ascending.
    objects (G,): the image of each object to find.
    """

    images: np.ndarray
    hits: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True)
class Part:
    """A curve, the rule for its AP, and the metrics that are a mean of such APs."""

    curve: Curve
    rule: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Matched:
    """A class's detections and objects, matched at IoU 0.5 by COCO's rules, for `changes`.

    images, scores, objects (the object's number, 0 if none), ignored: (D,). gt_images, gt_ids: of
    the objects to find.
    """

    images: np.ndarray
    scores: np.ndarray
    objects: np.ndarray
    ignored: np.ndarray
    gt_images: np.ndarray
    gt_ids: np.ndarray


@dataclass(frozen=True)
class Curves:
    """All that is needed to score any resample of a test set.

    parts: of each class, in the order of class_names. matched: by class, if COCO's metric is there.
    """

    images: int
    class_names: tuple[str, ...]
    metrics: tuple[str, ...]
    parts: tuple[tuple[Part, ...], ...]
    matched: tuple[Matched | None, ...] = ()

    def values(self, weights: np.ndarray) -> np.ndarray:
        """The metrics for weights (N, R), integers: how often each image occurs; (1 + K, M, R).

        Row 0 is the mean over classes, as the metrics define it. NaN: there is no object to find.
        With all weights 1 they are pycocotools' and `evaluate_voc`'s numbers; with others, those of
        the test set in which images are repeated. (Detections with equal scores may come in another
        order then; which order is right is nobody's rule.)
        """
        weights = np.ascontiguousarray(weights, np.int32)
        place = {name: i for i, name in enumerate(self.metrics)}
        out = np.zeros((1 + len(self.parts), len(self.metrics), weights.shape[1]))
        for row, parts in zip(out[1:], self.parts):
            times = np.zeros(len(self.metrics))
            for metrics, aps in _all_precisions(parts, weights):
                for name in metrics:
                    row[place[name]] += aps
                    times[place[name]] += 1
            row /= np.maximum(times, 1)[:, None]
            row[times == 0] = np.nan
        out[0] = _mean_of_measured(out[1:])
        return out

    def only(self, metrics: tuple[str, ...]) -> Curves:
        """The same with some of the metrics."""
        kept = [
            [replace(p, metrics=tuple(n for n in p.metrics if n in metrics)) for p in parts]
            for parts in self.parts
        ]
        parts = tuple(tuple(p for p in parts if p.metrics) for parts in kept)
        return replace(self, metrics=metrics, parts=parts)

    @cached_property
    def support(self) -> np.ndarray:
        """How many images have an object to find, by class and metric: (1 + K, M)."""
        out = np.zeros((1 + len(self.parts), len(self.metrics)), np.int64)
        for m, metric in enumerate(self.metrics):
            seen = [
                np.concatenate(
                    [p.curve.objects for p in parts if metric in p.metrics] or [np.zeros(0, int)]
                )
                for parts in self.parts
            ]
            out[1:, m] = [len(np.unique(images)) for images in seen]
            out[0, m] = len(np.unique(np.concatenate(seen or [np.zeros(0, int)])))
        return out

    @cached_property
    def longest(self) -> int:
        """The most detections or objects of a curve, which decides how much memory R takes."""
        sizes = [max(len(p.curve.images), len(p.curve.objects)) for ps in self.parts for p in ps]
        return max(sizes, default=0)


def _mean_of_measured(values: np.ndarray) -> np.ndarray:
    """The mean over classes (K, M, R) of what is not NaN; NaN if there is nothing."""
    measured = ~np.isnan(values)
    count = measured.sum(axis=0)
    total = np.where(measured, values, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _all_precisions(
    parts: Sequence[Part], weights: np.ndarray
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """(metrics, AP (R,)) of each part. Parts in a row that share their images share a sum."""
    before, shown = None, np.zeros((0, weights.shape[1]), np.int32)
    for part in parts:
        curve = part.curve
        if curve.images is not before:
            before = curve.images
            shown = np.cumsum(weights[before], axis=0, dtype=np.int32)
        found = np.cumsum(weights[before[curve.hits]], axis=0, dtype=np.int32)
        objects = weights[curve.objects].sum(axis=0)
        yield part.metrics, average_precisions(found, shown[curve.hits], objects, part.rule)


def average_precisions(
    found: np.ndarray, shown: np.ndarray, objects: np.ndarray, rule: str
) -> np.ndarray:
    """AP (R,) of R curves, given at their right detections.

    found, shown (P, R): how many right detections and detections there are up to each right one,
    itself included. objects (R,): how many there are to find; NaN where there are none. Precision
    is highest at right detections, so the others need not be looked at.
    """
    recall = found / np.maximum(objects, 1)
    precision = found / np.maximum(shown, 1)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    points = RULES[rule]
    if points is None:
        share = np.diff(recall, axis=0, prepend=0.0)
    else:
        reached = np.searchsorted(points, recall, side="right")
        share = np.diff(reached, axis=0, prepend=0) / len(points)
    return np.where(objects > 0, (share * envelope).sum(axis=0), np.nan)


def match_once(
    dataset: Dataset,
    detections: Mapping[ImageId, Detections],
    metrics: Sequence[str] = ("coco", "voc07", "voc12"),
) -> Curves:
    """Match the detections of a data set for these metrics; errors as of `evaluate`.

    The metrics' names are COCO's AP, AP50, AP75, APs, APm, APl, the same with `segm_` if there are
    masks, and voc07 and voc12 for Pascal VOC's.
    """
    counted, _ = without_unannotated(dataset, detections)
    parts: list[list[Part]] = [[] for _ in dataset.class_names]
    names: list[str] = []
    matched: list[Matched | None] = [None for _ in dataset.class_names]
    if "coco" in metrics:
        truth, results = coco_ground_truth(dataset), detections_to_coco(counted, dataset)
        numbers = {record.image_id: i for i, record in enumerate(dataset.records)}
        has_masks = any(found.masks is not None for found in counted.values())
        complete = all(entry.get("segmentation") for entry in truth["annotations"])
        for prefix, iou_type in (("", "bbox"), ("segm_", "segm"))[: 1 + (has_masks and complete)]:
            names += [f"{prefix}{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
            inputs = CocoInputs(truth, results, iou_type)
            own = {number: numbers[image_id] for image_id, number in inputs.numbers.items()}
            ids = dataset.category_ids or tuple(range(1, dataset.num_classes))
            for k, category in enumerate(ids):
                if inputs.objects[category]:
                    evaluation = inputs.matched(category)
                    parts[k] += _coco_parts(evaluation, own.__getitem__, prefix)
                    if not prefix:
                        matched[k] = _matched(evaluation, own.__getitem__)
    rules = [name for name in ("voc07", "voc12") if name in metrics]
    if rules:
        names += rules
        for k, verdicts in enumerate(match_all(dataset.records, counted, dataset.num_classes, 0.5)):
            curve = voc_curve(verdicts)
            parts[k] += [Part(curve, rule, (rule,)) for rule in rules if len(curve.objects)]
    return Curves(
        len(dataset), dataset.class_names, tuple(names), tuple(map(tuple, parts)), tuple(matched)
    )


def voc_curve(verdicts: ClassVerdicts) -> Curve:
    """The curve of a class that `match_all` matched."""
    counted = verdicts.verdicts != IGNORED
    hits = np.flatnonzero(verdicts.verdicts[counted] == TRUE_POSITIVE)
    return Curve(verdicts.images[counted], hits, verdicts.gt_images[~verdicts.gt_ignored])


def _columns(entries: Sequence[Mapping[str, Any]], number: Callable[[int], int]) -> dict[str, Any]:
    """The results of the images of one range of sizes, joined, detections best first."""
    scores = np.concatenate([np.asarray(e["dtScores"], np.float64) for e in entries])
    order = np.argsort(-scores, kind="stable")
    images = np.array([number(e["image_id"]) for e in entries], np.int64)
    ignored = np.concatenate([np.asarray(e["gtIgnore"], bool).reshape(-1) for e in entries])
    gt_ids = np.concatenate([np.asarray(e["gtIds"], np.int64).reshape(-1) for e in entries])
    return {
        "scores": scores[order],
        "images": np.repeat(images, [len(e["dtScores"]) for e in entries])[order],
        "objects": np.concatenate([e["dtMatches"] for e in entries], axis=1)[:, order],
        "ignored": np.concatenate([e["dtIgnore"] for e in entries], axis=1)[:, order],
        "gt_images": np.repeat(images, [len(e["gtIds"]) for e in entries])[~ignored],
        "gt_ids": gt_ids[~ignored],
    }


def _by_size(evaluation: Any, number: Callable[[int], int]) -> Iterator[dict[str, Any]]:
    """`_columns` of each range of sizes, as pycocotools orders them: all, small, medium, large."""
    count = len(evaluation.params.imgIds)
    for size in range(len(SIZES)):
        entries = evaluation.evalImgs[size * count : (size + 1) * count]
        yield _columns([e for e in entries if e is not None], number)


def _coco_parts(evaluation: Any, number: Callable[[int], int], prefix: str) -> Iterator[Part]:
    """The curves of one category at COCO's ten IoUs and four ranges of sizes."""
    thresholds = evaluation.params.iouThrs
    for size, found in zip(SIZES, _by_size(evaluation, number)):
        if not len(found["gt_ids"]):
            continue
        kept, images = None, None
        for t, iou in enumerate(thresholds):
            counted = ~found["ignored"][t]
            if kept is None or not np.array_equal(kept, counted):
                kept, images = counted, found["images"][counted]
            hits = np.flatnonzero(found["objects"][t][counted] > 0)
            extra = {0.5: ["AP50"], 0.75: ["AP75"]}.get(round(float(iou), 2), [])
            names = [f"AP{size}", *([] if size else extra)]
            curve = Curve(images, hits, found["gt_images"])
            yield Part(curve, "coco", tuple(prefix + name for name in names))


def _matched(evaluation: Any, number: Callable[[int], int]) -> Matched:
    """The matches at IoU 0.5, objects of all sizes."""
    found = next(_by_size(evaluation, number))
    objects = found["objects"][0].astype(np.int64)
    rest = (found[name] for name in ("gt_images", "gt_ids"))
    return Matched(found["images"], found["scores"], objects, found["ignored"][0], *rest)
