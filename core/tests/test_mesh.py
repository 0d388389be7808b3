"""`MeshSpec`: how the axes share the devices, and what the errors suggest."""

import pytest

import crosstrain as ct
from crosstrain.mesh import AXES, over_slices

ONES = dict.fromkeys(AXES, 1)


@pytest.mark.parametrize(
    ("spec", "devices", "expected"),
    [
        (ct.MeshSpec(), 1, {"data": 1}),
        (ct.MeshSpec(), 8, {"data": 8}),
        (ct.MeshSpec(fsdp=4), 8, {"data": 2, "fsdp": 4}),
        (ct.MeshSpec(data=2, fsdp=-1, tensor=2), 16, {"data": 2, "fsdp": 4, "tensor": 2}),
        (ct.MeshSpec(data=2, pipeline=3), 6, {"data": 2, "pipeline": 3}),
    ],
)
def test_an_open_axis_takes_the_rest(spec, devices, expected):
    assert spec.resolve(devices) == ONES | expected


def test_axes_come_in_one_order():
    assert tuple(ct.MeshSpec(tensor=2).resolve(2)) == AXES


@pytest.mark.parametrize(
    ("make", "named", "fix"),
    [
        (lambda: ct.MeshSpec(data=0), "data=0", "positive number of devices or -1"),
        (lambda: ct.MeshSpec(fsdp=-2), "fsdp=-2", "positive number of devices or -1"),
        (lambda: ct.MeshSpec(fsdp=-1), "data, fsdp", "Give all but one of them a size"),
        (lambda: ct.MeshSpec(fsdp=3).resolve(8), "fsdp=3", "product divides 8"),
        (lambda: ct.MeshSpec(fsdp=16).resolve(8), "fsdp=16", "product divides 8"),
        (lambda: ct.MeshSpec(data=4).resolve(8), r"data=4 \(4 devices\) on 8", "Set one axis to -1"),
        (lambda: ct.MeshSpec(data=3, tensor=2).resolve(4), r"data=3, tensor=2 \(6 devices\) on 4", "one axis to -1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_a_fix(make, named, fix):
    with pytest.raises(ct.ConfigError, match=named) as caught:
        make()
    assert fix in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "text"),
    [(ct.MeshSpec(data=1), "data=1"), (ct.MeshSpec(fsdp=4), "data=-1, fsdp=4")],
)
def test_describe_names_the_axes_that_matter(spec, text):
    assert spec.describe() == text


@pytest.mark.parametrize(
    ("axes", "slices", "expected"),
    [
        ({"data": 8}, 1, (1, 1, 1)),
        ({"data": 8, "fsdp": 4}, 4, (4, 1, 1)),
        ({"data": 2, "fsdp": 4, "pipeline": 2}, 8, (2, 2, 2)),
        ({"data": 1, "fsdp": 6, "tensor": 4}, 2, (1, 1, 2)),
    ],
)
def test_data_crosses_slices_first(axes, slices, expected):
    found = over_slices(ONES | axes, slices)
    assert (found["data"], found["pipeline"], found["fsdp"]) == expected


def test_axes_that_talk_most_do_not_cross_slices():
    with pytest.raises(ct.ConfigError, match="share the 2 slices among them, got data=1, pipeline=1, fsdp=1"):
        over_slices(ONES | {"tensor": 8}, 2)
