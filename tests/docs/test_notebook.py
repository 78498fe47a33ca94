"""The notebook runs from top to bottom, and says what its words promise."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def printed(cell) -> str:
    return "".join(o.get("text", "") for o in cell.outputs)


def test_it_is_committed_with_its_outputs_and_nothing_of_a_machine():
    found = nbformat.read(NOTEBOOK, 4)
    code = [c for c in found.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    assert not re.search(r"/(home|root|tmp|work)/", NOTEBOOK.read_text())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # of the kernel's process, not of gistrec
def test_it_runs(tmp_path):
    found = nbformat.read(NOTEBOOK, 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(found, timeout=800, kernel_name="python3", resources=resources).execute()
    code = [c for c in found.cells if c.cell_type == "code"]
    (table,) = [
        o.data["text/markdown"]
        for c in code
        for o in c.outputs
        if "data" in o and "text/markdown" in o.data
    ]
    shares = [int(s) for s in re.findall(r"rvq[^|]*\| [^|]* \| [^|]* \| (\d+)% \|", table)]
    assert len(shares) == 5
    assert shares[-1] > shares[0]
    assert re.search(r"\d+ bytes of state in \d+ slots", printed(code[-1]))
