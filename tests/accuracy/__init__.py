"""The accuracy that the documentation claims: measured seed by seed, stored, and read from there.

`python -m tests.accuracy --help` says how. The table of what is measured is experiments.py; each
training and its test gives one JSON file in docs/results/accuracy/, from which `python -m
tests.pages --write` makes the tables of docs/reproduce.md.
"""
