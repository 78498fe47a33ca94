import pytest

from gistrec.testing.chaos import Served
from gistrec.testing.data import stride_dataset
from gistrec.testing.fuzz_http import ask
from gistrec.train import train


@pytest.mark.timeout(300)
def test_a_server_keeps_to_its_own_description(tmp_path):
    """Some hundred requests, planned and random; `make fuzz` makes 20,000."""
    train(stride_dataset(), "hstu(width=16)", epochs=1, batch_tokens=240).save(tmp_path / "model")
    server = Served(tmp_path / "model", "ram://")
    try:
        server.start()
        found = ask(server, examples=5)
    finally:
        server.kill()
    assert found.failures == []
    assert found.cases > 200
