"""The exercises of chapters 06 to 13: wrong code and its sentence, right code in many forms."""

import itertools
import re
import statistics
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bn_helpers import checks, ensemble, reference
from bn_helpers.checks import evidence, failures, machines

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import exercises  # noqa: E402

HERE = {
    check.name: check
    for module in (evidence, failures, machines)
    for check in vars(module).values()
    if isinstance(check, checks.Check)
}
SOLUTIONS = {
    re.findall(r"checks\.(\w+)\(", cell.source)[-1]: exercises.untitled(cell.source)
    for path in sorted((ROOT / "book").glob("*.ipynb"))
    for cell in nbformat.read(path, as_version=4).cells
    if "solution" in cell.metadata.get("tags", [])
}
LOOP = "[next((s for s, a in zip(at, run) if a >= level), np.inf) for run in accuracies]"
# Check → what a learner wrote in place of a piece of the solution, and how the sentence begins.
WRONG = {
    "steps_over_seeds": [
        ("run >= level", "run > level", "a look at exactly the level"),
        ("at[there[0]]", "at[there[-1]]", "this is the last look"),
        ("at[there[0]]", "there[0]", "this is the number of the look"),
        ("at[there[0]]", "at[there[0] - 1]", None),
        ("else np.inf", "else at[0]", "a run that never gets there counts as one that did"),
        ("at[there[0]] if len(there) else np.inf", "at[(run >= level).argmax()]", "a run that nev"),
        ("else np.inf", "else at[-1]", "a run that never gets there counts with its last"),
        ("else np.inf", "else np.nan", "a run that never gets there is NaN"),
        ("np.median(steps)", "np.nanmin(steps)", "this is the fastest run"),
        ("np.median(steps)", "np.mean(steps)", "the runs' mean"),
        ("np.median(steps)", "np.median(np.array(steps)[np.isfinite(steps)])", "runs that never"),
        ("in accuracies", "in [np.median(accuracies, axis=0)]", "this is when the median curve"),
        ("at[there[0]]", "at[np.append(np.flatnonzero(run < level), -1)[-1] + 1]", None),
    ],
    "output_factor": [
        ("a * before", "abs(a) * before", "a negative a turns"),
        ("a**2 * var", "a * var", "the variance goes with the square"),
        ("a**2 * var + eps", "a**2 * (var + eps)", "this is a/|a|"),
        ("(var + eps)", "(var)", "BN(Wu), too, has its ε"),
        ("a * before / after", "after / before / a", "this is BN(Wu) over"),
        ("a * before / after", "a", "the batch's deviation grows with a"),
        ("np.sqrt", "", "the division is by the variance"),
        ("np.sqrt(a**2 * var + eps)", "np.sqrt(var + eps)", "the batch's deviation grows"),
    ],
    "lengths": [
        ("(1 - lr * decay)", "1", "the decay is not used"),
        ("(1 - lr * decay)", "(1 - decay)", "the decay acts with the rate"),
        ("np.hypot(shrunk, step)", "(shrunk + step)", "the step is added along W"),
        ("np.hypot(shrunk, step)", "(shrunk - step)", "the step is subtracted along W"),
        ("np.hypot(shrunk, step)", "(shrunk**2 + step**2)", None),
        ("push / found[-1]", "push", "the gradient's length falls"),
        ("push / found[-1]", "push / found[-1] ** 2", "the gradient is divided by ‖W‖²"),
        ("push / found[-1]", "push / shrunk", "the gradient is taken at the shrunk"),
        ("found = [start]", "found = []\n    found.append(start + 1)", None),
        ("return found", "return np.square(found)", "these are the squares"),
        ("return found", "return found[1:]", None),
    ],
    "drift": [
        (" / before.std(axis=0)", "", "the shift is not divided"),
        (" / before.std(axis=0)", " / before.var(axis=0)", "the unit is the variance"),
        (" / before.std(axis=0)", " / after.std(axis=0)", "the unit is the deviation after"),
        ("np.hypot(apart, wider)", "abs(apart)", "a change of width"),
        ("np.hypot(apart, wider)", "(abs(apart) + abs(wider))", "the two differences are added"),
        ("after.std(axis=0) - before.std(axis=0)", "after.var(0) - before.var(0)", "the variances"),
        ("std(axis=0", "std(axis=0, ddof=1", "the deviations divide by m − 1"),
        ("(axis=0)", "(axis=1)", None),
        ("np.mean(steps, axis=0)", "np.sum(steps, axis=0)", "the steps are added up"),
        ("np.median(", "np.mean(", "the units' mean is taken"),
        ("moved(seen[0], seen[-1])", "np.sum(steps, axis=0)", "the drift is the sum"),
        ("np.hypot(apart, wider)", "np.sqrt(((after - before) ** 2).mean(0))", "each example"),
    ],
    "group_norm": [
        ("(N, groups, C // groups, H, W)", "(N, 1, C, H, W)", "one mean serves all channels"),
        ("(N, groups, C // groups, H, W)", "(N, C, 1, H, W)", "each channel has its own mean"),
        ("(N, groups, C // groups, H, W)", "(N, C // groups, groups, H, W)", "`groups` is taken"),
        ("(2, 3, 4)", "(0, 2, 3, 4)", "the examples share"),
        ("(2, 3, 4)", "2", "each place has statistics"),
        ("np.sqrt(var + eps)", "(np.sqrt(var) + eps)", "ε is added to the root"),
        ("rows.var(", "rows.var(ddof=1, ", "the variance divides by one less"),
        (
            "x.reshape(N, groups, C // groups, H, W)",
            "x.reshape(N, C // groups, groups, H, W).swapaxes(1, 2)",
            None,
        ),
    ],
    "pair_slope": [
        ("return by_half / 2", "return by_half", "this is the slope by half the gap"),
        ("return by_half / 2", "return 1 / np.sqrt(half**2 + eps)", "mean and deviation are held"),
        ("return by_half / 2", "return 0 * a", "without ε the two values"),
        ("return by_half / 2", "return 0.5 / np.sqrt(half**2 + eps)", "the mean moves, but"),
        ("(a - b) / 2", "a - b", "x̂ has half the gap"),
        ("** 1.5", "** 0.5", "the root's third power"),
        ("eps / (half**2 + eps)", "eps**2 / (half**2 + eps**2)", "ε is squared"),
        ("half**2", "2 * half**2", "the variance divides by m − 1"),
    ],
    "top_k_error": [
        ("[:, -k:]", "[:, :k]", "these are the k lowest"),
        ("[:, -k:]", "[:, -k + 1 :]", "k − 1 classes"),
        ("[:, -k:]", "[:, -k - 1 :]", "k + 1 classes"),
        ("[:, -k:]", "[:, -1:]", "k is not used"),
        ("1 - right.mean()", "right.mean()", "this is the share that is right"),
        ("1 - right.mean()", "(~right).sum()", "the wrong ones are counted"),
        ("1 - right.mean()", "100 * (1 - right.mean())", "this is in per cent"),
        (".any(axis=1)", ".any(axis=0)", None),
        (
            "(best == labels[:, None]).any(axis=1)",
            "np.argsort(-scores, axis=1)[range(len(labels)), labels] < k",
            "argsort lists the classes",
        ),
    ],
    "mean_of_networks": [
        (
            "logits.max(axis=2, keepdims=True)",
            "(logits := logits.mean(0, keepdims=True)).max(2, keepdims=True)",
            "the logits are averaged",
        ),
        (
            "logits.max(axis=2, keepdims=True)",
            "(logits := logits.sum(0, keepdims=True)).max(2, keepdims=True)",
            "the networks' probabilities are multiplied",
        ),
        ("axis=2", "axis=1", "the softmax runs over the examples"),
        ("axis=2", "axis=0", "the softmax runs over the networks"),
        ("probabilities.mean(axis=0)", "probabilities.sum(axis=0)", "the probabilities are summed"),
        ("probabilities.mean(axis=0)", "probabilities.max(axis=0)", "the highest probability"),
        ("probabilities.mean(axis=0)", "logits.mean(axis=0)", "these are mean logits"),
        ("probabilities.mean(axis=0)", "np.exp(logits).mean(axis=0)", "exp of the logits is not"),
        (
            "probabilities.mean(axis=0)",
            "(probabilities == probabilities.max(2, keepdims=True)).mean(axis=0)",
            "each network votes",
        ),
    ],
    "times_fewer": [
        (
            "steps_until(at, slow, goal) / steps_until(at, quick, goal)",
            "steps_until(at, quick, goal) / steps_until(at, slow, goal)",
            "this is the other's steps",
        ),
        ("steps_until(at, quick, goal)", "steps_until(at, quick, quick.max())", "the other runs"),
        ("slow.max()", "slow[-1]", "the goal is plain's last"),
        ("slow.max()", "np.median(plain.max(axis=1))", "all seeds get one goal"),
        ("slow.max()", "plain.max()", None),
        ("else np.inf", "else at[0]", "a run that never gets there counts as one"),
        ("else np.inf", "else at[-1]", "a run that never gets there counts with its last"),
        ("np.median(ratios)", "np.mean(ratios)", "the ratios' mean"),
        ("np.median(ratios)", "np.median([r for r in ratios if r])", "seeds whose other run"),
        ("goal) / steps", "goal) - steps", "the steps are subtracted"),
        ("at[there[0]]", "there[0] + 1", "the looks are counted"),
    ],
    "lower_bound": [
        ("(3 + 5)", "3", None),
        ("(3 + 5) * size", "(3 + 5)", "these are values"),
        ("(3 + 5)", "2 * (3 + 5)", "a pass reads or writes"),
        ("(7 + 9) * values", "(7 + 9)", "these are the operations of one value"),
        ("max(moved / bandwidth,", "sum((moved / bandwidth,)) + (", "the two times are added"),
        ("max(", "min(", "the shorter time"),
        ("max(moved / bandwidth, operations / peak)", "moved / bandwidth", "memory decides"),
        ("max(moved / bandwidth, operations / peak)", "operations / peak", "arithmetic decides"),
    ],
    "combine": [
        ("(share * means).sum(axis=0)", "means.mean(axis=0)", "the means are averaged"),
        (" + (means - mean) ** 2", "", "the spread between the devices is missing"),
        ("(variances + (means - mean) ** 2)", "(means - mean) ** 2", "the variance within"),
        (" + (means - mean) ** 2", " - (means - mean) ** 2", "the spread between the devices is s"),
        (" + (means - mean) ** 2", " + abs(means - mean)", "the distance of a mean"),
        ("(means - mean)", "(means - means.mean(axis=0))", "the spread is taken around"),
        (
            "return mean, var",
            "M = sum(counts)\n    return mean, var * M / (M - 1)",
            "the variance d",
        ),
        ("(counts / counts.sum())[:, None]", "1 / len(counts)", None),
        ("return mean, var", "return var, mean", None),
    ],
    "shared_gradient": [
        (
            "mean_t = sum(t) / sum(m)",
            "mean_t = t[r] / m[r]",
            "each device still subtracts the mean",
        ),
        (
            "mean_s = sum(s) / sum(m)",
            "mean_s = s[r] / m[r]",
            "each device still subtracts the mean",
        ),
        ("/ sum(m)", "/ m[r]", "the sums of all are divided"),
        ("/ sum(m)", "/ len(m)", "the sums are divided by the number"),
        ("/ sum(m)", "/ (sum(m) - 1)", "the sums are divided by M − 1"),
        ("sum(m)", "m[r] * len(m)", None),
    ],
}
ROWS = [(name, *row) for name, rows in WRONG.items() for row in rows]


