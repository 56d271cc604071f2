"""Measures how fast a detector is on this machine, also next to torchvision; see mxrcnn bench.

run.py measures. Each side is a process of its own (sides.py) that does one step when asked:
ours.py is this toolkit's side, peer_torchvision.py is torchvision's.
"""
