"""`gistrec completion`: what a shell needs to complete verbs and options."""

from typing import Literal

from gistrec.cli._output import Output
from gistrec.errors import ConfigError


def completion(
    # in the order of cyclopts: typing takes a union that it has seen for one of another order
    shell: Literal["zsh", "bash", "fish", "powershell"] | None = None,
    /,
    *,
    install: bool = False,
    output: Output = Output(),
) -> None:
    """Print the script by which a shell completes verbs and options.

    Args:
        shell: The one that runs this if not given.
        install: Put the script where the shell looks for it and have its startup file load it,
            instead of printing it.
    """
    from cyclopts.completion.detect import ShellDetectionError

    from gistrec.cli import app

    try:
        if install:
            path = str(app.install_completion(shell=shell))
            output.show({"installed": path}, f"{path} is installed: begin a new shell")
        else:
            script = app.generate_completion(shell=shell)
            output.show({"script": script}, script)
    except ShellDetectionError:
        raise ConfigError(
            "which shell runs this is not known: name it, for example gistrec completion bash"
        ) from None
