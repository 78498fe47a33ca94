"""HSTU has no softmax: do evicted slots leave their weight to the kept ones, or is it lost?

    make rescale

For every eviction of the catalogue, both conventions on the validation split (the event or basket
before the last), from the same kept slots: `leave` drops the evicted slots' terms of the attention
sum; `rescale` multiplies the kept slots' values by the attention that all slots received from the
newest query over what the kept ones received. Nothing is quantised. Rows go to
docs/results/rescale.jsonl.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; see gistrec.cli.main


import numpy as np
import torch
from accuracy import ROOT, load

from gistrec import catalogue, codecs, metrics, results
from gistrec.codecs import Evict
from gistrec.dataset import Dataset
from gistrec.measure import Rules, Subject
from gistrec.state import UserState, positions
from gistrec.train import Model

MODELS = {"ml-1m": "ml-1m-hstu", "completejourney": "completejourney-hstu"}
KEPT = (16, 64)
USERS = 2000


def rescaled(state: UserState, kept: UserState) -> UserState:
    """The kept slots with the whole state's attention mass."""
    mass_M = state.tensors["hint.last"]
    kept_mass = mass_M[positions(kept)].sum().clamp(min=1e-9)
    factor = mass_M.sum() / kept_mass
    scaled = {n: t * factor if n.startswith("v.") else t for n, t in kept.tensors.items()}
    return kept.replace(scaled)


@torch.no_grad()
def main() -> None:
    out = ROOT / "docs/results/rescale.jsonl"
    done = {(r["data"], r["codec"]) for r in results.load(out)} if out.exists() else set()
    for data, folder in MODELS.items():
        model = Model.load(ROOT / "runs" / "accuracy" / folder)
        dataset = Dataset.from_events(load(data), min_events=3)
        subject = Subject(model, dataset, Rules(users=USERS, fit_users=600), holdout=1)
        for spec in catalogue.SLOTS:
            for keep in KEPT:
                codec = evicting(spec, keep)
                if codec is not None and (data, str(codec)) not in done:
                    results.append(out, row(subject, data, codec))


def evicting(spec: str, keep: int) -> Evict | None:
    """The codec of a spec with so many slots, if it drops slots."""
    (codec,) = codecs.parse(spec).codecs
    if not isinstance(codec, Evict):
        return None
    (turned,) = codecs.parse(str(codec).replace(f"keep={codec.keep}", f"keep={keep}")).codecs
    return turned  # type: ignore[return-value]  # of the same class


def row(subject: Subject, data: str, codec: Evict) -> results.Row:
    fitted = codec.fit(subject.fit_states)
    lists = {name: np.empty_like(subject.full.lists) for name in ("leave", "rescale")}
    for users, states in subject.states():
        kept = [fitted.decode(fitted.encode(state)) for state in states]
        both = [rescaled(s, k) for s, k in zip(states, kept, strict=True)]
        lists["leave"][users] = subject.lists_of(users, kept)
        lists["rescale"][users] = subject.lists_of(users, both)
    found = {name: subject.task.per_user(ranked)["ndcg_10"] for name, ranked in lists.items()}
    full = subject.task.per_user(subject.full.lists)["ndcg_10"]
    change = found["rescale"] - found["leave"]
    line = {
        "kind": "rescale",
        "data": data,
        "codec": str(codec),
        "users": len(subject.task),
        "holdout": 1,
        **{f"{name}_kept": float(x.mean() / full.mean()) for name, x in found.items()},
        "change": float(change.mean() / full.mean()),
        "change_interval": [x / full.mean() for x in metrics.interval(change)],
    }
    print({k: line[k] for k in ("data", "codec", "leave_kept", "rescale_kept")}, flush=True)
    return line | results.environment()


if __name__ == "__main__":
    main()
