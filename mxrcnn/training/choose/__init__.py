"""Choosing a new run's settings by its data and the machine, and fitting it into a stated time.

`first` chooses what must be known before the images are divided: network, preset, validation share.
`rest` chooses the others, with measurements: size, batch, epochs. `recipes` holds the numbers
behind the choices, `photos` what the data are like, `fit` the arithmetic of time, `rehearse`
measures, `table` tells the user. What the user gives is never changed.
"""

from mxrcnn.training.choose.first import choose_first, wants_choice
from mxrcnn.training.choose.rest import Choice, choose_rest

__all__ = ["Choice", "choose_first", "choose_rest", "wants_choice"]
