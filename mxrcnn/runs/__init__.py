"""Run folders on disk: config, graphs, checkpoints, log, lock; and MXNet's parameter files.

Training writes them; inference, evaluation, export and weights read them. Nothing here trains.
"""
