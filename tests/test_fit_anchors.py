"""mxrcnn train --anchors auto."""

import numpy as np
import pytest

from mxrcnn.config import ConfigError
from mxrcnn.data.check.anchors import best_overlaps
from mxrcnn.data.check.objects import network_objects
from mxrcnn.training.anchors import fit_anchors
from mxrcnn.training.configure import TrainRequest, build_config
from tests.factories import make_dataset, make_record, tiny_config


def long_objects():
    """Objects that are four times as wide as high; the anchors' ratios are 0.5, 1 and 2."""
    sides = np.random.default_rng(0).uniform(10, 20, 60)
    records = [
        make_record(str(k), (200, 400), [(20, 30, 20 + 4 * side, 30 + side)])
        for k, side in enumerate(sides)
    ]
    return make_dataset(records)


def test_the_anchors_are_fitted_and_written_into_the_config():
    dataset, config = long_objects(), tiny_config(data__short_side=0, data__long_side=0)
    objects = network_objects(dataset.records, ("dog",), ("dog",), config)
    found, line = fit_anchors(config, dataset)
    own, better = (best_overlaps(c.model.anchors, objects).mean() for c in (config, found))
    assert better > own + 0.1
    assert len(found.model.anchor_scales) == len(config.model.anchor_scales)
    assert "from 60 objects: " in line
    assert f"anchor_ratios={found.model.anchor_ratios[0]:g}," in line


def test_without_objects_they_stay():
    config = tiny_config()
    found, line = fit_anchors(config, make_dataset([make_record(boxes=[])]))
    assert found is config
    assert "none were found" in line


@pytest.mark.parametrize(
    ("request_with", "message"),
    [
        ({"network": "fcos_r50_fpn"}, "fcos_r50_fpn has no anchors"),
        ({"words": ("anchor_scales=1,2",)}, "and model.anchor_scales: give one of the two"),
    ],
)
def test_what_cannot_be(request_with, message):
    with pytest.raises(ConfigError, match=message):
        build_config(TrainRequest(anchors="auto", **request_with))
