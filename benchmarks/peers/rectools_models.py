"""RecTools' SASRec and HSTU: `recommend` from its data set, seen items filtered by it."""

import logging
import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import HSTUModel, SASRecModel
from worker import HEADS, HISTORY, ITEMS, LAYERS, USERS, WIDTH, K, histories, in_turn, serve

torch.set_num_threads(1)
warnings.filterwarnings("ignore")
for name in ("pytorch_lightning", "lightning", "lightning.pytorch"):
    logging.getLogger(name).setLevel(logging.ERROR)

START = pd.Timestamp("2024-01-01")
POPULATION = 96
"""Its states are the ids: a larger one would only make its data frames slower."""


def trainer() -> Trainer:
    """Two batches: weights are as good as random, and `recommend` wants a fitted model."""
    return Trainer(
        max_epochs=1,
        min_epochs=1,
        limit_train_batches=2,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
    )


def events() -> pd.DataFrame:
    """The users' events, an hour apart, and one user who has seen every item."""
    item = histories(POPULATION)
    hours = np.tile(np.arange(HISTORY), POPULATION)
    users = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(POPULATION), HISTORY),
            Columns.Item: item.reshape(-1),
            Columns.Datetime: START + pd.to_timedelta(hours, unit="h"),
        }
    )
    everything = pd.DataFrame(
        {Columns.User: POPULATION, Columns.Item: np.arange(ITEMS), Columns.Datetime: START}
    )
    return pd.concat([users, everything]).assign(**{Columns.Weight: 1.0})


def main() -> None:
    dataset = Dataset.construct(events())
    functions = {}
    for name, model_class in (("sasrec", SASRecModel), ("hstu", HSTUModel)):
        model = model_class(
            n_blocks=LAYERS,
            n_heads=HEADS,
            n_factors=WIDTH,
            session_max_len=HISTORY,
            epochs=1,
            loss="BCE",
            n_negatives=1,
            batch_size=32,
            get_trainer_func=trainer,
            recommend_torch_device="cpu",
            recommend_n_threads=1,
        )
        model.fit(dataset)

        def recommend(users: list[int], model=model, timed=name == "hstu") -> pd.DataFrame:
            options = {}
            if timed:
                now = START + pd.Timedelta(days=30)
                options["context"] = pd.DataFrame({Columns.User: users, Columns.Datetime: now})
            return model.recommend(users=users, dataset=dataset, k=K, filter_viewed=True, **options)

        def in_bf16(users: list[int], recommend=recommend) -> pd.DataFrame:
            with torch.autocast("cpu", torch.bfloat16):
                return recommend(users)

        for users in USERS:
            for variant, call in (("fp32", recommend), ("bf16", in_bf16)):
                functions[f"rectools {name}|{users}|{variant}"] = in_turn(call, users, POPULATION)
        assert len(recommend([3])) == K
    serve(functions, {name: version(name) for name in ("rectools", "torch", "numpy")})


main()
