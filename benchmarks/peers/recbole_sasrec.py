"""RecBole's SASRec: scores of all items by `full_sort_predict`, seen ones masked, `topk`."""

import sys
from importlib.metadata import version

import torch
from worker import HEADS, HISTORY, ITEMS, LAYERS, USERS, WIDTH, K, histories, in_turn, serve

torch.set_num_threads(1)
torch.set_grad_enabled(False)
sys.argv = sys.argv[:1]  # RecBole reads it

from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.utils import get_model


class Items:
    """As much of a data set as the model asks for."""

    def num(self, field: str) -> int:
        return ITEMS + 1  # 0 is padding


def main() -> None:
    settings = {
        "MAX_ITEM_LIST_LENGTH": HISTORY,
        "hidden_size": WIDTH,
        "inner_size": 4 * WIDTH,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "use_gpu": False,
        "train_neg_sample_args": None,
        "loss_type": "CE",
    }
    config = Config(model="SASRec", dataset="ml-100k", config_dict=settings)
    model = get_model("SASRec")(config, Items()).eval()
    seen = torch.from_numpy(histories() + 1)

    def recommend(users: list[int]) -> torch.Tensor:
        item = seen[users]
        length = torch.full((len(users),), HISTORY)
        asked = Interaction({model.ITEM_SEQ: item, model.ITEM_SEQ_LEN: length})
        score = model.full_sort_predict(asked).view(len(users), -1).float()
        score.scatter_(1, item, -torch.inf)
        score[:, 0] = -torch.inf
        return score.topk(K).indices

    def in_bf16(users: list[int]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return recommend(users)

    functions = {}
    for users in USERS:
        for variant, call in (("fp32", recommend), ("bf16", in_bf16)):
            functions[f"recbole sasrec|{users}|{variant}"] = in_turn(call, users)
    assert not set(recommend([3])[0].tolist()) & set(seen[3].tolist())
    serve(functions, {name: version(name) for name in ("recbole", "torch", "numpy")})


main()
