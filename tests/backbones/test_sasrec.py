from pathlib import Path

from gistrec import backbones
from gistrec.testing.backbones import NUM_ITEMS, BackboneTests, GoldenBackboneTests, random_history


class TestSASRec(GoldenBackboneTests):
    spec = "sasrec(width=16)"
    golden = Path(__file__).parents[1] / "golden" / "backbones" / "sasrec.losses.txt"


class TestCollectiveMemory(BackboneTests):
    spec = "sasrec(width=16, memory='collective(own=4, pool=8)')"


def test_no_times_are_kept():
    state = backbones.build("sasrec(width=16)", num_items=NUM_ITEMS).prefill([random_history(5)])[0]
    assert "time" not in state.tensors
