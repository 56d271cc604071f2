"""`mxrcnn report`: the page of a test that `mxrcnn test` wrote before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxrcnn.config import to_dict
from mxrcnn.data.records import DataError
from mxrcnn.evaluation.page.content import Shown, content, run_commands
from mxrcnn.evaluation.page.write import FILE_NAME, write_page
from mxrcnn.evaluation.tested import find_tested, open_truth, read_results
from mxrcnn.runs.checkpoint import RunFolder


@dataclass(frozen=True)
class ReportRequest:
    """The options of `mxrcnn report`; settings: `section.field` -> value."""

    run: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    imageset: str | None = None
    out: str | None = None


def run_report(request: ReportRequest) -> tuple[Path, list[str]]:
    """Write the page of a test; returns its path, and what could not be checked.

    Raises as `find_tested`, `open_truth` and `read_results` do, and DataError for a report.json
    that is not a JSON object.
    """
    side = find_tested(request.run, request.imageset, request.settings)
    dataset, data, notes = open_truth([side], request.settings, request.imageset)
    detections = read_results(side.file, dataset)
    folder = side.file.parent
    path = Path(request.out) if request.out else folder / FILE_NAME
    run = RunFolder(side.run) if side.run else None
    shown = Shown(
        request.run,
        dataset,
        detections,
        _report(folder / "report.json"),
        data,
        run.read_log() if run else (),
        run_commands(side.place, side.imageset) if run else (),
        to_dict(run.config()) if run else None,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(content(shown, path.parent), path)
    return path, notes


def _report(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}  # results from elsewhere
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"not JSON: {error}") from error
    if not isinstance(report, dict):
        raise DataError(path, f"not a report but {type(report).__name__}")
    return report
