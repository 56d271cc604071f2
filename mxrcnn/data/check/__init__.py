"""Checking a data set before training: `mxrcnn check` as a library.

`run` makes the check. Its parts: `objects`, `faults`, `twins` (images that look the same),
`anchors`, `suggest` and `reach`. `report` writes it as a table or JSON, `pictures` draws it. Which
files and fields are accepted is decided by the readers in `mxrcnn.data`, not here.
"""

from mxrcnn.data.check.run import DataCheck, check_data

__all__ = ["DataCheck", "check_data"]
