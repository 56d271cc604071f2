"""What must happen before `import mxnet`; it lives in symnet, which stands alone."""

from symnet.compat import PATCHED, mx, patch

__all__ = ["PATCHED", "mx", "patch"]
