"""Chooses and compares the looks that benchmarks/second_look.py has stored."""

import itertools

import numpy as np

from benchmarks import looks

SHARE = 0.3  # of the images looked at again
_WEIGHTS = (0.0, 0.3, 0.5, 0.7)  # of the second look; 0 is one look
_ATTENTION = tuple("-".join(of) for of in looks.MAPS)
_REGIONS = (*_ATTENTION, "central", "random", "box")
# One look of about the cost of both, and of twice the cost of the first, in pixels, by the size of the first.
_EQUAL, _TWICE = {192: 224, 240: 272}, {192: 272, 240: 336}
_CONTROLS = ("equal", "central", "random")
_RESAMPLES = 10_000


def read(folder, folds):
    """The stored runs by seed, of those seeds that have all folds; each a list by fold."""
    seeds = sorted({int(path.stem.split("-")[1]) for path in folder.glob("*.npz")})
    files = {seed: [folder / f"{fold}-{seed}.npz" for fold in range(folds)] for seed in seeds}
    return {
        seed: [dict(np.load(path)) for path in paths]
        for seed, paths in files.items()
        if all(path.exists() for path in paths)
    }


def summary(folder, folds):
    """For each size of the first look: accuracy of every way to look, and each attended region against the controls."""
    runs = read(folder, folds)
    result = {"seeds": list(runs)}
    if not runs:
        return result
    for base in looks.BASES:
        sizes = {"one": base, "equal": _EQUAL[base], "twice": _TWICE[base]}
        correct = {}
        for way in (*sizes, *_REGIONS):
            by_seed = [_right(by_fold, base, way, sizes.get(way)) for by_fold in runs.values()]
            correct[way] = np.mean(by_seed, axis=0)
        result[str(base)] = {
            way: {"accuracy": round(100 * float(values.mean()), 2)}
            | ({control: _interval(values - correct[control]) for control in _CONTROLS} if way in _ATTENTION else {})
            for way, values in correct.items()
        }
    return result


def _right(by_fold, base, way, size):
    """Whether each test image is classified right: by one look of a size, or if it is `None` by a second look."""
    answers = [
        _again(run, fold, by_fold, base, way) if size is None else _one(run, size) for fold, run in enumerate(by_fold)
    ]
    images = np.concatenate([run["images"][run["test"]] for run in by_fold])
    right = np.concatenate([answer[run["test"]] for answer, run in zip(answers, by_fold, strict=True)])
    return right[np.argsort(images)]


def _look(run, name):
    return run["probabilities"][list(run["names"]).index(name)].astype(np.float64)


def _one(run, size):
    return _look(run, f"one:{size}").argmax(1) == run["labels"]


def _again(run, fold, by_fold, base, region):
    """Whether both looks together are right, with amount and weight chosen by the images of other folds."""
    # The network before this one has this fold's images in its validation part.
    others = [other for number, other in enumerate(by_fold) if number != (fold - 1) % len(by_fold)]
    threshold = np.quantile(np.concatenate([_margin(other, base)[~other["test"]] for other in others]), SHARE)
    amounts = [name for name in run["names"] if name.startswith(f"{base}:{region}:")]

    def accuracy(choice):
        return np.mean(np.concatenate([_both(other, base, threshold, *choice)[~other["test"]] for other in others]))

    return _both(run, base, threshold, *max(itertools.product(amounts, _WEIGHTS), key=accuracy))


def _margin(run, base):
    first = np.sort(_look(run, f"one:{base}"), axis=1)
    return first[:, -1] - first[:, -2]


def _both(run, base, threshold, name, weight):
    first = _look(run, f"one:{base}")
    both = (1 - weight) * first + weight * _look(run, name)
    return np.where((_margin(run, base) < threshold)[:, np.newaxis], both, first).argmax(1) == run["labels"]


def _interval(differences):
    """Mean of paired differences in points, with the 95 % interval of a bootstrap over the images."""
    drawn = np.random.default_rng(0).choice(differences, (_RESAMPLES, len(differences))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return [round(100 * float(value), 2) for value in (differences.mean(), low, high)]


def markdown(found):
    """A table for each size of the first look."""
    lines = [f"seeds {found['seeds']}"]
    for base in (key for key in found if key != "seeds"):
        lines += [
            "",
            f"| first look at {base} pixels | accuracy | over one look of equal cost | central | random |",
            "|---|---|---|---|---|",
        ]
        for name, row in found[base].items():
            cells = [f"{row[c][0]:+.2f} ({row[c][1]:+.2f} to {row[c][2]:+.2f})" if c in row else "" for c in _CONTROLS]
            lines.append(f"| {name} | {row['accuracy']} | {' | '.join(cells)} |")
    return "\n".join(lines)
