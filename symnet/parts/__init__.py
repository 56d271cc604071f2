"""The parts that detectors are built of: layers, pyramid, RPN, heads, losses, metrics."""
