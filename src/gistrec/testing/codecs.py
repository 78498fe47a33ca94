"""Conformance of codecs: name an instance, inherit the laws.

    class TestInt8(CodecTests):
        codec = Int8()
        max_error = 0.01

`LearnedTests` adds what holds for codecs with fitted tables, `ByteCodecTests` is for byte codecs.
Golden files (`golden/codecs/<name>/` beside the test's folder) are written by `make golden` when
they are missing, and never again: what was stored once must stay readable.
"""

import inspect
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save, save_file

from gistrec.codecs import ByteCodec, Chain, Codec, chain, is_row_tensor, parse
from gistrec.errors import CodecError, CorruptStateError
from gistrec.state import UserState, equal, positions, slot_axis
from gistrec.testing.data import sample_state

LENGTHS = (0, 1, 2, 7, 64)
STARTS = (0, 5, 20)
REFERENCE_LENGTH = 200


def samples() -> list[UserState]:
    """States to fit on: none of them is tested on."""
    return [sample_state(length, seed=seed) for seed in range(100, 120) for length in (1, 40, 90)]


def save_state(path: Path, state: UserState) -> None:
    """A state as a safetensors file."""
    tensors = {name: tensor.contiguous().clone() for name, tensor in state.tensors.items()}
    save_file(tensors, path, {"length": str(state.length), "model": state.model})


def load_state(path: Path) -> UserState:
    """The inverse of `save_state`."""
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    return UserState(tensors, int(facts["length"]), facts["model"])


def first_slots(state: UserState, count: int) -> UserState:
    """The state cut to its oldest slots."""
    return state.replace(
        {
            name: tensor
            if name.startswith("tail.")
            else tensor.narrow(slot_axis(name, tensor), 0, count)
            for name, tensor in state.tensors.items()
        }
    )


def append_slot(held: UserState, whole: UserState, place: int) -> UserState:
    """What a backbone does: the held slots followed by slot `place` of the whole history."""
    new = whole.select(torch.tensor([place])).tensors
    return held.replace(
        dict(held.tensors)
        | {n: torch.cat([t, new[n]], dim=slot_axis(n, t)) for n, t in held.slots()}
    )


def _shared_slots(state: UserState, other: UserState) -> UserState:
    return state.select(torch.isin(positions(state), positions(other)).nonzero()[:, 0])


def odd_numbers(state: UserState | None = None) -> UserState:
    """A state with rows of zeros, tiny and huge numbers, equal numbers and powers of two."""
    state = sample_state(REFERENCE_LENGTH) if state is None else state
    slots = state.num_slots
    scale_M1 = torch.ones(slots, 1)
    scale_M1[0::5] = 10.0 ** torch.linspace(-44, 37, len(scale_M1[0::5]))[:, None]
    scale_M1[1::5] = 0
    tensors = dict(state.tensors)
    for name, tensor in state.tensors.items():
        if is_row_tensor(name, tensor):
            odd = tensor * scale_M1
            odd[..., 2::5, :] = 2.0 ** odd[..., 2::5, :].round()
            odd[..., 3::5, :] = odd[..., 3::5, :1]
            tensors[name] = odd
    return state.replace(tensors)


def relative_error(decoded: UserState, state: UserState) -> float:
    """|decoded - state| / |state| over the row tensors of the slots that are left."""
    kept = state.select(positions(decoded)).tensors
    rows = {name: tensor for name, tensor in kept.items() if is_row_tensor(name, tensor)}
    wrong = torch.cat([(decoded.tensors[name] - x).flatten() for name, x in rows.items()])
    return float(wrong.norm() / torch.cat([x.flatten() for x in rows.values()]).norm())


class _Golden:
    """Files that were written once, by an earlier version."""

    @classmethod
    def folder(cls) -> Path:
        name = cls.codec.spec.name  # type: ignore[attr-defined]  # both subclasses have it
        return Path(inspect.getfile(cls)).parents[1] / "golden" / "codecs" / str(name)

    @classmethod
    def read(cls) -> Chain:
        """The codec as it was then."""
        codec = parse((cls.folder() / "spec.txt").read_text())
        tables = cls.folder() / "tables.safetensors"
        return codec.with_tables(load(tables.read_bytes())) if tables.exists() else codec

    @classmethod
    def write(cls, codec: Codec | ByteCodec) -> None:
        cls.folder().mkdir(parents=True)
        (cls.folder() / "spec.txt").write_text(f"{codec}\n")
        if tables := chain([codec]).all_tables():
            (cls.folder() / "tables.safetensors").write_bytes(save(tables))


