"""Runs commands as from a shell, in this process, which starts TensorFlow only once."""

import contextlib
import io
from typing import NamedTuple

from sfocus_tf import __main__ as sfocus_main
from sfocus_tf.training import command


class Done(NamedTuple):
    """What a command left: as `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def train(*arguments) -> Done:
    """`python train.py ...`."""
    return _done(lambda: command.main(["train.py", *map(str, arguments)]))


def sfocus(*arguments) -> Done:
    """`python -m sfocus_tf ...`."""
    return _done(lambda: sfocus_main.main([*map(str, arguments)]))


def _done(run) -> Done:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run()
        except SystemExit as exit_:  # what the interpreter makes of it
            code = exit_.code
            if isinstance(code, str):
                err.write(f"{code}\n")
                code = 1
    return Done(code or 0, out.getvalue(), err.getvalue())
