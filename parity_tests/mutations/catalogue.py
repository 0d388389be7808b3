"""All planted differences: what is changed on the torch side, and which channel and place the report has to name."""

from .in_model import IN_MODEL
from .in_optimizer import IN_OPTIMIZER
from .in_settings import IN_SETTINGS

CATALOGUE = (*IN_SETTINGS, *IN_MODEL, *IN_OPTIMIZER)
