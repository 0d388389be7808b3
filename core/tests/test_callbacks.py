"""The speed of training, with a clock that the test turns."""

from crosstrain.callbacks import Speed


def test_speed_counts_examples_since_the_last_lap_and_leaves_evaluations_out():
    now = [10.0]
    speed = Speed(step=100, batch_size=32, clock=lambda: now[0])
    now[0] += 2.0
    assert speed.lap(110) == 160.0
    now[0] += 1.0
    with speed.paused():
        now[0] += 50.0
    now[0] += 1.0
    assert speed.lap(115) == 80.0
    assert speed.lap(115) == 0.0