def written(source, name):
    """The function of that name in a learner's source; the last call, of the check, is left out."""
    place = {
        "np": np,
        "torch": torch,
        "reference": reference,
        "statistics": statistics,
        "pairwise": itertools.pairwise,
    }
    exec(re.sub(r"^checks\..*$", "", source, flags=re.M), place)
    return place[name]


def named(verdict):
    return [line for line in verdict.words.splitlines() if line.startswith("Mistake: ")]


def test_every_exercise_to_write_has_wrong_code_here():
    assert set(WRONG) == {n for n, check in HERE.items() if isinstance(check, checks.Exercise)}


@pytest.mark.parametrize(("name", "right", "wrong", "sentence"), ROWS)
def test_wrong_code_gets_its_sentence(name, right, wrong, sentence):
    assert right in SOLUTIONS[name]
    verdict = HERE[name].judge(written(SOLUTIONS[name].replace(right, wrong), name))
    assert verdict.outcome == "wrong"
    assert len(named(verdict)) == (sentence is not None) or sentence is None, verdict.words
    assert sentence is None or named(verdict)[0].startswith(f"Mistake: {sentence}"), verdict.words


@pytest.mark.parametrize("name", WRONG)
def test_the_solution_is_right_and_its_stub_is_not_attempted(name):
    assert HERE[name].judge(written(SOLUTIONS[name], name)) == ("right", "Right.", ())
    stub = exercises.stub(SOLUTIONS[name])
    assert HERE[name].judge(written(stub, name)).outcome == "not attempted"


