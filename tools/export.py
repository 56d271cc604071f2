#!/usr/bin/env python3
"""`mxrcnn export` in a clone."""

from _clone import main

if __name__ == "__main__":
    main("export")
