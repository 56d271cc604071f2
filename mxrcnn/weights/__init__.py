"""Pretrained weights: files of MXNet, torchvision, gluoncv and Matterport, matched to a network.

formats and pth read files without running pickles; torchvision, gluoncv and matterport translate
names and layouts; reading matches parameters, convert makes a run of them; zoo and download get
known files by name. Files that this toolkit writes are read by `mxrcnn.runs`.
"""
