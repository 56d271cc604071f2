#!/usr/bin/env python3
"""`mxrcnn test` in a clone."""

from _clone import main

if __name__ == "__main__":
    main("test")
