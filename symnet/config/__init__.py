"""The detectors' configurations: their fields, and which values are allowed."""
