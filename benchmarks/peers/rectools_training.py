"""An epoch of RecTools' SASRec or HSTU, for benchmarks/training.py: prints what it took."""

import json
import logging
import os
import sys
import time
import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import HSTUModel, SASRecModel

SKIPPED = 2
torch.set_num_threads(1)
warnings.filterwarnings("ignore")
for name in ("pytorch_lightning", "lightning", "lightning.pytorch"):
    logging.getLogger(name).setLevel(logging.ERROR)


class Watch(Callback):
    """Events and positions of every step, and when it ended; of the class, as fit copies it."""

    clock: list[float] = []
    events: list[int] = []
    positions: list[int] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, number) -> None:
        self.clock.append(time.process_time())
        self.events.append(int((batch["x"] != 0).sum()))
        self.positions.append(batch["x"].numel())


def main(backbone: str, log: str, sizes: dict[str, int]) -> None:
    columns, watch = np.load(log), Watch()
    frame = pd.DataFrame(
        {
            Columns.User: columns["user"],
            Columns.Item: columns["item"],
            Columns.Datetime: pd.to_datetime(columns["time"], unit="s"),
            Columns.Weight: 1.0,
        }
    )
    quiet = ("enable_progress_bar", "enable_model_summary", "logger", "enable_checkpointing")
    model = {"sasrec": SASRecModel, "hstu": HSTUModel}[backbone](
        n_blocks=sizes["layers"],
        n_heads=sizes["heads"],
        n_factors=sizes["width"],
        session_max_len=sizes["window"],
        batch_size=sizes["positions"] // sizes["window"],
        loss="softmax",
        get_trainer_func=lambda: Trainer(
            max_epochs=1,
            min_epochs=1,
            accelerator="cpu",
            devices=1,
            callbacks=[watch],
            **dict.fromkeys(quiet, False),
        ),
    )
    model.fit(Dataset.construct(frame))
    told = {
        "events": sum(watch.events[SKIPPED:]),
        "positions": sum(watch.positions[SKIPPED:]),
        "seconds": watch.clock[-1] - watch.clock[SKIPPED - 1],
        "version": version("rectools"),
    }
    answers.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
    answers.flush()
