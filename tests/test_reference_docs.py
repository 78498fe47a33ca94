import pytest

from gistrec import reference_docs, registry
from gistrec.errors import ConfigError
from gistrec.reference_docs import method, methods


def test_every_method_is_described():
    found = methods()
    assert [(m.family, m.name) for m in found] == [
        (family, name) for family in registry.FAMILIES for name in registry.names(family)
    ]
    for m in found:
        assert m.summary.endswith("."), m.name
        assert m.text.startswith(m.summary)


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("recent", "recent(keep, sink=4)"),
        ("int8", "int8()"),
        ("full", "full()"),
        ("ram", "ram://path"),
        ("lmdb", "lmdb://path?map_size=64g&sync=full"),
    ],
)
def test_usage_names_the_options_that_a_user_gives(name: str, usage: str):
    (found,) = method(name)
    assert found.usage == usage


def test_options_that_the_program_supplies_are_left_out():
    assert "num_items" not in {o.name for o in method("hstu")[0].options}
    assert "width" not in {o.name for o in method("collective")[0].options}


def test_help_comes_from_fields_bases_and_args_sections():
    helps = {
        o.name: o.help for name in ("recent", "parquet", "hstu") for o in method(name)[0].options
    }
    assert helps["keep"] == "Slots kept."  # of the base class
    assert helps["sink"].startswith("Of the kept slots")  # as the class itself says
    assert helps["item"].startswith("Column of item ids")
    assert helps["num_layers"] == "L."


def test_a_required_option_has_no_default():
    keep, sink = method("recent")[0].options
    assert (keep.required, keep.default) == (True, None)
    assert (sink.required, sink.default) == (False, 4)


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'lowrank'"):
        method("lowrnk")
    with pytest.raises(ConfigError, match="unknown method 'lmdb'"):
        method("lmdb", "codecs")


def test_the_page_sets_source_differs_and_cost_apart():
    page = reference_docs.methods_page()
    assert "\n\n**Source**: Xiao" in page
    assert "| `keep` | required | Slots kept. |" in page
    assert "[`recent`](#recent)" in page


def test_the_page_shows_what_was_measured_under_its_method():
    page = reference_docs.methods_page(measured={("codecs", "recent"): "**Measured**: 97.3%."})
    before, after = page.split("**Measured**")
    assert before.rindex("### recent") > before.rindex("### random")
    assert after.index("### rvq") < after.index("### snapkv")
    assert "Measured" not in reference_docs.methods_page("codecs")


def test_the_page_says_where_a_method_saves():
    assert "\n\n**Level**: token eviction\n\n**Source**: Xiao" in reference_docs.methods_page()
