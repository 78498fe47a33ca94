"""All recipes that make sense, read from the registry, and how one is drawn."""

import dataclasses
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Self

from gistrec import codecs, registry
from gistrec.codecs import BYTES, PRECISION, SLOTS, WIDTH, Chain, Codec, Evict, is_row_tensor
from gistrec.errors import CodecError, GistrecError
from gistrec.registry import Spec
from gistrec.state import UserState

if TYPE_CHECKING:
    import optuna

_STAGES = {"slots": SLOTS, "width": WIDTH, "precision": PRECISION, "bytes": BYTES}


@dataclasses.dataclass(frozen=True)
class Space:
    """One codec of each stage, or none; a precision always."""

    names: Mapping[str, Sequence[str]]
    """Stage -> codecs; the empty name leaves the stage out."""
    examples: Mapping[str, Any]
    """Codec -> one with the smallest required options that it takes."""
    values: Mapping[str, Mapping[str, Sequence[Any]]]
    """Codec -> option -> what to draw from."""
    left_out: Sequence[str]
    """Codecs that can't be loaded, and why."""

    @classmethod
    def of(cls, states: Sequence[UserState]) -> Self:
        """Ask the registry.

        Args:
            states: One of each model; a codec that finds what it needs in none is left out.
        """
        examples, left_out = {}, []
        for name in registry.names("codecs"):
            try:
                codec = _example(name)
            except Exception as error:  # one broken package must not end the search
                left_out.append(f"{name}: {said(error)}")
                continue
            if not isinstance(codec, Codec) or any(_is_fed(codec, state) for state in states):
                examples[name] = codec
        widths = [
            x.shape[-1] * prod(x.shape[:-2])
            for state in states
            for name, x in state.tensors.items()
            if is_row_tensor(name, x)
        ]
        names = {
            stage: [name for name, codec in examples.items() if codec.stage == number]
            for stage, number in _STAGES.items()
        }
        return cls(
            {stage: some if stage == "precision" else ["", *some] for stage, some in names.items()},
            examples,
            {name: _values(codec, max(widths, default=1)) for name, codec in examples.items()},
            left_out,
        )

    def draw(self, trial: "optuna.Trial") -> Chain:
        """A recipe. The first dial is left to the budget.

        Raises:
            CodecError: the parts do not go together.
        """
        parts: list[Any] = []
        for stage, names in self.names.items():
            if not (name := trial.suggest_categorical(stage, names)):
                continue
            example = self.examples[name]
            options = {option: getattr(example, option) for option in _required(name)}
            for option, values in self.values[name].items():
                if option != example.dial or any(part.dial for part in parts):
                    place = trial.suggest_int(f"{name}.{option}", 0, len(values) - 1)
                    options[option] = values[place]
            parts.append(registry.build("codecs", Spec(name, options)))
        return codecs.chain(parts)


def smallest(chain: Chain) -> Chain:
    """A recipe with its first dial at the end of fewest bytes."""
    parts = list(chain.codecs)
    for place, codec in enumerate(parts):
        if codec.dial:
            options = codec.spec.options | {codec.dial: codec.dial_values[0]}
            parts[place] = registry.build("codecs", Spec(codec.spec.name, options))
            break
    return codecs.chain([*parts, *chain.byte_codecs])


def said(error: Exception) -> str:
    """An error in words; those that nobody worded with their type."""
    return str(error) if isinstance(error, GistrecError) else f"{type(error).__name__}: {error}"


def _required(name: str) -> list[str]:
    options = registry.options_of(registry.find("codecs", name))
    return [option for option, default in options.items() if default is ...]


def _example(name: str) -> Any:
    """A codec whose required options are the smallest power of two that it takes."""
    required = _required(name)
    for size in [2**n for n in range(10)]:
        try:
            return registry.build("codecs", Spec(name, dict.fromkeys(required, size)))
        except GistrecError:
            if not required:
                raise
    return registry.build("codecs", Spec(name, dict.fromkeys(required, 1024)))


def _is_fed(codec: Codec, state: UserState) -> bool:
    try:
        codec.require(state)
    except CodecError:
        return False
    return True


def _values(codec: Any, width: int) -> dict[str, Sequence[Any]]:
    """What to draw: yes and no, sinks or none, dials in steps of at least a factor of two."""
    options = registry.options_of(type(codec))
    found: dict[str, Sequence[Any]] = {
        name: (False, True) for name, default in options.items() if isinstance(default, bool)
    }
    if isinstance(codec, Evict) and codec.sink:
        found["sink"] = (0, codec.sink)
    if codec.dial and codec.stage != SLOTS:
        found[codec.dial] = _steps(codec.dial_values, width)
    return found


def _steps(dial_values: Sequence[Any], width: int) -> Sequence[Any]:
    steps: list[Any] = []
    for value in dial_values:
        if not isinstance(value, int | float):
            return list(dial_values)
        last = steps[-1] if steps else 0
        # more numbers than a row has say no more than the row
        if not steps or (value <= width and max(value, last) >= 2 * min(value, last)):
            steps.append(value)
    return steps
