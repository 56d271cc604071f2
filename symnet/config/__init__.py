"""The detectors' configurations: fields, allowed values, presets."""
