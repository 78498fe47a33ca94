"""gistrec's SASRec and HSTU: from states in memory, and through the recommender and its store."""

import tempfile
from importlib.metadata import version

import numpy as np
import torch
from worker import HEADS, HISTORY, ITEMS, LAYERS, USERS, WIDTH, K, histories, in_turn, serve

from gistrec import backbones
from gistrec.dataset import History, Vocabulary
from gistrec.recommender import Event, Recommender, identity_recipe
from gistrec.stores import open_store
from gistrec.train import Model, Training

torch.set_num_threads(1)
START, GAP = 1_700_000_000, 3600


def main() -> None:
    functions = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for name in ("sasrec", "hstu"):
            spec = f"{name}(width={WIDTH}, num_layers={LAYERS}, num_heads={HEADS})"
            torch.manual_seed(0)
            backbone = backbones.build(spec, num_items=ITEMS).eval()
            model = Model(backbone, Vocabulary(np.arange(ITEMS)), Training())
            store = open_store(f"lmdb://{folder}/{name}")
            recommender = Recommender(model, identity_recipe(model), store)
            for what, call in requests(recommender).items():
                for users in USERS:
                    functions[f"gistrec {name} {what}|{users}|fp32"] = in_turn(call, users)
        serve(functions, {n: version(n) for n in ("gistrec", "torch", "numpy")})


def requests(recommender: Recommender) -> dict:
    """What is asked -> a function of user numbers.

    `state`: the user's state is in memory. `event`: and one more event is appended to it first.
    `stored`: states and logs are in lmdb, and users come one by one. `stored event`: one is
    observed first.
    """
    backbone = recommender.backbone
    item = histories()
    time = START + GAP * np.arange(HISTORY)
    states = backbone.prefill([History(row, time) for row in item])
    one_more = History(np.array([ITEMS // 2]), np.array([START + GAP * HISTORY]))
    for n, row in enumerate(item.tolist()):
        events = [Event(i, t) for i, t in zip(row, time.tolist(), strict=True)]
        recommender.observe(f"user-{n}", events)
    moment = int(one_more.timestamp[0])

    def from_states(users: list[int]) -> object:
        return backbone.top_k([states[u] for u in users], K, exclude=[item[u] for u in users])

    def after_an_event(users: list[int]) -> object:
        grown = backbone.append([states[u] for u in users], [one_more] * len(users))
        return backbone.top_k(grown, K, exclude=[item[u] for u in users])

    def stored(users: list[int]) -> object:
        return [recommender.recommend(f"user-{u}", k=K) for u in users]

    def stored_event(users: list[int]) -> object:
        nonlocal moment
        moment += 1
        for u in users:
            recommender.observe(f"user-{u}", [Event(ITEMS // 2, moment)])
        return stored(users)

    (found,) = from_states([3])
    assert len(found.item_index) == K
    assert not set(found.item_index.tolist()) & set(item[3].tolist())
    return {
        "state": from_states,
        "event": after_an_event,
        "stored": stored,
        "stored event": stored_event,
    }


main()