class CodecTests(_Golden):
    """The laws of a codec of states."""

    codec: ClassVar[Codec]
    """The codec, not fitted."""
    max_error: ClassVar[float]
    """Largest relative error on a sample state it was not fitted on."""
    fit_on: ClassVar[Sequence[UserState]] = ()
    """States to fit on; empty: `samples()`."""

    @classmethod
    def sample(cls, length: int, *, seed: int = 0) -> UserState:
        """A state to encode, with what the codec needs."""
        return sample_state(length, seed=seed)

    @classmethod
    def odd_numbers(cls) -> UserState:
        """A state of rows that are hard to quantise."""
        return odd_numbers(cls.sample(REFERENCE_LENGTH))

    @classmethod
    @cache
    def fitted(cls) -> Codec:
        return cls.codec.fit(cls.fit_on or samples())

    def test_input_is_untouched(self) -> None:
        state, same = self.sample(64), self.sample(64)
        encoded = self.fitted().encode(state)
        assert equal(state, same)
        self.fitted().decode(encoded)
        assert equal(encoded, self.fitted().encode(same))

    @pytest.mark.parametrize("length", LENGTHS)
    def test_encoding_again_changes_nothing(self, length: int) -> None:
        for seed in range(5):
            encoded = self.fitted().encode(self.sample(length, seed=seed))
            again = self.fitted().encode(self.fitted().decode(encoded))
            assert equal(again, encoded)

    def test_encoding_odd_numbers_again_changes_nothing(self) -> None:
        encoded = self.fitted().encode(self.odd_numbers())
        decoded = self.fitted().decode(encoded)
        assert all(bool(t.isfinite().all()) for t in decoded.tensors.values())
        assert equal(self.fitted().encode(decoded), encoded)

    @pytest.mark.parametrize("length", LENGTHS)
    def test_decoding_restores_the_tensors(self, length: int) -> None:
        state = self.sample(length)
        decoded = self.fitted().decode(self.fitted().encode(state))
        kept = state.select(positions(decoded))
        assert decoded.tensors.keys() - {"pos"} == state.tensors.keys()
        assert (decoded.length, decoded.model) == (state.length, state.model)
        for name, tensor in decoded.tensors.items():
            assert (tensor.dtype, tensor.shape) == (
                kept.tensors[name].dtype,
                kept.tensors[name].shape,
            )
            if name.startswith("hint."):  # codecs may store them in coarse steps
                torch.testing.assert_close(tensor, kept.tensors[name], rtol=1e-3, atol=1e-6)
            elif not is_row_tensor(name, tensor):
                assert torch.equal(tensor, kept.tensors[name])

    def test_tensors_are_the_same_at_every_length(self) -> None:
        def layout(state: UserState) -> dict[str, tuple[torch.dtype, list[int]]]:
            found = {}
            for name, tensor in state.tensors.items():
                shape = list(tensor.shape)
                shape[slot_axis(name, tensor)] = -1
                found[name] = (tensor.dtype, shape)
            return found

        layouts = [layout(self.fitted().encode(self.sample(length))) for length in LENGTHS]
        assert layouts[1:] == layouts[:-1]

    def test_states_without_items(self) -> None:
        state = self.sample(64)
        tensors = {n: t for n, t in state.tensors.items() if n != "item"}
        encoded = self.fitted().encode(state.replace(tensors))
        whole = self.fitted().encode(state)
        assert equal(encoded, whole.replace({n: whole.tensors[n] for n in encoded.tensors}))
        assert "item" not in encoded.tensors

    def test_spec_round_trip(self) -> None:
        assert parse(str(self.codec)) == chain([self.codec])
        assert parse(repr(self.codec)) == chain([self.codec])

    def test_encoded_state_is_smaller(self) -> None:
        state = self.sample(REFERENCE_LENGTH)
        assert self.fitted().encode(state).nbytes < state.nbytes

    def test_error_is_bounded(self) -> None:
        state = self.sample(REFERENCE_LENGTH)
        decoded = self.fitted().decode(self.fitted().encode(state))
        assert relative_error(decoded, state) <= self.max_error

    def test_appending_leaves_the_codes_of_older_slots(self) -> None:
        whole = self.sample(51)
        held = self.fitted().encode(first_slots(whole, 0))
        for place in range(50):
            before = held
            held = self.fitted().encode(append_slot(self.fitted().decode(before), whole, place))
            assert equal(_shared_slots(before, held), _shared_slots(held, before))

    def test_many_states_are_coded_as_each_is(self) -> None:
        joined = chain([self.fitted()])
        states = [self.sample(length, seed=seed) for seed, length in enumerate((5, 0, 1, 40))]
        encoded = joined.encode_many(states)
        assert all(map(equal, encoded, map(joined.encode, states)))
        assert all(map(equal, joined.decode_many(encoded), map(joined.decode, encoded)))

    def test_grown_states_are_coded_as_if_anew(self) -> None:
        joined = chain([self.fitted()])
        wholes = [self.sample(41, seed=seed) for seed in range(3)]
        encoded = [
            joined.encode(first_slots(whole, start))
            for whole, start in zip(wholes, STARTS, strict=True)
        ]
        decoded = joined.decode_many(encoded)
        for step in range(20):
            grown = [
                append_slot(state, whole, start + step)
                for state, whole, start in zip(decoded, wholes, STARTS, strict=True)
            ]
            encoded, decoded = joined.encode_grown(grown, encoded)
            assert all(map(equal, encoded, map(joined.encode, grown)))
            assert all(map(equal, decoded, map(joined.decode, encoded)))

    @classmethod
    def write_golden(cls) -> None:
        cls.write(cls.fitted())
        state = cls.sample(12, seed=1)
        encoded = cls.fitted().encode(state)
        save_state(cls.folder() / "state.safetensors", state)
        save_state(cls.folder() / "encoded.safetensors", encoded)
        save_state(cls.folder() / "decoded.safetensors", cls.fitted().decode(encoded))

    def test_golden(self) -> None:
        codec = self.read()
        encoded = load_state(self.folder() / "encoded.safetensors")
        expected = load_state(self.folder() / "decoded.safetensors")
        decoded = codec.decode(encoded)
        assert decoded.tensors.keys() == expected.tensors.keys()
        for name, tensor in expected.tensors.items():
            torch.testing.assert_close(decoded.tensors[name], tensor, rtol=1e-6, atol=1e-7)
        assert equal(codec.encode(decoded), encoded)
        assert equal(codec.encode(load_state(self.folder() / "state.safetensors")), encoded)


