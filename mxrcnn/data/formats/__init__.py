"""Readers of labelling tools' files: LabelImg, YOLO, LabelMe, CSV tables, CVAT.

`pairs` finds images and the annotation files beside them; each other module reads one format.
"""