def test_two_at_once():
    source = SOLUTIONS["combine"].replace(" + (means - mean) ** 2", "")
    source = source.replace("(share * means).sum(axis=0)", "means.mean(axis=0)")
    verdict = checks.combine.judge(written(source, "combine"))
    assert verdict.mistakes == ("plain mean", "no spread")


# Check → the lines of an attempt and, for each marked place, what may stand there.
CASTS = [
    "{}",
    "np.asfortranarray({})",
    "np.float32({})",
    "np.asarray({}).tolist()",
    "torch.from_numpy(np.array({}))",
    "np.array({})[None]",
]
SCALARS = ["{}", "float({})", "np.float32({})", "np.array([{}])", "torch.tensor(float({}))"]
BOTH = [
    "{}",
    "list({})",
    "np.array({})",
    "[float(part) for part in {}]",
    "tuple(np.float32(part) for part in {})",
]
PAIR = ["{}", "list({})", "tuple(np.float32(part) for part in {})", "[p.tolist() for p in {}]"]
RIGHT = {
    "steps_over_seeds": (
        "at, accuracies, level",
        "steps = ONE\n    return TWO",
        [
            LOOP,
            "np.where(accuracies >= level, at, np.inf).min(axis=1)",
            "[at[(run >= level).argmax()] if max(run) >= level else np.inf for run in accuracies]",
            "[np.append(at, np.inf)[np.append(run >= level, True).argmax()] for run in accuracies]",
            "[min([s for s, a in zip(at, r) if not a < level], default=9e999) for r in accuracies]",
            "[np.min(at[run >= level], initial=np.inf) for run in accuracies]",
            "[[*at, np.inf][np.searchsorted(np.maximum.accumulate(run), level)] for run in "
            "accuracies]",
            "[at[np.nonzero(r >= level)[0][0]] if any(r >= level) else np.inf for r in accuracies]",
        ],
        [
            "np.median(steps)",
            "np.median(np.asarray(steps, float))",
            "statistics.median(steps)",
            "(np.sort(steps)[(len(steps) - 1) // 2] + np.sort(steps)[len(steps) // 2]) / 2",
            "np.median(steps[::-1])",
        ],
        SCALARS,
    ),
    "output_factor": (
        "a, var, eps",
        "return ONE",
        [
            "a * np.sqrt((var + eps) / (a**2 * var + eps))",
            "np.sign(a) * np.sqrt((var + eps) / (var + eps / a**2))",
            "a / np.sqrt((a * a * var + eps) / (var + eps))",
            "np.array([s * (var + eps) ** 0.5 / (s * s * var + eps) ** 0.5 for s in a])",
            "a * np.exp(np.log(var + eps) / 2 - np.log(a**2 * var + eps) / 2)",
            "np.copysign(1, a) / np.sqrt((var + eps / a**2) / (var + eps))",
            "np.reciprocal(np.sqrt(a**2 * var + eps) / a / np.sqrt(var + eps))",
            "(a**2 * (var + eps) / (a**2 * var + eps)) ** 0.5 * np.where(a < 0, -1, 1)",
            "a * np.std([-((var + eps) ** 0.5), (var + eps) ** 0.5]) / np.sqrt(a**2 * var + eps)",
        ],
        CASTS,
    ),
    "lengths": (
        "start, push, lr, decay, steps",
        "L = [start]\n    for t in range(steps):\n        L.append(ONE)\n    return TWO",
        [
            "np.hypot((1 - lr * decay) * L[-1], lr * push / L[-1])",
            "((L[-1] - lr * decay * L[-1]) ** 2 + (lr * push / L[-1]) ** 2) ** 0.5",
            "abs((1 - lr * decay) * L[-1] + 1j * lr * push / L[-1])",
            "np.linalg.norm([(1 - lr * decay) * L[t], lr * push / L[t]])",
            "np.sqrt(L[-1] ** 2 * (1 - lr * decay) ** 2 + lr**2 * push**2 / L[-1] ** 2)",
            "L[t] * np.hypot(1 - lr * decay, lr * push / L[t] ** 2)",
            "np.linalg.norm(np.array([L[t], 0]) * (1 - lr * decay) - lr * np.array([0, push / "
            "L[t]]))",
            "(1 - lr * decay) * L[t] / np.cos(np.arctan(lr * push / L[t] / (L[t] * (1 - lr * "
            "decay))))",
        ],
        [
            "L",
            "np.array(L)",
            "tuple(L)",
            "np.array(L)[:, None]",
            "np.float32(L)",
            "torch.tensor(np.array(L))",
            "np.sqrt(np.square(L))",
        ],
    ),
    "drift": (
        "seen",
        "m, s = ONE\n    jumps = TWO\n    whole = THREE\n    return FOUR",
        [
            "seen.mean(axis=1), seen.std(axis=1)",
            "np.einsum('tnc->tc', seen) / seen.shape[1], np.sqrt(seen.var(axis=1))",
            "np.array([x.mean(0) for x in seen]), np.array([x.std(0) for x in seen])",
            "seen.mean(1), np.sqrt(((seen - seen.mean(1, keepdims=True)) ** 2).mean(1))",
            "np.moveaxis(seen, 1, 2).mean(-1), np.std(np.moveaxis(seen, 1, 2), axis=-1)",
            "seen.mean(1), seen.std(1, ddof=1) * ((seen.shape[1] - 1) / seen.shape[1]) ** 0.5",
            "seen.mean(1), np.sqrt((seen**2).mean(1) - seen.mean(1) ** 2)",
        ],
        [
            "np.hypot(np.diff(m, axis=0), np.diff(s, axis=0)) / s[:-1]",
            "np.array([np.hypot(m[t + 1] - m[t], s[t + 1] - s[t]) / s[t] for t in range(len(m) - "
            "1)])",
            "np.sqrt((m[:-1] - m[1:]) ** 2 + (s[:-1] - s[1:]) ** 2) / s[:-1]",
            "abs(np.diff(m, axis=0) + 1j * np.diff(s, axis=0)) / s[:-1]",
            "np.hypot(np.diff(m, axis=0) / s[:-1], s[1:] / s[:-1] - 1)",
        ],
        [
            "np.hypot(m[-1] - m[0], s[-1] - s[0]) / s[0]",
            "np.linalg.norm([(m[-1] - m[0]) / s[0], s[-1] / s[0] - 1], axis=0)",
        ],
        [
            "np.median(jumps.mean(0)), np.median(whole)",
            "[float(np.median(np.mean(jumps, axis=0))), float(np.median(whole))]",
            "np.array([np.median(jumps.sum(0)) / len(jumps), np.quantile(whole, 0.5)])",
            "statistics.median(jumps.mean(0)), statistics.median(whole)",
            "{'jitter': np.median(jumps.mean(0)), 'drift': np.median(whole)}",
        ],
    ),
    "group_norm": (
        "x, groups, eps",
        "N, C, H, W = x.shape\n    y = ONE\n    return y",
        [
            "torch.nn.functional.group_norm(torch.from_numpy(x), groups, eps=eps).numpy()",
            "np.concatenate([(p - p.mean((1, 2, 3), keepdims=True)) / np.sqrt(p.var((1, 2, 3), "
            "keepdims=True) + eps) for p in np.split(x, groups, axis=1)], axis=1)",
            "np.stack([np.concatenate([(p - p.mean()) / np.sqrt(p.var() + eps) for p in "
            "np.split(e, groups)]) for e in x])",
            "(lambda r: ((r - r.mean(1, keepdims=True)) / np.sqrt(r.var(1, keepdims=True) + "
            "eps)).reshape(x.shape))(x.reshape(N * groups, -1))",
            "(lambda r: ((r - r.mean(0)) / (r.var(0) + eps) ** 0.5).T.reshape(x.shape))"
            "(x.reshape(N * groups, -1).T)",
            "(lambda r: np.einsum('ngk,ng->ngk', r - r.mean(2)[..., None], (r.var(2) + eps) ** "
            "-0.5).reshape(x.shape))(x.reshape(N, groups, -1))",
        ],
        CASTS[:-1],
    ),
    "pair_slope": (
        "a, b, eps",
        "h = (a - b) / 2\n    return ONE",
        [
            "eps / (h * h + eps) ** 1.5 / 2",
            "0.5 * eps * np.sqrt(h**2 + eps) ** -3",
            "(1 / np.sqrt(h**2 + eps) - h**2 / np.sqrt(h**2 + eps) ** 3) / 2",
            "4 * eps / ((a - b) ** 2 + 4 * eps) ** 1.5",
            "(1 - h**2 / (h**2 + eps)) / (2 * np.sqrt(h**2 + eps))",
            "((h + 5e-6) / np.hypot(h + 5e-6, eps**0.5) - (h - 5e-6) / np.hypot(h - 5e-6, "
            "eps**0.5)) / 2e-5",
            "np.imag((h + 5e-31j) / np.sqrt((h + 5e-31j) ** 2 + eps)) / 1e-30",
            "reference.batchnorm_backward(np.stack([np.ones_like(a), 0 * a]), "
            "reference.batchnorm_forward(np.stack([a, b]), np.ones(len(a)), np.zeros(len(a)), "
            "eps=eps)[1])[0][0]",
            "np.stack([a, b]).var(0) * 0 + 0.5 * eps / (np.stack([a, b]).var(0) + eps) ** 1.5",
        ],
        CASTS,
    ),
    "top_k_error": (
        "scores, labels, k",
        "n = len(labels)\n    own = scores[np.arange(n), labels]\n    wrong = ONE\n    return TWO",
        [
            "(scores > own[:, None]).sum(axis=1) >= k",
            "own < np.sort(scores, axis=1)[:, -k]",
            "(np.argpartition(-scores, k - 1, axis=1)[:, :k] != labels[:, None]).all(axis=1)",
            "np.argsort(np.argsort(-scores, axis=1), axis=1)[np.arange(n), labels] >= k",
            "np.array([c not in sorted(range(len(s)), key=lambda i: -s[i])[:k] for s, c in "
            "zip(scores, labels)])",
            "~(torch.topk(torch.from_numpy(scores), k).indices.numpy() == labels[:, "
            "None]).any(axis=1)",
            "~np.any(np.argsort(scores)[:, ::-1][:, :k] == labels.reshape(-1, 1), axis=1)",
            "np.array([sum(s > s[c]) > k - 1 for s, c in zip(scores, labels)])",
            "~(np.eye(scores.shape[1])[np.argsort(-scores)[:, :k]].sum(1)[np.arange(n), labels] > "
            "0)",
        ],
        [
            "wrong.mean()",
            "wrong.sum() / n",
            "1 - (~wrong).mean()",
            "sum(wrong) / len(wrong)",
            "np.count_nonzero(wrong) / n",
            "float(np.mean(wrong))",
            "np.float32(wrong.mean())",
            "torch.tensor(wrong).double().mean()",
        ],
    ),
    "mean_of_networks": (
        "logits",
        "p = ONE\n    return TWO",
        [
            "np.exp(logits - logits.max(2, keepdims=True)) / np.exp(logits - logits.max(2, "
            "keepdims=True)).sum(2, keepdims=True)",
            "torch.softmax(torch.from_numpy(logits), dim=2).numpy()",
            "np.exp(logits - np.logaddexp.reduce(logits, axis=2, keepdims=True))",
            "1 / np.exp(logits[..., None, :] - logits[..., None]).sum(axis=-1)",
            "np.array([[np.exp(z - max(z)) / sum(np.exp(z - max(z))) for z in net] for net in "
            "logits])",
            "torch.nn.functional.log_softmax(torch.from_numpy(logits), -1).exp().numpy()",
            "np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum(2)[..., None]",
        ],
        [
            "p.mean(axis=0)",
            "p.sum(0) / len(p)",
            "sum(p) / len(logits)",
            "np.einsum('mnc->nc', p) / p.shape[0]",
            "np.average(p, axis=0)",
            "np.tensordot(np.full(len(p), 1 / len(p)), p, 1)",
        ],
        CASTS[:-1],
    ),
    "times_fewer": (
        "at, plain, other",
        "best = plain.max(axis=1, keepdims=True)\n    slow, quick = ONE\n    return TWO",
        [
            "(np.where(c >= best, at, np.inf).min(axis=1) for c in (plain, other))",
            "at[plain.argmax(axis=1)], np.where(other >= best, at, np.inf).min(axis=1)",
            "(np.array([next((s for s, a in zip(at, r) if a >= g), np.inf) for r, g in zip(c, "
            "best)]) for c in (plain, other))",
            "(np.array([[*at, np.inf][np.append(r >= g, True).argmax()] for r, g in zip(c, best)]) "
            "for c in (plain, other))",
            "(np.array([min(at[~(r < g)], default=np.inf) for r, g in zip(c, best)]) for c in "
            "(plain, other))",
            "(np.array([np.append(at, np.inf)[np.searchsorted(np.maximum.accumulate(r), g)[0]] for "
            "r, g in zip(c, best)]) for c in (plain, other))",
        ],
        [
            "np.median(slow / quick)",
            "statistics.median(slow / quick)",
            "np.median([a / b for a, b in zip(slow, quick)])",
            "np.quantile(slow * (1 / quick), 0.5)",
            "np.median(np.divide(slow, quick))",
            "np.median(slow[::-1] / quick[::-1])",
        ],
        SCALARS,
    ),
    "lower_bound": (
        "values, size, bandwidth, peak",
        "b, n = ONE\n    t = TWO\n    return THREE",
        [
            "8 * size * values, 16 * values",
            "size * (values * 3 + values * 5), sum([7 * values, 9 * values])",
            "np.float64(values) * size * 8, np.float64(values) * 16",
        ],
        [
            "max(b / bandwidth, n / peak)",
            "np.maximum(b / bandwidth, n / peak)",
            "n / min(peak, n / b * bandwidth)",
            "b / bandwidth if b / bandwidth > n / peak else n / peak",
            "sorted([n / peak, b / bandwidth])[-1]",
        ],
        [each.format("(b, n, t)") for each in BOTH],
    ),
    "combine": (
        "counts, means, variances",
        "n, M = counts[:, None], counts.sum()\n    mean = ONE\n    var = TWO\n    return THREE",
        [
            "(n * means).sum(0) / M",
            "counts @ means / M",
            "np.average(means, axis=0, weights=counts)",
            "np.einsum('w,wc->c', counts / M, means)",
            "sum(m * mu for m, mu in zip(counts, means)) / sum(counts)",
            "np.repeat(means, counts, axis=0).mean(axis=0)",
            "(torch.from_numpy(means) * torch.from_numpy(n)).sum(0).numpy() / M",
        ],
        [
            "(n / M * (variances + (means - mean) ** 2)).sum(0)",
            "counts @ (variances + np.square(means - mean)) / M",
            "np.average(variances, axis=0, weights=counts) + np.average((means - mean) ** 2, "
            "axis=0, weights=counts)",
            "(counts @ variances + np.einsum('w,wc->c', counts, (means - mean) ** 2)) / M",
            "sum(m * (v + (mu - mean) ** 2) for m, mu, v in zip(counts, means, variances)) / M",
            "np.repeat(variances, counts, 0).mean(0) + np.repeat(means, counts, 0).var(0)",
            "np.concatenate([np.repeat(means + np.sqrt(variances), counts, 0), np.repeat(means - "
            "np.sqrt(variances), counts, 0)]).var(0)",
            "counts @ variances / M + sum(counts[i] * counts[j] * (means[i] - means[j]) ** 2 for i "
            "in range(len(counts)) for j in range(i)) / M**2",
            "(n * (variances + means**2)).sum(0) / M - mean**2",
        ],
        [each.format("(mean, var)") for each in PAIR],
    ),
    "shared_gradient": (
        "dys, x_hats, gamma, inv_std",
        "g, z = map(np.concatenate, (dys, x_hats))\n    cuts = np.cumsum([len(d) for d in dys])"
        "[:-1]\n    dx = ONE\n    return TWO",
        [
            "gamma * inv_std * (g - g.mean(0) - z * (g * z).mean(0))",
            "gamma * inv_std / len(g) * (len(g) * g - g.sum(0) - z * (g * z).sum(0))",
            "(np.eye(len(g)) - 1 / len(g)) @ g * gamma * inv_std - gamma * inv_std * z * "
            "np.einsum('nc,nc->c', g, z) / len(g)",
            "np.stack([gamma * inv_std * (r - sum(g) / len(g) - q * sum(g * z) / len(g)) for r, q "
            "in zip(g, z)])",
        ],
        [
            "np.split(dx, cuts)",
            "tuple(np.split(dx, cuts))",
            "[torch.from_numpy(part) for part in np.split(dx, cuts)]",
            "[part.astype(np.float32) for part in np.split(dx, cuts)]",
            "[part.tolist() for part in np.split(dx, cuts)]",
            "list(dx[:, None])",
        ],
    ),
}


