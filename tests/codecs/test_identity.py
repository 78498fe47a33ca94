from gistrec.codecs.identity import Identity
from gistrec.state import equal
from gistrec.testing.codecs import REFERENCE_LENGTH, CodecTests
from gistrec.testing.data import sample_state


class TestIdentity(CodecTests):
    codec = Identity()
    max_error = 0

    def test_encoded_state_is_smaller(self) -> None:
        state = sample_state(REFERENCE_LENGTH)
        assert equal(self.codec.encode(state), state)
