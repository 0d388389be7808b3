"""The chapters of the book: each reads as one, runs as a script, and is the same program as a notebook."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

BOOK = Path(__file__).parents[1] / "book"
CHAPTERS = sorted(BOOK.glob("ch*.py"))
HEADER = """# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # """
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def run(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    # Test workers share the cores; torch's threads would wait for each other.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(path)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_there_are_six_chapters_and_the_index_names_them():
    assert [path.stem[:3] for path in CHAPTERS] == [f"ch{number}" for number in range(1, 7)]
    index = (BOOK / "README.md").read_text()
    assert all(f"]({path.name})" in index for path in CHAPTERS)


@each_chapter
def test_a_chapter_opens_with_its_title_alternates_text_and_code_and_asserts_what_it_says(path):
    text = path.read_text()
    assert text.startswith(f"{HEADER}{path.stem[2]}. ")
    lines = text.splitlines()
    assert 80 <= sum(bool(line) for line in lines) <= 160
    cells = [line for line in lines if line.startswith("# %%")]
    assert set(cells) == {"# %%", "# %% [markdown]"}
    assert cells.count("# %% [markdown]") >= 5
    asserted = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
    assert len(asserted) >= 5


@pytest.mark.slow
@each_chapter
def test_a_chapter_runs_and_complains_about_nothing(path, tmp_path):
    done = run(path, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    assert done.stdout


@pytest.mark.slow
@each_chapter
def test_a_chapter_is_the_same_program_as_a_notebook(path, tmp_path):
    made = tmp_path / f"{path.stem}.ipynb"
    command = [sys.executable, "-m", "jupytext", "--to", "notebook", "--output", str(made), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    notebook = nbformat.read(made, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    code = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert ast.dump(ast.parse(code)) == ast.dump(ast.parse(path.read_text()))
    sources = [cell.source for cell in jupytext.read(path).cells]
    assert [cell.source for cell in notebook.cells] == sources
