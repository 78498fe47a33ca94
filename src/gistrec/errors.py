"""The exceptions that gistrec raises on purpose.

    GistrecError
    ├── ConfigError            a spec, option or setting is wrong
    ├── DataError              a log, file or id is wrong
    ├── StateError             a stored state can't be used
    │   ├── StaleStateError        written by another model or recipe
    │   ├── CorruptStateError      checksum or structure is wrong
    │   └── FormatVersionError     written in a format this version does not read
    ├── CodecError             a codec can't be applied here
    │   └── BudgetError            no setting of it reaches the byte budget
    ├── BusyError              too much is asked for at once
    └── StoreError             the store can't do it
        ├── ConflictError          somebody else wrote first (compare-and-set)
        └── StoreUnavailableError  can't be opened or reached

Every message says what was given, what is allowed, and what to do.
"""


class GistrecError(Exception):
    """Base of every error that gistrec raises on purpose."""


class ConfigError(GistrecError, ValueError):
    """A spec, an option or a setting is wrong."""


class DataError(GistrecError, ValueError):
    """An interaction log, one of its rows, or an id is wrong."""


class StateError(GistrecError):
    """A stored state can't be used."""


class StaleStateError(StateError):
    """The state was written by another model or recipe."""


class CorruptStateError(StateError):
    """The bytes are damaged: checksum or structure is wrong."""


class FormatVersionError(StateError):
    """The bytes were written in a format version that is not readable here."""


class CodecError(GistrecError, ValueError):
    """A codec can't be applied to this state or in this place of a chain."""


class BudgetError(CodecError):
    """No setting of the codec reaches the byte budget."""


class BusyError(GistrecError):
    """Too much is asked for at once; what was asked is not done, and may be asked again later.

    Args:
        message: What was asked.
        retry_after_s: When to try again, seconds.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreError(GistrecError):
    """A store could not do what was asked."""


class ConflictError(StoreError):
    """Compare-and-set failed: the entry was written by somebody else in between."""


class StoreUnavailableError(StoreError):
    """A store can't be opened or reached."""
