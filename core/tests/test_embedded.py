"""The data that every machine has."""

import numpy as np

import crosstrain as ct


def test_digits_are_split_without_overlap() -> None:
    split = ct.data.digits()
    assert split.train["image"].shape == (1438, 8, 8, 1)
    assert split.test["image"].shape == (359, 8, 8, 1)
    assert split.train["image"].dtype == np.float32
    assert set(split.test["label"].tolist()) == set(range(10))
    assert abs(float(split.train["image"].mean())) < 1e-5
    assert abs(float(split.train["image"].std()) - 1) < 1e-5
    train = {image.tobytes() for image in split.train["image"]}
    assert sum(image.tobytes() in train for image in split.test["image"]) <= 1  # the set itself repeats one image


def test_another_seed_holds_out_others() -> None:
    first, second = ct.data.digits(seed=0), ct.data.digits(seed=1)
    assert (first.test["label"] != second.test["label"]).any()
    assert (ct.data.digits(seed=1).test["image"] == second.test["image"]).all()


def test_the_standard_library_is_real_source() -> None:
    text = ct.data.stdlib_bytes(max_bytes=300_000)
    assert text.dtype == np.uint8
    assert len(text) == 300_000
    assert "\ndef " in text.tobytes().decode("utf-8", errors="ignore")


def test_what_the_build_of_this_interpreter_wrote_is_left_out() -> None:
    assert b"\nbuild_time_vars = {" not in ct.data.stdlib_bytes().tobytes()


def test_token_windows_overlap_by_their_labels_only() -> None:
    source = ct.data.token_windows(np.arange(10), 3)
    batch = source.gather(np.array([2, 0]))
    assert len(source) == 3
    assert batch["tokens"].tolist() == [[6, 7, 8], [0, 1, 2]]
    assert batch["label"].tolist() == [[7, 8, 9], [1, 2, 3]]
