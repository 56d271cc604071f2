"""How fast a detector is on this machine, alone or against torchvision: see tools/bench.py.

run.py measures; each thing measured is a side, a process of its own (sides.py) that does one step
at a time when asked: ours.py is this toolkit's, peer_torchvision.py the other's.
"""