def attempts(name):
    """All combinations of what may stand at the marked places of a right attempt."""
    arguments, body, *places = RIGHT[name]
    if "{}" in places[-1]:
        *places, casts = places
    else:
        casts = ["{}"]
    marks = [mark for mark in ("ONE", "TWO", "THREE", "FOUR") if mark in body]
    for pieces in itertools.product(casts, *places):
        cast, *pieces = pieces
        text = body
        for mark, piece in zip(marks, pieces, strict=True):
            text = text.replace(mark, piece)
        head, _, last = text.rpartition("return ")
        yield f"def {name}({arguments}):\n    {head}return {cast.format(last)}"


@pytest.mark.parametrize("name", WRONG)
def test_right_but_different_is_never_wrong(name):
    """In 1,557 combinations of the lines; formulas that lose digits are told so."""
    for source in attempts(name):
        verdict = HERE[name].judge(written(source, name))
        assert verdict.outcome == "right", f"{source}\n{verdict.words}"
        assert verdict.mistakes in ((), ("floats",))


FLOATS = {
    "combine": (
        "counts, means, variances",
        "mean = counts @ means / sum(counts)\n"
        "    return mean, counts @ (variances + means**2) / sum(counts) - mean**2",
        "E[x²] − E[x]² leaves no digit",
    ),
    "mean_of_networks": (
        "logits",
        "return (np.exp(logits) / np.exp(logits).sum(2, keepdims=True)).mean(0)",
        "exp of a large logit is infinite",
    ),
}


