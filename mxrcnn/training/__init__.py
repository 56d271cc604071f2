"""Training: the configuration of a run, the loop, distributed training, validation, curves.

configure makes the configuration, run starts or resumes a run, loop is the training loop, trainer
is a run between two steps, network the graph on its devices. launch, guard, server and workers are
distributed training. What a run folder holds is read and written by `mxrcnn.runs`.
"""
