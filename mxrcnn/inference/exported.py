"""The metadata of exported models: written by mxrcnn.export, read by the ONNX engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mxrcnn import __version__
from mxrcnn.config import Config, make_config, override

if TYPE_CHECKING:
    from mxrcnn.inference.predictor import Predictor


class ExportError(ValueError):
    """A model that cannot be exported, or an exported one that cannot run here.

    The message says why and what to do instead.
    """


#: the fields of DataConfig that determine how an image becomes `data` and `im_info`
PREPROCESSING = (
    *("mean", "std", "resize", "size_rounding", "short_side", "long_side", "square"),
    *("pad_multiple", "exif_orientation", "trained_scale", "tile", "overlap"),
)


def metadata(predictor: Predictor) -> dict[str, str]:
    """The metadata of an exported model: network, mxrcnn_version, class_names and preprocessing.

    The last two are JSON.
    """
    data = predictor.config.data
    preprocessing = {name: getattr(data, name) for name in PREPROCESSING}
    preprocessing.update(channel_order="RGB", pad_multiple=predictor.pad_multiple)
    return {
        "network": predictor.config.network,
        "mxrcnn_version": __version__,
        "class_names": json.dumps(predictor.class_names),
        "preprocessing": json.dumps(preprocessing),
    }


def config_of(properties: dict[str, str]) -> Config:
    """The inverse of `metadata`: a config with all that inference needs.

    Raises KeyError, ValueError or ConfigError for other properties.
    """
    settings = json.loads(properties["preprocessing"])
    if settings.pop("channel_order") != "RGB":
        raise ValueError("channel_order is not RGB")
    settings["class_names"] = json.loads(properties["class_names"])
    named = {f"data.{name}": value for name, value in settings.items()}
    return override(make_config(properties["network"]), named)
