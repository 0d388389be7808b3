"""The speed of training, with a clock that the test turns."""

from crosstrain.callbacks import Speed


def test_speed_counts_examples_since_the_last_lap_and_leaves_evaluations_out():
    now = [10.0]
    speed = Speed(step=100, batch_size=32, clock=lambda: now[0])
    now[0] += 2.0
    assert speed.lap(110, 111) == 160.0
    now[0] += 1.0
    with speed.paused():
        now[0] += 50.0
    now[0] += 1.0
    assert speed.lap(115, 116) == 80.0


def test_the_last_step_of_an_epoch_is_not_faster_than_the_device():
    """Its metrics are read right after those of the step before, when the device has been done with both."""
    now = [0.0]
    speed = Speed(step=0, batch_size=32, clock=lambda: now[0])
    now[0] += 4.0
    assert speed.lap(4, 5) == 32.0
    now[0] += 5.0
    speed.lap(9, 10)
    with speed.paused():
        now[0] += 50.0
    now[0] += 1e-4
    assert round(speed.lap(10, 10), 1) == 38.4
    now[0] += 2.0
    assert speed.lap(12, 13) == 32.0
