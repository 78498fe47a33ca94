"""`gistrec doctor`: whether this machine has what gistrec needs."""

import dataclasses

from gistrec.cli._output import Output, aligned


def doctor(*, output: Output = Output()) -> int:
    """Check that this machine has what gistrec needs.

    The exit code is 1 if something needed is broken.
    """
    from gistrec.doctor import check

    checks = check()
    document = {"checks": [dataclasses.asdict(c) for c in checks]}
    rows = [[c.status, c.name, c.detail] for c in checks]
    output.show(document, aligned(rows, left=3))
    return int(any(c.status == "broken" for c in checks))
