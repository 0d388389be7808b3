"""Scripts that commands run: they import their neighbours, and what they define is looked up as in any module."""

import pytest

from crosstrain.errors import ConfigError
from crosstrain.scripts import load_script


def test_a_script_imports_its_neighbour(tmp_path):
    (tmp_path / "neighbour_of_a_script.py").write_text("SIZE = 3\n")
    script = tmp_path / "pair.py"
    script.write_text("from neighbour_of_a_script import SIZE\n")
    assert load_script(script, "the script").SIZE == 3


def test_a_script_may_define_dataclasses_with_annotations_as_text(tmp_path):
    script = tmp_path / "config.py"
    script.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Config:\n"
        "    size: int = 3\n"
    )
    assert load_script(script, "the script").Config().size == 3


def test_a_script_is_run_again_each_time(tmp_path):
    script = tmp_path / "counted.py"
    script.write_text("value = []\n")
    assert load_script(script, "the script").value is not load_script(script, "the script").value


def test_what_is_no_script_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"the port must be a Python file, got .*nothing.py, which does not exist"):
        load_script(tmp_path / "nothing.py", "the port")
    with pytest.raises(ConfigError, match=r"the port must be a Python file, got .*, which is a folder"):
        load_script(tmp_path, "the port")
    (tmp_path / "text.txt").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="must be a Python file"):
        load_script(tmp_path / "text.txt", "the port")
