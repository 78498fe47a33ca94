import contextlib
import dataclasses
import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from gistrec.errors import (
    CorruptStateError,
    DataError,
    FormatVersionError,
    StaleStateError,
    StateError,
)
from gistrec.integers import Reader, encode
from gistrec.log_blocks import Logged, LogHead, encode_block
from gistrec.state import UserState, equal
from gistrec.testing.data import sample_state
from gistrec.wire import (
    Manifest,
    TensorSpec,
    check_user_id,
    digest,
    frame,
    manifest_of,
    pack,
    payload,
    split_bytes,
    unframe,
    unpack,
)

GOLDEN = Path(__file__).parent / "golden" / "wire"
LENGTHS = (0, 1, 2, 3, 50, 300)
STATES = {length: sample_state(length) for length in LENGTHS}
MODEL = STATES[0].model


def manifest_for(*states, **changes):
    return manifest_of(
        states, **{"model": states[0].model, "codec": "identity()", "tables": {}} | changes
    )


MANIFEST = manifest_for(*STATES.values())


NONE = torch.zeros(0, dtype=torch.int64)


def evicted(keep: int, length: int = 300) -> UserState:
    state = sample_state(length)
    return state.select(torch.arange(length - 1 - keep, length - 1))


@pytest.mark.parametrize("length", LENGTHS)
def test_a_state_comes_back(length):
    state = STATES[length]
    blob = pack(state, MANIFEST)
    assert equal(unpack(blob, MANIFEST), state)
    assert pack(unpack(blob, MANIFEST), MANIFEST) == blob


@given(st.integers(0, 40), st.integers(0, 5), st.integers(1, 3), st.integers(1, 5))
def test_states_of_all_shapes_come_back(length, seed, heads, width):
    state = sample_state(length, seed=seed, num_heads=heads, head_dim=width)
    manifest = manifest_for(state, sample_state(length + 1, num_heads=heads, head_dim=width))
    assert equal(unpack(pack(state, manifest), manifest), state)


def test_order_of_tensors_and_memory_layout_do_not_matter():
    state = STATES[50]
    turned = {n: t.flip(-1).contiguous().flip(-1) for n, t in reversed(state.tensors.items())}
    turned["k.0"] = state.tensors["k.0"].transpose(0, 1).contiguous().transpose(0, 1)
    turned["v.0"] = state.tensors["v.0"].clone().requires_grad_()
    assert pack(state.replace(turned), MANIFEST) == pack(state, MANIFEST)


@pytest.mark.parametrize("length", [1, 50, 300])
def test_overhead(length):
    state = STATES[length]
    assert len(pack(state, MANIFEST)) - len(payload(state, MANIFEST)) <= 12
    parts = split_bytes(state, MANIFEST)
    assert parts["floats"] == sum(state.tensors[n].nbytes for n in ("k.0", "v.0", "k.1", "v.1"))
    # times below 90,000 s apart take 17 bits, items below 3,000 take 12
    assert parts["positions"] <= 8 + length * 17 / 8
    assert parts["indices"] <= 4 + length * 12 / 8
    assert parts["tail"] <= 7


def test_overhead_of_an_evicted_state():
    manifest = manifest_for(evicted(0), evicted(5, 30), evicted(9, 70), STATES[0].select(NONE))
    state = evicted(64)
    assert len(pack(state, manifest)) - len(payload(state, manifest)) <= 13
    assert len(encode(state.tensors["pos"].numpy())) == 4


def test_split_bytes_adds_up():
    state = STATES[50]
    coded = {n: t for n, t in state.tensors.items() if n not in ("k.0", "v.0")}
    coded["k.0.q"] = torch.zeros(2, 49, 8, dtype=torch.int8)
    coded["k.0.scale"] = torch.ones(2, 49, 1, dtype=torch.bfloat16)
    coded["v.0.codes"] = torch.zeros(49, 3, dtype=torch.uint8)
    state = state.replace(coded)
    manifest = manifest_for(state, state.replace(coded, length=51))
    parts = split_bytes(state, manifest)
    assert sum(parts.values()) == len(pack(state, manifest))
    assert parts["scales"] == 2 * 49 * 2
    assert parts["indices"] == 49 * 3 + len(encode(coded["item"].numpy()))
    assert parts["positions"] == len(encode(coded["time"].numpy()))
    assert parts["floats"] == 2 * 2 * 49 * 8 * 4 + 2 * 49 * 8


DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tail", [False, True])
def test_every_bit_pattern_of_every_dtype(dtype, tail):
    bits = torch.randint(0, 256, (40 * dtype.itemsize,), generator=torch.manual_seed(0))
    values = bits.to(torch.uint8).view(dtype)
    name = "tail.x" if tail else "x"
    states = [UserState({name: values[:n]}, n) for n in (0, 1, 40)]
    manifest = manifest_for(*states)
    for state in states:
        found = unpack(pack(state, manifest), manifest).tensors[name]
        assert found.dtype == dtype
        # not torch.equal: some patterns are NaN
        assert found.untyped_storage().tolist() == bits[: len(found) * dtype.itemsize].tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bool, torch.complex64], ids=str)
def test_other_dtypes_are_refused(dtype):
    states = [UserState({"x": torch.zeros(n, dtype=dtype)}, n) for n in (0, 1)]
    with pytest.raises(StateError, match=r"'x' is of dtype \w+, which can't.*bfloat16"):
        manifest_for(*states)


def test_sizes_that_are_no_slots():
    """Parts with sizes of their own, the same in every layer; tails longer than one event."""

    def state(slots: int, groups: int, tail: int) -> UserState:
        tensors = {"tail.item": torch.arange(tail), "tail.time": torch.arange(tail)}
        for layer in range(3):
            for what in "kv":
                tensors[f"{what}.{layer}.q"] = torch.ones(2, slots, 4, dtype=torch.uint8)
                tensors[f"{what}.{layer}.scale"] = torch.ones(2, groups, 4).half()
        tensors["basis"] = torch.ones(3, slots + tail)
        return UserState(tensors, slots + tail)

    states = [state(0, 0, 0), state(1, 1, 1), state(70, 3, 1), state(9, 2, 5)]
    manifest = manifest_for(*states)
    for one in states:
        assert equal(unpack(pack(one, manifest), manifest), one)
    # a size each for basis, k.0.q and k.0.scale; the layers after the first cost nothing
    assert split_bytes(states[2], manifest)["header"] == 1 + 4 + 1 + 1 + 3 + 4


def test_fixed_sizes_cost_nothing():
    states = [UserState({"register": torch.ones(4, 8) * n}, n) for n in (0, 5, 90)]
    manifest = manifest_for(*states)
    assert manifest.tensors == (TensorSpec("register", "float32", (4, 8)),)
    assert len(pack(states[1], manifest)) == 1 + 4 + 1 + 4 * 8 * 4 + 4


def test_the_hook_wraps_the_payload():
    state = STATES[50]
    blob = pack(state, MANIFEST, compress=lambda data: zlib.compress(data)[::-1])
    assert equal(unpack(blob, MANIFEST, expand=lambda data: zlib.decompress(data[::-1])), state)
    plain = pack(state, MANIFEST)
    header = len(plain) - len(payload(state, MANIFEST)) - 4
    assert blob[:header] == plain[:header]


@given(st.sampled_from(LENGTHS[:5]), st.integers(1, 255))
def test_every_damaged_byte_is_noticed(length, damage):
    blob = pack(STATES[length], MANIFEST)
    for place in range(len(blob)):
        bad = bytearray(blob)
        bad[place] ^= damage
        with pytest.raises(StateError):
            unpack(bytes(bad), MANIFEST)


@pytest.mark.parametrize("length", LENGTHS[:5])
def test_every_cut_and_every_extra_byte_is_noticed(length):
    blob = pack(STATES[length], MANIFEST)
    for size in range(len(blob)):
        with pytest.raises(CorruptStateError, match="cut off"):
            unpack(blob[:size], MANIFEST)
    for extra in range(256):
        with pytest.raises(CorruptStateError):
            unpack(blob + bytes([extra]), MANIFEST)


def test_unknown_version_is_named():
    blob = pack(STATES[50], MANIFEST)
    for version in (0, 2, 77, 255):
        with pytest.raises(FormatVersionError, match=f"version {version}, this .* version 1"):
            unpack(bytes([version]) + blob[1:], MANIFEST)


def test_another_manifest_is_named():
    other = dataclasses.replace(MANIFEST, codec="bf16()")
    blob = pack(STATES[50], MANIFEST)
    with pytest.raises(StaleStateError, match=f"{MANIFEST.id:08x}.*{other.id:08x}"):
        unpack(blob, other)


