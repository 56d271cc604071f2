#!/usr/bin/env python3
"""`mxrcnn predict` in a clone."""

from _clone import main

if __name__ == "__main__":
    main("predict")
