#!/usr/bin/env python3
"""`mxrcnn train` in a clone."""

from _clone import main

if __name__ == "__main__":
    main("train")