@pytest.mark.parametrize("name", FLOATS)
def test_right_on_paper_is_told_what_floats_do(name):
    arguments, body, sentence = FLOATS[name]
    verdict = HERE[name].judge(written(f"def {name}({arguments}):\n    {body}", name))
    assert (verdict.outcome, verdict.mistakes) == ("right", ("floats",))
    assert sentence in verdict.words


ANSWERS = [
    ("first_gap", {"half": 0.125, "wider": np.float32(0.05), "medians": [0.3]}),
    ("ten_times", {"output": np.ones(1), "rate": "0.111"}),
    ("ten_times", {"output": 1.0, "rate": 0.111, "turn": np.int64(9)}),
    ("company", {"in the middle": 100**-0.5, "half": 128.0}),
    ("settled", {"rate × 4": 1.99, "decay × 4": torch.tensor(2.0), "traded": 1.02}),
    ("shifted", {"examples": 3.61, "moments": 3.0}),
    ("repaired", {"dimmed": np.bool_(True), "inverted": np.False_}),
    ("passes", {"A": np.int32(12), "B": 10.0, "C": [5]}),
]


@pytest.mark.parametrize(("name", "parts"), ANSWERS)
def test_an_answer_in_another_form(name, parts):
    verdict = HERE[name].judge({**HERE[name].answers, **parts})
    words = [part for part in parts.values() if isinstance(part, str)]
    assert verdict.outcome == ("wrong" if words else "right"), verdict.words


