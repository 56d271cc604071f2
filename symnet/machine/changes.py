"""The record of what was changed in this process for MXNet, and of what came too late."""

from __future__ import annotations

#: each change and its reason; `python -m mxrcnn.doctor` prints them
PATCHED: dict[str, str] = {}

#: settings that came too late because MXNet was already imported, and the reason for each
MISSED: dict[str, str] = {}
