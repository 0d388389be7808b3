"""Every planted difference is found, in the right channel and place; clean pairs give no alarm."""

import dataclasses

import pytest

from crosstrain.parity.verdict import compare_open

from .bases import BASES, TOTAL_STEPS, reference, start
from .catalogue import CATALOGUE
from .planting import Mutation

FREE_STEPS = 12


PLANTED = [
    pytest.param(mutation, id=mutation.name, marks=pytest.mark.slow if index % 3 else ())
    for index, mutation in enumerate(CATALOGUE)
]


@pytest.mark.parametrize("mutation", PLANTED)
def test_planted_difference_is_found_and_named(mutation: Mutation) -> None:
    verdict = compare_open(
        reference(mutation.base),
        mutation.open(),
        total_steps=TOTAL_STEPS,
        free_steps=FREE_STEPS,
        start=start(mutation.base),
    )
    assert not verdict.same_algorithm
    assert verdict.first.channel == mutation.channel, str(verdict.first)
    same_channel = [finding for finding in verdict.findings if finding.channel == mutation.channel]
    assert mutation.where in same_channel[0].where, str(same_channel[0])


def test_the_catalogue_covers_every_channel() -> None:
    assert len(CATALOGUE) >= 85
    assert len({mutation.name for mutation in CATALOGUE}) == len(CATALOGUE)
    channels = {mutation.channel for mutation in CATALOGUE}
    assert channels == {"data", "settings", "schedule", "activation", "loss", "backward", "optimizer", "step"}


def _false_alarms(name: str, seeds: range) -> list[str]:
    base = BASES[name]
    a, b = reference(name), base.side("torch").open("fp64")
    alarms = []
    for seed in seeds:
        begin = dataclasses.replace(start(name), params=base.initial_weights(seed))
        verdict = compare_open(a, b, total_steps=TOTAL_STEPS, free_steps=FREE_STEPS, start=begin)
        alarms += [f"seed {seed}: {finding}" for finding in verdict.findings]
    return alarms


@pytest.mark.parametrize("name", BASES)
def test_clean_pairs_give_no_alarm(name: str) -> None:
    assert _false_alarms(name, range(5)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_clean_pairs_give_no_alarm_over_fifty_seeds(name: str) -> None:
    assert _false_alarms(name, range(50)) == []
