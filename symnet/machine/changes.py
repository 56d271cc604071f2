"""What was changed in this process so that MXNet runs well, and what came too late."""

from __future__ import annotations

#: each change and its reason; `python -m mxrcnn.doctor` prints them
PATCHED: dict[str, str] = {}

#: settings that came too late because MXNet had been imported before, and what each is good for
MISSED: dict[str, str] = {}
