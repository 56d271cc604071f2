"""Build mxrcnn; pyproject.toml has all about it. `pip install '.[cpu]'`, or '.[cu112]' for GPUs."""

from setuptools import setup

setup()
