"""The building blocks of detectors: layers, norms, pyramid, RPN, heads, losses, metrics."""
