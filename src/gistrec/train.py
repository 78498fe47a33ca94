"""Fit a backbone to a data set: the loop, its checkpoints, and the model folder it leaves.

A model folder holds `model.json` (spec, data facts, training settings), `weights.safetensors` and
`items.json` (ids and titles). While training runs, `checkpoint.safetensors` beside them holds the
optimiser's state after each epoch, and the same call resumes from it.
"""

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from gistrec import backbones, registry
from gistrec.backbones import Backbone
from gistrec.dataset import SCHEMES, Batch, Dataset, Scheme, Vocabulary
from gistrec.errors import ConfigError, DataError
from gistrec.impressions import ImpressionBatch, Impressions
from gistrec.torchrun import Processes, joined

FORMAT = 1
"""Of a model folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of a fit."""

    epochs: int = 30
    """Passes over all training events."""
    learning_rate: float = 2e-3
    """Peak of the schedule: linear warm-up, then a cosine down to 2 %."""
    warmup_steps: int = 200
    """Steps of the warm-up, at most a tenth of all steps."""
    batch_tokens: int = 6400
    """Events per step, padding included."""
    max_len: int = 1024
    """Longest training window in events; longer histories are cut anew each epoch."""
    scheme: Scheme = "leave_last_out"
    """What a query predicts: the next event, or (`last_basket`) all events of the next basket."""
    holdout: int = 1
    """Targets left out per user: 1 for the final fit, 2 to choose settings on validation."""
    seed: int = 0
    """Seed of weights, order and dropout."""

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ConfigError(f"unknown scheme {self.scheme!r}: allowed: {', '.join(SCHEMES)}")
        for name in ("epochs", "batch_tokens", "max_len"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, given {getattr(self, name)}")
        if self.max_len < 2 or not 0 < self.learning_rate < 1 or self.holdout not in (0, 1, 2):
            raise ConfigError(
                f"max_len takes 2 or more, learning_rate 0..1, holdout 0, 1 or 2; given {self}"
            )


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained backbone with what is needed to use it."""

    backbone: Backbone
    items: Vocabulary
    training: Training
    seconds: float | None = None
    """Processor seconds of the training, interrupted parts included; None if not known."""
    labels: tuple[str, ...] = ()
    """What a ranker predicts, by name; bit t of an event's action says whether label t was 1."""
    contexts: tuple[str, ...] = ()
    """What it was told of a request or a candidate, by name."""

    def save(self, folder: str | Path) -> None:
        """Write the model folder; a reader never sees half of it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        ids = self.items.ids.tolist()
        titles = [self.items.titles.get(i) for i in ids]
        _write(folder / "items.json", json.dumps({"ids": ids, "titles": titles}).encode())
        _write(folder / "weights.safetensors", save(_contiguous(self.backbone.state_dict())))
        about = {
            "format": FORMAT,
            "backbone": str(self.backbone.spec),
            "num_items": self.backbone.num_items,
            "fingerprint": self.backbone.fingerprint(),
            "training": dataclasses.asdict(self.training),
            "seconds": self.seconds,
            "labels": self.labels,
            "contexts": self.contexts,
        }
        _write(folder / "model.json", json.dumps(about, indent=1).encode())

    @classmethod
    def load(cls, folder: str | Path) -> "Model":
        """Read a model folder.

        The weights stay in the file, mapped into memory: processes that load one folder share them.

        Raises:
            DataError: not a model folder, or a damaged one.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / "model.json").read_bytes())
            items = json.loads((folder / "items.json").read_bytes())
            weights = load_file(folder / "weights.safetensors")
        except FileNotFoundError as error:
            raise DataError(
                f"{folder} is not a finished model folder ({Path(error.filename).name} is "
                "missing): give a folder that `gistrec train --out` or `gistrec demo` wrote"
            ) from None
        except (json.JSONDecodeError, SafetensorError) as error:
            raise DataError(f"{folder} is damaged ({error}): train again or copy it anew") from None
        if about.get("format") != FORMAT:
            raise DataError(
                f"{folder} is a model of format {about.get('format')}, this gistrec reads format "
                f"{FORMAT}: use the gistrec that wrote it, or train again"
            )
        backbone = backbones.build(about["backbone"], num_items=about["num_items"])
        try:
            backbone.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise DataError(
                f"{folder}: the weights are not those of {about['backbone']} "
                f"({str(error).splitlines()[-1].strip()}): copy it anew, or train again"
            ) from None
        backbone.eval()
        if backbone.fingerprint() != about["fingerprint"]:
            raise DataError(
                f"{folder}: the weights are not those that model.json describes "
                f"({backbone.fingerprint()} instead of {about['fingerprint']}): copy it anew"
            )
        titles = {i: t for i, t in zip(items["ids"], items["titles"], strict=True) if t is not None}
        kind = object if items["ids"] and isinstance(items["ids"][0], str) else np.int64
        vocabulary = Vocabulary(np.array(items["ids"], dtype=kind), titles)
        labels, contexts = (tuple(about.get(name, ())) for name in ("labels", "contexts"))
        training = Training(**about["training"])
        return cls(backbone, vocabulary, training, about.get("seconds"), labels, contexts)


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a fit stands; passed to the `report` callback after each step."""

    epoch: int
    """Epochs finished."""
    fraction: float
    """Of all steps, 0..1."""
    loss: float
    """Mean loss of the epoch so far."""
    tokens_per_s: float
    step: int
    """Steps done, of all epochs."""


def train(
    dataset: Dataset | Impressions,
    backbone: str = "hstu()",
    *,
    folder: str | Path | None = None,
    report: Callable[[Progress], None] | None = None,
    device: str = "cpu",
    **settings: Any,
) -> Model:
    """Fit a backbone; in each of several processes if `torchrun` started them (`gistrec.torchrun`).

    Args:
        dataset: Histories; the last target of each user is left out of training (`holdout`). Or
            impressions, for a ranker: their training part, or (`holdout=0`) all of them.
        backbone: Its spec, for example `"hstu(width=64, memory='collective(own=4)')"`.
        folder: Where to write the model and, after each epoch, a checkpoint to resume from.
        report: Called after every step.
        device: Where to compute.
        **settings: Fields of `Training`.

    Raises:
        ConfigError: a wrong spec or setting, or a folder that holds another run.
        DataError: a user with one event, or histories too short to learn from.
    """
    unknown = settings.keys() - {f.name for f in dataclasses.fields(Training)}
    if unknown:
        allowed = ", ".join(f.name for f in dataclasses.fields(Training))
        raise ConfigError(f"unknown training setting {sorted(unknown)[0]!r}: allowed: {allowed}")
    training = Training(**settings)
    with joined(device) as processes, torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        net = _built(backbone, dataset, training).to(device)
        optimizer = torch.optim.AdamW(
            net.parameters(),
            lr=training.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=True,  # nine times faster on a table of 70,000 items
        )
        start, seconds = _resume(folder, net, optimizer, training)
        written, told = (None, None) if processes.rank else (folder, report)
        fit = net, optimizer, training, processes
        seconds = _loop(dataset, *fit, written, told, start, seconds)
        net.to("cpu").eval()
        net.finish()
        model = Model(net, dataset.items, training, seconds)
        if isinstance(dataset, Impressions):
            model = dataclasses.replace(model, labels=dataset.labels, contexts=dataset.contexts)
        if written is not None:
            model.save(written)
            (Path(written) / "checkpoint.safetensors").unlink(missing_ok=True)
    return model


def _built(spec: str, dataset: Dataset | Impressions, training: Training) -> Backbone:
    """The backbone, untrained, with what it has to know of the data."""
    if isinstance(dataset, Dataset):
        net = backbones.build(spec, num_items=dataset.num_items)
        popularity = dataset.popularity(training.scheme, holdout=training.holdout)
        net.set_popularity(torch.from_numpy(popularity))
        return net
    (part,) = registry.parse_spec(spec)
    if not backbones.is_ranker(part.name):
        raise ConfigError(
            f"{part.name} predicts next items: train it on a log; impressions train a ranker, for "
            "example twin()"
        )
    known = registry.options_of(registry.find("backbones", part.name))
    facts = {"labels": len(dataset.labels), "item_features": dataset.feature_VF.shape[1]}
    facts = {name: count for name, count in facts.items() if count != known[name]}
    whole = registry.Spec(part.name, part.options | facts)
    net = backbones.build(str(whole), num_items=dataset.num_items)
    net.set_features(torch.from_numpy(dataset.feature_VF))
    return net


def _loop(
    dataset: Dataset | Impressions,
    net: Backbone,
    optimizer: torch.optim.Optimizer,
    training: Training,
    processes: Processes,
    folder: str | Path | None,
    report: Callable[[Progress], None] | None,
    start: int,
    seconds: float,
) -> float:
    net.train()
    clock = time.process_time() - seconds
    device = next(net.parameters()).device
    for epoch in range(start, training.epochs):
        # all randomness of an epoch follows from (seed, epoch), so a resumed run is the same run
        torch.manual_seed(training.seed * 100_003 + epoch + 1 + 7919 * processes.rank)  # of dropout
        draw = torch.Generator().manual_seed(training.seed * 100_003 + epoch + 1)
        batches: list[Batch | ImpressionBatch] = list(
            dataset.batches(
                batch_tokens=training.batch_tokens,
                max_len=training.max_len,
                rng=np.random.default_rng([training.seed, epoch]),
                scheme=training.scheme,
                holdout=training.holdout,
            )
        )
        total, tokens, begun = 0.0, 0, time.perf_counter()
        for done, batch in enumerate(batches):
            if not batch.num_targets:
                continue
            _set_rate(
                optimizer, training, epoch * len(batches) + done, training.epochs * len(batches)
            )
            part, loss = processes.part(batch), torch.zeros((), device=device)
            optimizer.zero_grad()
            if part.num_targets:
                share = part.num_targets / batch.num_targets
                loss = share * net.loss(part.to(device), rng=draw)
                loss.backward()
            processes.add_gradients(net)
            optimizer.step()
            total, tokens = total + processes.add(loss.detach()), tokens + batch.item_BS.numel()
            if report is not None:
                fraction = (epoch + (done + 1) / len(batches)) / training.epochs
                rate = tokens / (time.perf_counter() - begun)
                step = epoch * len(batches) + done + 1
                report(Progress(epoch, fraction, total / (done + 1), rate, step))
        if folder is not None and epoch + 1 < training.epochs:
            seconds = time.process_time() - clock
            _checkpoint(Path(folder), net, optimizer, training, epoch + 1, seconds)
    return time.process_time() - clock


def _set_rate(optimizer: torch.optim.Optimizer, training: Training, step: int, steps: int) -> None:
    warmup = max(1, min(training.warmup_steps, steps // 10))
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate * min(1, (step + 1) / warmup) * cosine


def _checkpoint(
    folder: Path,
    net: Backbone,
    optimizer: torch.optim.Optimizer,
    training: Training,
    epoch: int,
    seconds: float,
) -> None:
    tensors = {f"net.{n}": t for n, t in net.state_dict().items()}
    for n, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{n}.{k}": t for k, t in slots.items()}
    about = {"epoch": str(epoch), "seconds": str(seconds), "run": _run_id(net, training)}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "checkpoint.safetensors", save(_contiguous(tensors), metadata=about))


def _resume(
    folder: str | Path | None, net: Backbone, optimizer: torch.optim.Optimizer, training: Training
) -> tuple[int, float]:
    """Load a checkpoint of this very run, if there is one; epochs and seconds already done."""
    path = None if folder is None else Path(folder) / "checkpoint.safetensors"
    if path is None or not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as opened:
        about = opened.metadata()
        tensors = {n: opened.get_tensor(n) for n in opened.keys()}  # noqa: SIM118 - not a dict
    if about["run"] != _run_id(net, training):
        raise ConfigError(
            f"{folder} holds the checkpoint of another run ({about['run']}): continue that one, "
            "or give another folder, or delete checkpoint.safetensors"
        )
    net.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("net.")})
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            slots.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})
    return int(about["epoch"]), float(about.get("seconds", 0))


def _run_id(net: Backbone, training: Training) -> str:
    return f"{net.spec} {dataclasses.asdict(training)} items={net.num_items}"


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.detach().cpu().contiguous() for n, t in tensors.items()}


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(data)
    os.replace(temporary, path)
