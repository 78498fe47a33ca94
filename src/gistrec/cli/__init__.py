"""The command line: `gistrec VERB`, one file per verb, each a few lines that call the library.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted. What goes wrong is one line on stderr.
Verbs import the library inside their functions, so that help and wrong use answer at once.
"""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import gistrec
from gistrec.cli._output import MARKDOWN, PARAMETER
from gistrec.cli.bench import bench
from gistrec.cli.completion import completion
from gistrec.cli.data import app as data
from gistrec.cli.demo import demo
from gistrec.cli.doctor import doctor
from gistrec.cli.export import export
from gistrec.cli.import_ import import_
from gistrec.cli.keys import app as keys
from gistrec.cli.methods import methods
from gistrec.cli.plan import plan
from gistrec.cli.recommend import recommend
from gistrec.cli.report import report
from gistrec.cli.serve import serve
from gistrec.cli.state import app as state
from gistrec.cli.train import app as train
from gistrec.cli.vectors import vectors
from gistrec.errors import CodecError, ConfigError, GistrecError

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="gistrec",
    help="Long-sequence recommenders that keep the gist of every user's history in bytes.",
    version=lambda: gistrec.__version__,
    help_format="plaintext",  # of the list of verbs: markdown takes another 40 ms
    default_parameter=PARAMETER,
    suppress_keyboard_interrupt=False,
)
for verb in (
    bench,
    completion,
    data,
    demo,
    doctor,
    export,
    keys,
    methods,
    plan,
    recommend,
    report,
    serve,
    state,
    train,
    vectors,
):
    app.command(verb, **({} if isinstance(verb, App) else MARKDOWN))
app.command(import_, name="import", **MARKDOWN)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` by default; its exit code."""
    # read when torch loads. Its tensors are small here, and a second thread made training and
    # requests four to seventeen times slower on two cores; OMP_NUM_THREADS in the environment wins
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        code = app(
            sys.argv[1:] if arguments is None else arguments,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except (CycloptsError, CodecError, ConfigError) as error:
        return _told(str(error), WRONG_USE)
    except GistrecError as error:
        return _told(str(error), FAILED)
    except BrokenPipeError:  # `gistrec ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
        return DONE
    except OSError as error:
        named = error.filename and error.strerror
        return _told(f"{error.filename}: {error.strerror}" if named else str(error), FAILED)
    except KeyboardInterrupt:
        return _told("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else DONE


def reference() -> str:
    """The text of `docs/cli.md`."""
    from gistrec.reference_docs import MADE

    running, sys.argv = sys.argv, ["gistrec"]  # cyclopts puts the running program's name into it
    try:
        title, _, body = app.generate_docs().partition("\n")
    finally:
        sys.argv = running
    return f"{title}\n\n{MADE}\n{body.rstrip()}\n"


def _told(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code
