"""implicit's ALS: `recommend` from the trained user factors, and folding the user's events in."""

from importlib.metadata import version

import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from worker import HISTORY, ITEMS, POPULATION, USERS, WIDTH, K, histories, in_turn, serve


def main() -> None:
    item = histories()
    user = np.repeat(np.arange(POPULATION), HISTORY)
    seen = sp.csr_matrix(
        (np.ones(item.size, np.float32), (user, item.reshape(-1))), shape=(POPULATION, ITEMS)
    )
    model = AlternatingLeastSquares(factors=WIDTH, iterations=2, num_threads=1, random_state=0)
    model.fit(seen, show_progress=False)
    functions = {}
    for name, again in (("recommend", False), ("fold-in", True)):

        def recommend(users: list[int], again: bool = again) -> object:
            asked = np.array(users) if len(users) > 1 else users[0]
            return model.recommend(asked, seen[users], N=K, recalculate_user=again)

        for users in USERS:
            functions[f"implicit als {name}|{users}|fp32"] = in_turn(recommend, users)
        assert not set(recommend([3])[0].tolist()) & set(item[3].tolist())
    serve(functions, {name: version(name) for name in ("implicit", "numpy")})


main()
