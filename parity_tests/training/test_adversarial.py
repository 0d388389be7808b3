"""Two states that train each other come to the same losses on both engines, in float64.

Here the step counts of the two differ, so randomness that followed the wrong one of them would show.
"""

from crosstrain.parity.compare import FLOAT64_LIMIT
from parity_tests import layouts


def test_both_engines_play_the_same_game() -> None:
    found, expected = (layouts.train_adversarially(backend) for backend in ("torch", "jax"))
    assert layouts.worst(found, expected) <= FLOAT64_LIMIT
