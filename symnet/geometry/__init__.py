"""Geometry in NumPy alone: anchors, boxes, masks, and what the losses ask for. No MXNet here."""