def test_an_answer_in_part_is_right_so_far():
    verdict = checks.passes.judge({"A": 12, "B": ..., "C": 5})
    assert verdict.outcome == "not attempted"
    assert verdict.words.startswith("So far right. Not answered yet: B, D")


def test_the_wrong_parts_of_a_question_are_counted():
    wrong = {"gradient": 1 / 3, "turn": 1, "rate": 1}
    verdict = checks.ten_times.judge({**checks.ten_times.answers, **wrong})
    assert "(3 of 4 are wrong)" in verdict.words
    assert verdict.mistakes == ("gradient falls",)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_the_solution_combines_any_split(sizes, seed):
    """Of real numbers, empty shares included: what the exercise asks is what BN computes."""
    sizes = [*sizes, 2]
    values = np.random.default_rng(seed).normal(3, 2, (sum(sizes), 4))
    shards = np.split(values, np.cumsum(sizes)[:-1])
    means = np.array([s.mean(0) if len(s) else np.zeros(4) for s in shards])
    variances = np.array([s.var(0) if len(s) else np.zeros(4) for s in shards])
    mean, var = written(SOLUTIONS["combine"], "combine")(np.array(sizes), means, variances)
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(var, values.var(0))


@settings(max_examples=50, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(1e-3, 1))
def test_the_slope_of_a_pair_is_autograds(a, b, eps):
    first = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    pair = torch.stack([first, torch.tensor(b, dtype=torch.float64)])
    x_hat = (pair - pair.mean()) / torch.sqrt(pair.var(correction=0) + eps)
    (truth,) = torch.autograd.grad(x_hat[0], first)
    found = written(SOLUTIONS["pair_slope"], "pair_slope")(np.array(a), np.array(b), eps)
    np.testing.assert_allclose(found, truth.numpy(), rtol=1e-7)


