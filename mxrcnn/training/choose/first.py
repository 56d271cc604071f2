"""The choices that need the annotations only: network, preset, and the images to validate on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mxrcnn.config import ConfigError, override, parse_settings
from mxrcnn.config.overrides import full_name, plain_config
from mxrcnn.data import check_dataset, read_annotations
from mxrcnn.data.records import Dataset
from mxrcnn.data.validation import has_validation
from mxrcnn.training.choose.photos import all_have_masks
from mxrcnn.training.choose.recipes import (
    CPU,
    GPU,
    SETTINGS,
    VAL_FROM,
    VAL_SHARE,
    Recipe,
)
from mxrcnn.training.configure import DEFAULT_NETWORK, NOTHING, Chosen, TrainRequest, check_root


def _data_settings(request: TrainRequest) -> dict[str, Any]:
    """The data settings that the user gives, by full name, for any network."""
    plain, found = plain_config(DEFAULT_NETWORK), {}
    for key, value in {**request.settings, **parse_settings(request.words)}.items():
        try:
            name = full_name(plain, key)
        except ConfigError:  # of another network, or of none: known when the network is
            continue
        if name.startswith("data.") and name != "data.augment":
            found[name] = value
    return found


def _given(request: TrainRequest, name: str) -> Any:
    """The value that the user gives a setting, by its full or its last name; None if none."""
    given = {**request.settings, **parse_settings(request.words)}
    return given.get(name, given.get(name.rpartition(".")[2]))


def wants_choice(request: TrainRequest) -> bool:
    """True if the user gives images of their own, and nothing that says what to train."""
    if request.network or request.preset or request.config or request.resume:
        return False
    if _given(request, "train.pretrained"):
        return False
    return _data_settings(request).get("data.dataset", "synthetic") != "synthetic"


def choose_first(request: TrainRequest) -> tuple[TrainRequest, Chosen, Recipe, Dataset]:
    """The request with a network and a preset, the first choices, their recipe, the annotations.

    Raises as `read_annotations` does.
    """
    given = _data_settings(request)
    check_dataset(given["data.dataset"])
    check_root(given["data.dataset"], given)
    data = override(plain_config(DEFAULT_NETWORK), given).data
    dataset = read_annotations(data, data.imageset)
    kind = "masks" if all_have_masks(dataset, data) else "boxes"
    recipe = (GPU if request.gpus else CPU)["anchors" if request.anchors else kind]
    chosen = NOTHING
    for name, (value, why) in SETTINGS.items():
        chosen = chosen.add(name, value, why)
    wanted = _given(request, "train.val_every") != 0
    if len(dataset) >= VAL_FROM and wanted and not has_validation(data):
        chosen = chosen.add("data.val_share", VAL_SHARE, "no images to validate on were given")
    return replace(request, network=recipe.network, preset=recipe.preset), chosen, recipe, dataset
