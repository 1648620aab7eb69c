"""Error messages that name what came, what was expected and the nearest valid choice."""

import difflib
from collections.abc import Iterable


def unknown(argument: str, value: object, valid: Iterable[str]) -> ValueError:
    """The error for a name that is not one of the valid ones.

    Args:
        argument: what the user set, as the user writes it.
        value: what came.
        valid: the names that would have been accepted.

    Returns:
        A `ValueError` whose text has all three and the nearest valid name.
    """
    names = list(valid)
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(value).lower(), folded, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(repr(folded[name]) for name in near)}?" if near else ""
    shown = [repr(name) if "," in name else name for name in names[:40]] + ["..."] * (len(names) > 40)
    return ValueError(f"{argument}={value!r} is not known.{hint} Valid: {', '.join(shown)}.")
