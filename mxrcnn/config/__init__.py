"""The configuration of a run: what its settings are, how they are changed, written and read.

What a user asks of one training (--pretrained, --preset, flags) is put together in
mxrcnn.training.configure.
"""

# ruff: noqa: F401 - the names that the room offers
from mxrcnn.config.machine import check_precision, check_shapes, contexts
from mxrcnn.config.overrides import make_config, override, parse_settings
from mxrcnn.config.sections import MAX_IMAGE_PIXELS, Config, ConfigError, DataConfig, TrainConfig
from mxrcnn.config.stored import dump_json, from_dict, load_json, to_dict
