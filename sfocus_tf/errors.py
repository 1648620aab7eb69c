"""Error messages that name the argument, its value, and what was expected."""

import difflib
import numbers
from collections.abc import Iterable


def unknown(argument: str, value: object, valid: Iterable[str]) -> ValueError:
    """The error for an unknown name.

    Args:
        argument: what the user set, as the user writes it.
        value: the value that was set.
        valid: the valid names.

    Returns:
        A `ValueError` that names all three and the nearest valid names.
    """
    names = list(valid)
    folded = {name.lower(): name for name in names}
    closest = difflib.get_close_matches(str(value).lower(), folded, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(repr(folded[name]) for name in closest)}?" if closest else ""
    shown = [repr(name) if "," in name else name for name in names[:40]] + ["..."] * (len(names) > 40)
    return ValueError(f"{argument}={value!r} is not known.{hint} Valid: {', '.join(shown)}.")


def check_count(argument: str, value: object) -> None:
    """Raises a `ValueError` for anything but a positive whole number."""
    if not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{argument}={value!r}: expected a positive whole number.")
