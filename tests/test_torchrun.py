"""Parts of a batch add up to it, and two real processes train as one does."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from gistrec import backbones
from gistrec.testing import rankers
from gistrec.testing.data import stride_dataset
from gistrec.testing.rankers import taste_impressions
from gistrec.testing.servers import free_port
from gistrec.torchrun import Processes
from gistrec.train import Model, train

SPEC = "hstu(width=16, dropout=0.0)"
QUICK = {"epochs": 3, "batch_tokens": 240, "learning_rate": 0.02}


@pytest.mark.parametrize("scheme", ["leave_last_out", "last_basket"])
@pytest.mark.parametrize("spec", [SPEC, "hstu(width=16, dropout=0.0, repeats=True)"])
@pytest.mark.parametrize("size", [2, 3, 40])
def test_losses_and_gradients_of_parts_add_up(scheme, spec, size):
    dataset = stride_dataset()
    torch.manual_seed(0)
    net = backbones.build(spec, num_items=dataset.num_items)
    options = {"batch_tokens": 240, "max_len": 100, "scheme": scheme}
    for batch in list(dataset.batches(**options, rng=np.random.default_rng(0)))[:2]:
        net.zero_grad()
        whole = net.loss(batch)
        whole.backward()
        expected = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        net.zero_grad()
        parts = [Processes(rank, size).part(batch) for rank in range(size)]
        share = [len(part.pair_item_P) / len(batch.pair_item_P) for part in parts]
        assert sum(share) == pytest.approx(1)
        losses = [s * net.loss(part) for s, part in zip(share, parts, strict=True) if s]
        sum(losses).backward()
        torch.testing.assert_close(sum(losses), whole, rtol=1e-5, atol=1e-6)
        found = [p.grad for p in net.parameters() if p.grad is not None]
        for gradient, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-6)


def test_parts_of_impressions_add_up():
    shown = taste_impressions()
    net = rankers.build("twin(width=16, dropout=0.0)")
    options = {"batch_tokens": 400, "max_len": 40, "scheme": "leave_last_out", "holdout": 0}
    batch = next(shown.batches(**options, rng=np.random.default_rng(0)))
    parts = [Processes(rank, 3).part(batch) for rank in range(3)]
    targets = [part.num_targets for part in parts]
    assert sum(targets) == batch.num_targets
    losses = [n / batch.num_targets * net.loss(p) for n, p in zip(targets, parts, strict=True) if n]
    torch.testing.assert_close(sum(losses), net.loss(batch), rtol=1e-5, atol=1e-6)


TRAINING = """
import json, sys
from gistrec.testing.data import stride_dataset
from gistrec.torchrun import rank
from gistrec.train import train

losses = []
def report(progress):
    losses.append(progress.loss)
    if len(sys.argv) > 4 and progress.epoch == 2:
        raise SystemExit(3)
train(stride_dataset(), sys.argv[1], folder=sys.argv[2], report=report, **json.loads(sys.argv[3]))
if rank() == 0:
    print(json.dumps(losses))
else:
    assert not losses
"""


def in_two_processes(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1"]
    command += ["--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    command += ["--master-port", str(free_port()), *arguments]
    near = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=os.environ | near, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_train_as_one_does(tmp_path):
    (tmp_path / "training.py").write_text(TRAINING)
    alone = []
    model = train(stride_dataset(), SPEC, report=lambda p: alone.append(p.loss), **QUICK)
    given = [str(tmp_path / "training.py"), SPEC, str(tmp_path / "model"), json.dumps(QUICK)]
    stopped = in_two_processes(*given, "stop")
    assert stopped.returncode
    assert (tmp_path / "model" / "checkpoint.safetensors").exists()
    resumed = in_two_processes(*given)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    losses = json.loads(resumed.stdout)
    np.testing.assert_allclose(losses, alone[-len(losses) :], rtol=1e-3)
    assert len(losses) == len(alone) // 3
    together = Model.load(tmp_path / "model")
    for name, weight in model.backbone.state_dict().items():
        torch.testing.assert_close(
            together.backbone.state_dict()[name], weight, rtol=0.01, atol=0.003, msg=name
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_line_speaks_once(tmp_path):
    command = ["-m", "gistrec", "train", "--data", "synthetic(users=40, items=50, length=30)"]
    command += ["--out", str(tmp_path / "model"), "--epochs", "1", "--json"]
    done = in_two_processes(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["backbone"] == "hstu()"
