"""Servers in processes of their own."""

import shutil
import signal
import ssl
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

from gistrec import errors, server
from gistrec.recommender import Event
from gistrec.server.keys import add_key
from gistrec.server.running import Certificate, run
from gistrec.server.settings import Settings
from gistrec.testing.servers import free_port

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
        server.serve(lambda: fake, port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_beyond_the_loopback_interface_it_wants_keys(fake, host: str) -> None:
    with pytest.raises(errors.ConfigError, match=r"--keys FILE .* or --open"):
        server.serve(lambda: fake, host=host, port=0)


SLOW = "slow://?ms=400"


def test_open_requests_finish_before_it_ends(served) -> None:
    one = served("--store", SLOW, "--in-flight", "4")
    answers: list[httpx.Response] = []

    def append(user: int) -> None:
        body = {"events": [{"item_id": 1, "timestamp": 5}]}
        answers.append(httpx.post(f"{one.url}/v1/users/u{user}/events", json=body, timeout=60))

    clients = [threading.Thread(target=append, args=(n,)) for n in range(4)]
    for client in clients:
        client.start()
    time.sleep(1)  # they are in the store's sleep now: an append takes over two seconds
    code, out, err = one.stop()
    for client in clients:
        client.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert (code, out, err) == (0, "", "")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{one.url}/healthz")


def test_while_it_lingers_it_answers_but_is_not_ready(served) -> None:
    one = served("--linger-s", "60")
    with httpx.Client(base_url=one.url) as http:
        assert http.get("/readyz").status_code == 200
        one.process.send_signal(signal.SIGTERM)
        wait_for(lambda: http.get("/readyz").status_code == 503)
        told = httpx.get(f"{one.url}/readyz").json()["error"]
        assert told["type"] == "NotReadyError"
        assert "about to end" in told["message"]
        assert httpx.get(f"{one.url}/v1/stats").status_code == 200
        assert http.get("/healthz").status_code == 200
    one.process.send_signal(signal.SIGINT)  # who can't wait asks twice
    assert one.process.wait(30) == 0


def test_until_the_model_is_loaded_it_is_alive_but_not_ready(fake) -> None:
    port, release, served = free_port(), threading.Event(), threading.Event()
    fake.observe("ann", [Event(1, 1)])

    def load():
        assert release.wait(60)
        return fake

    listener = server.running._listen("127.0.0.1", port, beyond_loopback=False)
    stops = []
    thread = threading.Thread(
        target=run, args=(load, listener, None, Settings(), served.set, stops.append)
    )
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: httpx.get(f"{url}/healthz").status_code == 200)
        for path in ("/readyz", "/v1/stats", "/v1/users/ann/state"):
            response = httpx.get(url + path)
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert response.json()["error"]["type"] == "NotReadyError"
        assert httpx.get(f"{url}/metrics").status_code == 200
        assert not served.is_set()
        release.set()
        assert served.wait(60)
        assert httpx.get(f"{url}/readyz").status_code == 200
        assert httpx.get(f"{url}/v1/users/ann/state").status_code == 200
    finally:
        release.set()
        stops[0]()
        thread.join(60)
    assert fake.closed


def test_a_model_that_can_not_be_loaded_is_told() -> None:
    def load():
        raise errors.DataError("no such model")

    with pytest.raises(errors.DataError, match="no such model"):
        server.serve(load, port=0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem and key.pem for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=gistrec", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


needs_openssl = pytest.mark.skipif(
    not shutil.which("openssl"), reason="needs openssl: apt install openssl"
)


@needs_openssl
def test_it_speaks_tls_and_asks_for_keys(served, certificate: Path, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "shop", ["read"])
    tls = ["--tls-cert", str(certificate / "cert.pem"), "--tls-key", str(certificate / "key.pem")]
    one = served(*tls, "--keys", str(tmp_path / "keys"))
    assert one.url.startswith("https://")
    trusted = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with httpx.Client(base_url=one.url, verify=trusted) as http:
        assert http.get("/readyz").status_code == 200
        assert http.get("/v1/stats").status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        assert http.get("/v1/stats", headers=headers).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{one.url}/healthz")  # nobody vouches for it
    with pytest.raises(httpx.HTTPError):
        httpx.get(one.url.replace("https", "http"))
    assert one.stop() == (0, "", "")


@needs_openssl
def test_a_wrong_certificate_is_told(certificate: Path, tmp_path: Path) -> None:
    cert, key = certificate / "cert.pem", certificate / "key.pem"
    (tmp_path / "other.pem").write_text("no key")
    for chain, private in ((cert, tmp_path / "other.pem"), (key, key), (tmp_path / "none", key)):
        with pytest.raises(errors.ConfigError, match="no certificate and its key"):
            Certificate(chain, private)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if condition():
                return
        except httpx.ConnectError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)
