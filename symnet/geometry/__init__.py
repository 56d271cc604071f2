"""Geometry in NumPy, without MXNet: anchors, boxes, masks, matching, training targets."""