class LearnedTests(CodecTests):
    """The laws of a codec with fitted tables."""

    def test_tables_survive_a_file(self) -> None:
        again = self.codec.with_tables(load(save(dict(self.fitted().tables))))
        encoded = self.fitted().encode(sample_state(64))
        assert equal(again.encode(sample_state(64)), encoded)
        assert equal(again.decode(encoded), self.fitted().decode(encoded))

    def test_fitting_twice_gives_the_same(self) -> None:
        tables = self.codec.fit(self.fit_on or samples()).tables
        assert tables.keys() == self.fitted().tables.keys()
        assert all(torch.equal(t, tables[n]) for n, t in self.fitted().tables.items())

    def test_use_before_fit_is_an_error(self) -> None:
        with pytest.raises(CodecError, match="not fitted"):
            self.codec.encode(sample_state(7))

    def test_fit_without_slots_is_an_error(self) -> None:
        with pytest.raises(CodecError, match="some history"):
            self.codec.fit([sample_state(1)])

    def test_fit_on_numbers_that_are_not_finite_is_an_error(self) -> None:
        with pytest.raises(CodecError, match="infinite or NaN"):
            self.codec.fit([UserState({"k.0": torch.full((2, 3, 4), torch.nan)}, 3)])


class ByteCodecTests(_Golden):
    """The laws of a byte codec."""

    codec: ClassVar[ByteCodec]
    """The codec, not fitted."""

    @staticmethod
    def payloads() -> list[bytes]:
        """What packed states look like: empty, random, repetitive, and both."""
        rng = np.random.default_rng(0)
        noise = rng.bytes(2000)
        return [b"", b"\0", noise[:7], noise, bytes(2000), noise + bytes(500), noise[:9] * 300]

    @classmethod
    @cache
    def fitted(cls) -> ByteCodec:
        rng = np.random.default_rng(1)
        return cls.codec.fit_bytes([rng.bytes(20) + bytes(range(100)) for _ in range(200)])

    def test_expand_is_the_inverse(self) -> None:
        for data in self.payloads():
            assert self.fitted().expand(self.fitted().compress(data)) == data

    def test_it_shrinks_and_hardly_ever_grows(self) -> None:
        sizes = [len(self.fitted().compress(data)) - len(data) for data in self.payloads()]
        assert max(sizes) <= 1
        assert min(sizes) < -1900

    def test_garbage_is_an_error(self) -> None:
        good = self.fitted().compress(bytes(2000))
        for bad in (b"", b"\xff" + good, good[:-1], good + b"\0", good[:1], b"\1" + bytes(20)):
            with pytest.raises(CorruptStateError):
                self.fitted().expand(bad)

    def test_spec_round_trip(self) -> None:
        assert parse(str(self.codec)).byte_codecs == (self.codec,)
        assert parse(repr(self.codec)).byte_codecs == (self.codec,)

    @classmethod
    def write_golden(cls) -> None:
        cls.write(cls.fitted())
        data = bytes(range(100)) * 3
        (cls.folder() / "data.bin").write_bytes(data)
        (cls.folder() / "encoded.bin").write_bytes(cls.fitted().compress(data))

    def test_golden(self) -> None:
        encoded = (self.folder() / "encoded.bin").read_bytes()
        assert self.read().expand(encoded) == (self.folder() / "data.bin").read_bytes()
