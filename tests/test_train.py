import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gistrec.errors import ConfigError, DataError
from gistrec.evaluate import evaluate
from gistrec.testing.data import stride_dataset
from gistrec.train import Model, train

SPEC = "hstu(width=16)"
QUICK = {"epochs": 3, "batch_tokens": 240, "learning_rate": 0.02}


class Stop(Exception):
    pass


def test_a_model_learns_the_strides():
    dataset = stride_dataset()
    model = train(dataset, SPEC, epochs=20, batch_tokens=240, learning_rate=0.02)
    found = evaluate(model.backbone, dataset, dataset.split(), scheme="last_basket")
    assert found["hr_10"].mean() > 0.9


@pytest.mark.parametrize("backbone", [SPEC, "sasrec(width=16)"])
def test_what_is_older_than_windows_is_read_like_the_oldest_in_them(backbone):
    net = train(stride_dataset(), backbone, max_len=12, **QUICK).backbone
    for layer in net.layers:
        bias_HN = layer.position.table.detach()
        assert (bias_HN != 0).all()
        assert (bias_HN[:, 12:] == bias_HN[:, 7:12].median(1, keepdim=True).values).all()


def test_a_saved_model_scores_the_same(tmp_path):
    dataset = stride_dataset()
    model = train(dataset, SPEC, folder=tmp_path, **QUICK)
    loaded = Model.load(tmp_path)
    history = [dataset.history(3)]
    torch.testing.assert_close(
        loaded.backbone.score(loaded.backbone.prefill(history)),
        model.backbone.score(model.backbone.prefill(history)),
    )
    assert loaded.backbone.fingerprint() == model.backbone.fingerprint()
    assert loaded.training == model.training
    assert not list(tmp_path.glob("checkpoint*"))


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    dataset = stride_dataset()
    whole = train(dataset, SPEC, **QUICK)

    def stop(progress):
        if progress.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        train(dataset, SPEC, folder=tmp_path, report=stop, **QUICK)
    with pytest.raises(DataError, match="not a finished model folder"):
        Model.load(tmp_path)
    first = []
    resumed = train(dataset, SPEC, folder=tmp_path, report=lambda p: first.append(p.epoch), **QUICK)
    assert first[0] == 2
    assert resumed.backbone.fingerprint() == whole.backbone.fingerprint()


def test_another_run_s_checkpoint_is_refused(tmp_path):
    dataset = stride_dataset()

    def stop(progress):
        if progress.epoch == 1:
            raise Stop

    with pytest.raises(Stop):
        train(dataset, SPEC, folder=tmp_path, report=stop, **QUICK)
    with pytest.raises(ConfigError, match="checkpoint of another run"):
        train(dataset, "hstu(width=8)", folder=tmp_path, **QUICK)


def test_training_leaves_the_caller_s_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(stride_dataset(), SPEC, **QUICK)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "unknown training setting 'epoch'"),
        ({"epochs": 0}, "epochs must be at least 1, given 0"),
        ({"scheme": "random"}, "unknown scheme 'random'"),
        ({"max_len": 1}, "max_len"),
        ({"holdout": 7}, "holdout"),
    ],
)
def test_wrong_settings_say_what_is_allowed(settings, message):
    with pytest.raises(ConfigError, match=message):
        train(stride_dataset(), SPEC, **settings)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux' /proc")
def test_processes_share_the_weights_of_a_folder(tmp_path):
    train(stride_dataset(), SPEC, folder=tmp_path, **QUICK)
    path = tmp_path / "weights.safetensors"
    before = path.read_bytes()
    loaded = Model.load(tmp_path)
    for name, weight in loaded.backbone.state_dict().items():
        assert path in mapped_at(weight.data_ptr()), name
    with torch.no_grad():
        loaded.backbone.head.table.weight.add_(1)  # copies the page: nobody else sees it
    assert path.read_bytes() == before
    torch.testing.assert_close(
        Model.load(tmp_path).backbone.head.table.weight + 1, loaded.backbone.head.table.weight
    )


def mapped_at(address: int) -> list[Path]:
    """The file that is mapped there, if one is."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= address < high and "/" in line:
            found.append(Path(line[line.index("/") :]))
    return found


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"model.json is missing"):
        Model.load(tmp_path)
    train(stride_dataset(), SPEC, folder=tmp_path, **QUICK)
    about = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(about | {"fingerprint": "0" * 16}))
    with pytest.raises(DataError, match="the weights are not those"):
        Model.load(tmp_path)
    weights = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(DataError, match="damaged"):
        Model.load(tmp_path)


def test_text_ids_survive_saving(tmp_path):
    dataset = stride_dataset()
    names = np.array([f"item-{i}" for i in dataset.items.ids], dtype=object)
    dataset = type(dataset)(
        dataset.user_ids,
        dataset.offsets,
        dataset.item_index,
        dataset.timestamp,
        type(dataset.items)(names, {"item-3": "Milk"}),
    )
    train(dataset, SPEC, folder=tmp_path, **QUICK)
    items = Model.load(tmp_path).items
    assert items.index("item-3") == 3
    assert [items.title(3), items.title(4)] == ["Milk", "item-4"]
