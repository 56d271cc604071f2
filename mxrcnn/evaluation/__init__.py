"""Measuring detectors: Pascal VOC's and COCO's average precision, proposal recall, reports."""
