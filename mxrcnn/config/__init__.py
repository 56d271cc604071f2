"""The configuration of a run: its settings, and how they are changed, written and read.

mxrcnn.training.configure combines what a user asks for (--pretrained, --preset, flags).
"""

# ruff: noqa: F401 - the names that the room offers
from mxrcnn.config.machine import check_precision, check_shapes, contexts
from mxrcnn.config.overrides import make_config, override, parse_settings
from mxrcnn.config.sections import (
    LEAST_TILE,
    MAX_IMAGE_PIXELS,
    MOST_OVERLAP,
    Config,
    ConfigError,
    DataConfig,
    TrainConfig,
)
from mxrcnn.config.stored import dump_json, from_dict, load_json, to_dict
