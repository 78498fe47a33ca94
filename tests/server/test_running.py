"""Servers in processes of their own."""

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from gistrec import errors, server

JSON = {"Content-Type": "application/json"}


def test_a_real_server_answers_and_stops_in_order(url: str) -> None:
    with httpx.Client(base_url=url) as http:
        path = "/v1/users/a%2Fb%0A/events"
        assert http.post(path, json={"events": [{"item_id": 8}]}).json()["length"] == 1
        big = http.post(path, content=bytes(3 << 20), headers=JSON)
        assert big.json()["error"]["status"] == 413
        assert http.get("/v1/users/a%2Fb%0A/state").json()["user_id"] == "a/b\n"


def test_a_taken_port_is_told(url: str, fake) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(errors.ConfigError, match=f"port {port}: Address already in use"):
        server.serve(fake, port=port)


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium: apt install chromium")
def test_the_page_shows_hostile_titles_as_text(url: str, tmp_path: Path) -> None:
    user = "%3Ci%3Eann%3C%2Fi%3E"
    httpx.post(f"{url}/v1/users/{user}/events", json={"events": [{"item_id": 8}]})
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000"]
    page = subprocess.run(
        [*command, f"{url}/#user={user}"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "For &lt;i&gt;ann&lt;/i&gt;" in page
    assert "&lt;img src=x onerror=" in page
    assert "<img" not in page
    assert "<title>gistrec</title>" in page


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_beyond_the_loopback_interface_it_wants_keys(fake, host: str) -> None:
    with pytest.raises(errors.ConfigError, match=r"--keys FILE .* or --open"):
        server.serve(fake, host=host, port=0)
