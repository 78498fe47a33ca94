import pytest
import torch

from gistrec.codecs import parse
from gistrec.codecs.stack import Stack
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import LearnedTests, relative_error, samples
from gistrec.testing.data import sample_state


class TestStack(LearnedTests):
    codec = Stack()
    max_error = 0

    def test_encoded_state_is_smaller(self) -> None:
        """Alone it only rearranges; a code behind it costs as much as for one tensor."""
        chains = [parse(spec).fit(samples()) for spec in ("rvq(levels=4)", "stack() | rvq()")]
        apart, joined = (chain.encode(sample_state(200)).tensors for chain in chains)
        assert sum(t.nbytes for n, t in apart.items() if n.endswith("codes")) == 199 * 16
        assert joined["stack.codes"].nbytes == 199 * 2

    def test_rows_stand_side_by_side_at_one_size(self) -> None:
        k, v = torch.full((2, 5, 3), 0.25), torch.full((1, 5, 2), 32.0)
        state = UserState({"k.0": k, "v.0": v}, 6)
        stacked = Stack().fit([state]).encode(state).tensors["stack"]
        assert torch.equal(stacked, torch.ones(5, 8))

    def test_joint_codes_are_nearer_than_separate_ones_of_the_same_bytes(self) -> None:
        rng = torch.Generator().manual_seed(0)
        mix = torch.randn(4, 48, generator=rng)  # both tensors are functions of 4 numbers

        def state(slots: int) -> UserState:
            x = torch.randn(slots, 4, generator=rng) @ mix
            return UserState({"k.0": x[None, :, :24], "v.0": x[None, :, 24:]}, slots + 1)

        fit, test = [state(300) for _ in range(8)], state(300)
        errors = [
            relative_error(chain.decode(chain.encode(test)), test)
            for chain in (parse(s).fit(fit) for s in ("rvq(levels=1)", "stack() | rvq(levels=2)"))
        ]
        assert errors[1] < 0.8 * errors[0]

    @pytest.mark.parametrize("behind", ["bf16()", "int8()", "rvq()", "lowrank(rank=5) | int8()"])
    def test_codecs_behind_it_stay_fixed(self, behind: str) -> None:
        chain = parse(f"stack() | {behind}").fit(samples())
        for length in (0, 1, 2, 64):
            encoded = chain.encode(sample_state(length))
            assert equal(chain.encode(chain.decode(encoded)), encoded)

    def test_other_tensors_are_an_error(self) -> None:
        state = sample_state(9)
        fewer = {n: t for n, t in state.tensors.items() if n != "v.1"}
        with pytest.raises(CodecError, match=r"fitted on \['v.1'\]"):
            self.fitted().encode(state.replace(fewer))
        with pytest.raises(CodecError, match="fit it first"):
            self.fitted().encode(state.replace({**state.tensors, "k.2": torch.zeros(2, 8, 8)}))