@given(st.integers(0, 60), st.binary(max_size=80))
def test_any_payload_decodes_or_is_refused(length, data):
    """The checksum is right, the content is anything: nothing but a StateError comes out."""
    body = MANIFEST.id.to_bytes(4, "little") + bytes([length]) + data
    with contextlib.suppress(StateError):
        unpack(frame(body), MANIFEST)


def test_too_many_sizes_are_refused():
    body = MANIFEST.id.to_bytes(4, "little") + bytes([5, 100]) + bytes(200)
    with pytest.raises(CorruptStateError, match="100 sizes"):
        unpack(frame(body), MANIFEST)


class TestPackRefuses:
    def check(self, state: UserState, why: str) -> None:
        for function in (pack, split_bytes):
            with pytest.raises(StateError, match=why):
                function(state, MANIFEST)

    def test_a_missing_tensor(self):
        tensors = dict(STATES[50].tensors)
        del tensors["v.1"]
        self.check(STATES[50].replace(tensors), r"has v\.1 float32 .* has no such tensor")

    def test_a_tensor_too_many(self):
        tensors = {**STATES[50].tensors, "pos": torch.arange(49)}
        self.check(STATES[50].replace(tensors), r"has \['pos'\], which the manifest does not know")

    def test_another_dtype(self):
        tensors = {n: t.half() if n == "k.0" else t for n, t in STATES[50].tensors.items()}
        self.check(STATES[50].replace(tensors), r"k\.0 float32 \(2, -1, 8\).*k\.0 float16")

    def test_another_fixed_size(self):
        self.check(sample_state(50, head_dim=4), r"\(2, -1, 8\).*\(2, 49, 4\).*fit the recipe")

    def test_another_number_of_dimensions(self):
        tensors = {n: t[0] if n == "k.0" else t for n, t in STATES[50].tensors.items()}
        self.check(STATES[50].replace(tensors), r"\(2, -1, 8\).*\(49, 8\)")

    def test_another_model(self):
        state = STATES[50]
        with pytest.raises(StaleStateError, match=f"'other'.*{MODEL}"):
            pack(UserState(state.tensors, 50, "other"), MANIFEST)


class TestManifest:
    def test_finds_what_varies(self):
        shapes = {spec.name: spec.shape for spec in MANIFEST.tensors}
        assert shapes == {
            **dict.fromkeys(("k.0", "v.0", "k.1", "v.1"), (2, -1, 8)),
            **dict.fromkeys(("item", "time", "tail.item", "tail.time"), (-1,)),
        }
        assert manifest_for(STATES[2], STATES[3]).tensors[-1].shape == (1,)

    def test_json_and_back(self):
        plain = json.loads(json.dumps(MANIFEST.to_json()))
        assert Manifest.from_json(plain) == MANIFEST
        assert Manifest.from_json(plain).id == MANIFEST.id

    def test_id_is_the_documented_one(self):
        text = json.dumps(MANIFEST.to_json(), sort_keys=True, separators=(",", ":"))
        assert MANIFEST.id.to_bytes(4, "little") == hashlib.sha256(text.encode()).digest()[:4]

    def test_id_depends_on_everything(self):
        spec = MANIFEST.tensors[0]
        others = [
            dataclasses.replace(MANIFEST, model="x"),
            dataclasses.replace(MANIFEST, codec="x"),
            dataclasses.replace(MANIFEST, tables="x"),
            *(
                dataclasses.replace(
                    MANIFEST,
                    tensors=(dataclasses.replace(spec, **change), *MANIFEST.tensors[1:]),
                )
                for change in ({"name": "x"}, {"dtype": "float16"}, {"shape": (2, -1, 9)})
            ),
            dataclasses.replace(MANIFEST, tensors=MANIFEST.tensors[::-1]),
        ]
        assert len({m.id for m in (MANIFEST, *others)}) == 1 + len(others)

    @pytest.mark.parametrize("plain", [{}, [], {"model": 1}, None])
    def test_other_json_is_refused(self, plain):
        with pytest.raises(CorruptStateError, match="not a manifest"):
            Manifest.from_json(plain)

    def test_needs_several_lengths(self):
        with pytest.raises(StateError, match="2 sample states of one length"):
            manifest_for(STATES[50], sample_state(50, seed=1))

    def test_needs_the_same_tensors(self):
        more = STATES[3].replace({**STATES[3].tensors, "pos": torch.arange(2)})
        for states in ([STATES[50], more], [more, STATES[50]]):
            with pytest.raises(StateError, match=r"only some .*\['pos'\]"):
                manifest_for(*states)

    def test_needs_the_same_dtypes(self):
        half = {n: t.half() if n == "k.0" else t for n, t in STATES[3].tensors.items()}
        with pytest.raises(StateError, match=r"'k\.0' has several dtypes.*float16.*float32"):
            manifest_for(STATES[50], STATES[3].replace(half))


