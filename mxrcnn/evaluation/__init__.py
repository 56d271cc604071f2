"""Evaluation: Pascal VOC's and COCO's average precision, proposal recall, and reports."""