@pytest.mark.slow
def test_the_passes_are_what_pytorch_dispatches():
    """Chapter 12's class counts what the question calls right."""
    x, (weight, bias) = torch.randn(8, 16, 28, 28), torch.randn(2, 1, 16, 1, 1)
    dims, eps = (0, 2, 3), 1e-5
    cells = nbformat.read(ROOT / "book" / "12_speed.ipynb", as_version=4).cells
    (task,) = [c.source for c in cells if "Passes of four forwards" in c.source]
    code = re.search(r"```python\n(.*?)```", task, re.S)[1]
    parts = dict(zip("ABCD", re.split(r"^# .*\n", code, flags=re.M)[1:], strict=True))
    parts["B"] = parts["A"].rpartition("y = ")[0] + parts["B"]
    parts["D"] = parts["C"].rpartition("y = ")[0] + parts["D"]
    (source,) = [c.source for c in cells if c.source.startswith("class Passes")]
    place = {"torch": torch}
    exec(
        "from torch.utils._python_dispatch import TorchDispatchMode\n"
        f"from torch.utils._pytree import tree_leaves\n{source}",
        place,
    )
    results = []
    for name, part in parts.items():
        local = {"x": x, "weight": weight, "bias": bias, "dims": dims, "eps": eps, "torch": torch}
        with place["Passes"](x.numel()) as mode:
            exec(part, local)
        assert round(mode.reads + mode.writes) == checks.passes.answers[name]
        results.append(local["y"])
    for result in results:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-4)


def test_fresh_networks_have_the_spread_that_the_question_computes():
    """½σ√100 = 0.3 at σ = 0.06, and about a quarter of the gap for a layer more at σ = 0.1."""

    def given(layers, sigma, seeds=40):
        sizes = (784, *[100] * layers, 10)
        nets = ensemble.networks(sizes, sigma=[sigma] * seeds, seeds=range(seeds), bn=False)
        images = (np.random.default_rng(0).random((60, 1, 28, 28)) < 0.13).astype(np.float32)
        return ensemble.forward(nets, images)[0][-1].numpy()

    medians = np.median(given(3, 0.06), axis=1)
    assert abs(medians.std() / checks.first_gap.answers["medians"] - 1) < 0.05
    gaps = [
        np.median(np.diff(np.percentile(given(n, 0.1), [15, 85], axis=1), axis=0)) for n in (3, 4)
    ]
    assert abs(gaps[1] / gaps[0] / checks.first_gap.answers["fourth layer"] - 1) < 0.1
