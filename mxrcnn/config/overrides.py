"""Change settings of a configuration by name: `section.field=value`."""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from mxrcnn.config import renames
from mxrcnn.config.sections import SECTIONS, Config, ConfigError, fields_of
from mxrcnn.config.suggestions import suggestion
from symnet import get_detector
from symnet.detector import DetectorDef


def find_detector(network: str) -> DetectorDef:
    """The detector of that name or alias; ConfigError if there is none."""
    try:
        return get_detector(network)
    except KeyError as error:
        raise ConfigError(error.args[0]) from None


def plain_config(network: str) -> Config:
    """The dataclasses' defaults, without the settings that the network prefers."""
    detector = find_detector(network)
    return Config(network=detector.name, model=detector.config())


def make_config(network: str = "faster_rcnn_vgg16") -> Config:
    """A network's default config; `network` may be an alias, the config holds the real name."""
    return override(plain_config(network), find_detector(network).defaults)


def _coerce(key: str, value: Any, wanted: Any) -> Any:
    """Convert a value to the annotated type; ConfigError names the key."""
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else () if value == "" else (value,)
        return tuple(_coerce(key, item, args[0]) for item in items)
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{key}={value!r}: choose from {', '.join(map(str, args))}")
    if wanted is bool and isinstance(value, bool):
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is float and number:
        return float(value)
    if wanted is int and number and value % 1 == 0:
        return int(value)
    if wanted is str and not isinstance(value, (list, tuple, dict, bool)):
        return str(value)
    raise ConfigError(f"{key}={value!r}: expected {getattr(wanted, '__name__', wanted)}")


def _replace(part: Any, values: Mapping[str, Any]) -> Any:
    """Replace values of a dataclass and its groups by dotted name; ConfigError if it refuses."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        name, _, rest = key.partition(".")
        groups.setdefault(name, {})[rest] = value
    new = {
        name: inner[""] if "" in inner else _replace(getattr(part, name), inner)
        for name, inner in groups.items()
    }
    try:
        return dataclasses.replace(part, **new)  # all at once: fields may bound each other
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _parse(text: str) -> Any:
    """Parse a command-line value: a Python literal, a,b,c as a tuple, else the text itself."""
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return tuple(_parse(part) for part in text.split(",")) if "," in text else text
    # 2007_2012 is the name of an image set, not Python's 20072012
    return text if isinstance(value, (int, float)) and "_" in text else value


def full_name(config: Config, key: str) -> str:
    """The full name of a setting, such as `train.lr` or `model.form.NAME`.

    key: a full name, the end of one (`lr`, `form.NAME`), or `section.NAME` for a field of a group.
    Old names are translated, see mxrcnn.config.renames. Raises ConfigError for keys that match no
    setting, or several.
    """
    known = [name for name, _ in fields_of(config)]
    section, _, name = key.rpartition(".")
    homes = [full for full in known if f".{full}".endswith(f".{key}")]
    if not homes and section in SECTIONS:
        homes = [n for n in known if n.startswith(f"{section}.") and n.endswith(f".{name}")]
    if not homes and section in ("", "model"):
        homes = [full for full in [_renamed(name, known)] if full]
    if len(homes) > 1:
        raise ConfigError(f"ambiguous setting {key}: say {' or '.join(homes)}")
    if homes:
        return homes[0]
    raise ConfigError(f"unknown setting {key}{suggestion(key, known, config.network)}")


def _renamed(name: str, known: Collection[str]) -> str | None:
    """The current full name of an old model field; one to be merged keeps its old name."""
    new = f"model.{renames.RENAMED.get(name)}"
    if new in known:
        return new
    merged = any(name in m.old and f"model.{m.new}" in known for m in renames.MERGED)
    return f"model.{name}" if merged else None


def resolve(config: Config, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by full name, with old names and values translated (mxrcnn.config.renames).

    The last of two keys for a setting wins. Raises ConfigError as `full_name` does, and if an old
    and a new name have different values.
    """
    fields = dict(fields_of(config))
    out: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for key, value in settings.items():
        name = key if key in fields else full_name(config, key)
        other = keys.setdefault(name, key)
        if other.rpartition(".")[2] != key.rpartition(".")[2] and out[name] != value:
            raise ConfigError(f"{other}={out[name]!r} and {key}={value!r} are the same setting")
        out[name] = value
    for merged in renames.MERGED:
        old = {name: f"model.{name}" for name in merged.old if f"model.{name}" in out}
        if not fields.keys() >= set(old.values()):
            values = {name: out.pop(full) for name, full in old.items()}
            out[f"model.{merged.new}"] = merged.value(values, config.model)
    for name, values in renames.REVALUED.items():
        value = out.get(f"model.{name}")
        if isinstance(value, str):
            out[f"model.{name}"] = values.get(value, value)
    return out


def override(config: Config, settings: Mapping[str, Any]) -> Config:
    """A config with some settings replaced.

    Keys are what `full_name` takes; values have the field's type (lists become tuples). Raises
    ConfigError for unknown or ambiguous keys, wrong types and values out of range.
    """
    hints = dict(fields_of(config))
    return _replace(
        config,
        {key: _coerce(key, value, hints[key]) for key, value in resolve(config, settings).items()},
    )


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Parse `key=value` words into a dictionary for `override`."""
    out = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {word}: expected key=value")
        out[key.strip()] = _parse(value)
    return out
