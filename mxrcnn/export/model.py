"""Writing exports: a detector as one ONNX file, or as symbol and parameters for MXNet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxrcnn import __version__
from mxrcnn.export import ExportError
from mxrcnn.files import atomic_folder, atomic_write
from mxrcnn.inference.exported import metadata
from mxrcnn.inference.thresholds import KEY, stored_best_f1
from mxrcnn.runs.checkpoint import join_params, save_arrays
from symnet.machine import mx
from symnet.machine.install import install_extra

if TYPE_CHECKING:
    import onnx

    from mxrcnn.inference.detector import Detector

#: inputs and outputs of an ONNX file; a string names a dynamic length
INPUTS = {"data": ("batch", 3, "height", "width"), "im_info": ("batch", 3)}
OUTPUTS = {
    "det_boxes": ("batch", "detections", 4),
    "det_scores": ("batch", "detections"),
    "det_classes": ("batch", "detections"),
    "det_masks": ("batch", "detections", "mask_height", "mask_width"),
}

_ABOUT = """\
data: RGB images (batch, 3, height, width), resized, normalised and padded with zeros as the \
metadata's `preprocessing` says; im_info: height and width without padding, and the scale. \
det_boxes: x1, y1, x2, y2 in pixels of data; det_classes: 1 is the first of `class_names`, -1 an \
empty row; det_masks: probabilities in the boxes."""


def _without_proposals(symbol: mx.sym.Symbol) -> tuple[mx.sym.Symbol, list[str]]:
    """The symbol with only the detections as outputs, and the names of these."""
    outputs = {output.list_outputs()[0][: -len("_output")]: output for output in symbol}
    names = [name for name in OUTPUTS if name in outputs]
    return mx.sym.Group([outputs[name] for name in names]), names


def onnx_model(detector: Detector) -> onnx.ModelProto:
    """Convert a detector and its parameters to an ONNX model, and check it with onnx.

    Raises ExportError for int8 and bfloat16 graphs, or if onnx is not installed.
    """
    try:
        import onnx

        from mxrcnn.export.walk import to_onnx
    except ImportError as error:
        needed = install_extra("onnx")
        raise ExportError(f"ONNX needs packages: {needed} ({error})") from None
    symbol, names = _without_proposals(detector.symbol)
    side = 8 * detector.pad_multiple
    model = to_onnx(
        symbol,
        {name: value.asnumpy() for params in detector.params for name, value in params.items()},
        INPUTS,
        {"data": (2, 3, side, side), "im_info": (2, 3)},
        {name: OUTPUTS[name] for name in names},
    )
    model.producer_name, model.producer_version = "mxrcnn", __version__
    model.doc_string = _ABOUT
    onnx.helper.set_model_props(model, {**metadata(detector), **stored_best_f1(detector)})
    onnx.checker.check_model(model, full_check=True)
    return model


def export_onnx(detector: Detector, path: str | Path) -> Path:
    """Write `onnx_model` to a file, atomically."""
    model = onnx_model(detector)
    with atomic_write(path, "wb") as handle:
        handle.write(model.SerializeToString())
    return Path(path)


def export_symbol(detector: Detector, folder: str | Path) -> list[Path]:
    """Write FOLDER/NAME-symbol.json, NAME-0000.params and NAME.json; NAME is the folder's name.

    mx.model.load_checkpoint(FOLDER/NAME, 0) and other bindings load the first two; the third holds
    the `metadata`. The folder is written atomically. Raises ExportError if it exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise ExportError(f"{folder} exists already: choose another place")
    with atomic_folder(folder) as partial:
        name = folder.resolve().name
        symbol = detector.symbol.tojson(remove_amp_cast=False)
        (partial / f"{name}-symbol.json").write_text(symbol, encoding="utf-8")
        save_arrays(partial / f"{name}-0000.params", join_params(*detector.params))
        about: dict[str, Any] = {**metadata(detector), **stored_best_f1(detector)}
        texts = {"class_names", "preprocessing", KEY} & set(about)
        about.update({key: json.loads(about[key]) for key in texts})
        (partial / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return sorted(folder.iterdir())
