"""Lets `python tools/NAME.py` find the packages of its own clone, installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
