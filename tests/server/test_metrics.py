import re

from gistrec.errors import StoreUnavailableError
from gistrec.recommender import Recommender
from gistrec.server import metrics


def test_stages_are_timed(serving, real: Recommender) -> None:
    http = serving(real)
    http.post("/v1/users/ann/events", {"events": [{"item_id": 1, "timestamp": 5}]})
    http.post("/v1/users/ann/rank", {"item_ids": [1, 2]})
    text = http("GET", "/metrics").text
    for stage in ("load", "decode", "compute", "store"):
        found = re.search(rf'gistrec_stage_seconds_count{{stage="{stage}"}} (\d+)', text)
        assert found, stage
        assert int(found[1]) >= 1


def test_states_are_counted_once(serving, fake) -> None:
    http = serving(fake)
    for _ in range(3):
        http.post("/v1/users/ann/events", {"events": [{"item_id": 1}]})
        http("GET", "/metrics")
    assert 'gistrec_state_loads_total{found="fresh"} 3.0' in http("GET", "/metrics").text


def test_the_store_is_not_read_for_every_scrape(serving, fake, monkeypatch) -> None:
    http = serving(fake)
    assert "gistrec_users 0.0" in http("GET", "/metrics").text
    http.post("/v1/users/ann/events", {"events": [{"item_id": 1}]})
    assert "gistrec_users 0.0" in http("GET", "/metrics").text
    monkeypatch.setattr(metrics, "_FRESH_S", -1)
    for _ in range(1000):  # a scrape does not wait for the next look
        text = http("GET", "/metrics").text
        if "gistrec_users 1.0" in text:
            break
    assert "gistrec_users 1.0" in text
    assert 'gistrec_user_state_bytes{quantile="0.99"} 10.0' in text


def test_a_store_that_can_not_be_read_is_told(serving, fake) -> None:
    fake.fault = StoreUnavailableError("the disk is gone")
    assert serving(fake).error("GET", "/metrics")[:2] == (503, "StoreUnavailableError")
