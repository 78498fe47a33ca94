import duckdb
import numpy as np
import pytest

from gistrec.backbones import Backbone
from gistrec.errors import ConfigError
from gistrec.recommender import Event, Recommender, identity_recipe
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.train import train
from gistrec.vectors import export_items, export_users


def columns(path) -> dict[str, np.ndarray]:
    with duckdb.connect() as con:
        return con.execute("SELECT * FROM read_parquet(?)", [str(path)]).fetchnumpy()


@pytest.fixture(scope="module")
def recommender():
    model = train(stride_dataset(), "hstu(width=8, num_layers=1)", epochs=1)
    with Recommender(model, identity_recipe(model), open_store("ram://")) as made:
        items = model.items.ids.tolist()
        made.observe("ann", [Event(items[3], 100), Event(items[5], 200)])
        made.observe("bob's", [Event(items[n % 7], 300 + n) for n in range(20)])
        made.observe("new", [Event(10**9, 100)])  # no item of the model
        yield made


def test_products_of_the_files_are_the_scores(recommender, tmp_path):
    seen = []
    assert export_items(recommender.model, tmp_path) == recommender.model.backbone.num_items
    assert export_users(recommender, tmp_path, at=10_000, report=seen.append) == 2
    assert seen == [3]
    items, users = columns(tmp_path / "items.parquet"), columns(tmp_path / "users.parquet")
    assert users["user_id"].tolist() == ["ann", "bob's"]
    product = np.stack(users["vector"]) @ np.stack(items["vector"]).T + items["bias"]
    for user, scores in zip(users["user_id"], product, strict=True):
        best = np.argsort(-scores, kind="stable")[:5]
        found = recommender.recommend(user, k=5, at=10_000, exclude_seen=False)
        assert [i.item_id for i in found] == items["item_id"][best].tolist()
        np.testing.assert_allclose([i.score for i in found], scores[best], rtol=1e-4)


def test_files_say_which_model_they_are_of(recommender, tmp_path):
    export_items(recommender.model, tmp_path)
    query = "SELECT key::VARCHAR, value::VARCHAR FROM parquet_kv_metadata(?)"
    with duckdb.connect() as con:
        said = dict(con.execute(query, [str(tmp_path / "items.parquet")]).fetchall())
    assert said["gistrec.model"] == recommender.model.backbone.fingerprint()


def test_a_store_without_users_is_a_file_without_rows(recommender, tmp_path):
    model = recommender.model
    with Recommender(model, identity_recipe(model), open_store("ram://")) as nobody:
        assert export_users(nobody, tmp_path) == 0
    assert len(columns(tmp_path / "users.parquet")["user_id"]) == 0


def test_an_architecture_without_vectors_says_so(recommender):
    with pytest.raises(ConfigError, match="hstu has no item vectors"):
        Backbone.item_vectors(recommender.backbone)
    with pytest.raises(ConfigError, match="hstu has no user vectors"):
        Backbone.user_vectors(recommender.backbone, [])