def test_digest_of_tables():
    table = torch.arange(6, dtype=torch.float32)
    tables = [
        {"a": table},
        {"b": table},
        {"a": table.reshape(2, 3)},
        {"a": table.to(torch.int32)},
        {"a": table + 1},
        {"a": table, "b": table},
    ]
    assert len({digest(t) for t in tables}) == len(tables)
    assert digest({"a": table, "b": table}) == digest({"b": table, "a": table.flip(0).flip(0)})
    assert digest({}) == ""
    assert manifest_for(*STATES.values(), tables=tables[0]).tables == digest(tables[0])


def test_frame():
    reader = unframe(frame(b"body"), "thing", "do this")
    assert reader.take(4) == b"body"
    with pytest.raises(CorruptStateError, match=r"the thing \(0 bytes\).*do this"):
        unframe(b"", "thing", "do this")


@pytest.mark.parametrize("user_id", ["u", "a/b", "é" * 128, "x" * 256, " "])
def test_user_ids(user_id):
    assert check_user_id(user_id) == user_id


@pytest.mark.parametrize("user_id", ["", "é" * 129, "x" * 257, "\ud800"])
def test_other_user_ids_are_refused(user_id):
    with pytest.raises(DataError, match="user id"):
        check_user_id(user_id)


@pytest.mark.parametrize("blob", sorted(GOLDEN.glob("state-*.bin")), ids=lambda path: path.stem)
def test_golden_states_decode(blob):
    manifest = Manifest.from_json(json.loads(blob.with_suffix(".json").read_text()))
    expected = safetensors.torch.load_file(blob.with_suffix(".safetensors"))
    length = int(expected.pop("length"))
    state = unpack(blob.read_bytes(), manifest)
    assert equal(state, UserState(expected, length, manifest.model))


def test_golden_integers_decode():
    cases = json.loads((GOLDEN / "integers-v1.json").read_text())
    assert len(cases) >= 6
    for case in cases:
        reader = Reader(bytes.fromhex(case["bytes"]))
        assert reader.ints(len(case["values"])).tolist() == case["values"]
        reader.finish()


class TestDocument:
    """The example in docs/state-format.md, byte for byte."""

    text = (Path(__file__).parents[1] / "docs" / "state-format.md").read_text()

    def block(self, kind: str, number: int = 0) -> list[str]:
        return self.text.split(f"```{kind}\n")[1 + number].split("```")[0].splitlines()

    def hex(self, number: int) -> bytes:
        columns = [line.split("  ")[0] for line in self.block("hex", number)]
        return bytes.fromhex("".join(columns))

    def test_state(self):
        manifest = Manifest.from_json(json.loads(self.block("json")[0]))
        blob = self.hex(0)
        expected = UserState(
            {
                "k.0.bf16": torch.tensor([[[1.0, -2.0], [0.5, 3.0]]]).bfloat16(),
                "item": torch.tensor([258, 7]),
                "pos": torch.tensor([3, 4]),
                "time": torch.tensor([1_600_000_000, 1_600_000_060]),
                "tail.item": torch.tensor([9]),
                "tail.time": torch.tensor([1_600_000_075]),
            },
            6,
            "0123456789abcdef",
        )
        assert equal(unpack(blob, manifest), expected)
        assert pack(expected, manifest) == blob
        assert f"manifest id {manifest.id:08x}" in self.text
        assert f"{len(blob)} bytes" in self.text

    def test_log(self):
        events = Logged(
            np.array([258, 7, 9]),
            np.array([1_600_000_000, 1_600_000_060, 1_600_000_075]),
            np.array([5, 4, 5]),
        )
        head, _ = LogHead(is_text=False).append(events)
        assert head.to_bytes() == self.hex(1)
        assert encode_block(events) == self.hex(2)
