"""The exercises of chapter 02: wrong code and its sentence, right code in many forms."""

import itertools

import numpy as np
import pytest
import torch

from bn_helpers import checks

RIGHT = """
def forward(x, gamma, beta, eps):
    mean = x.mean(axis=0)
    var = ((x - mean) ** 2).mean(axis=0)
    x_hat = (x - mean) / np.sqrt(var + eps)
    y = gamma * x_hat + beta
    return y
"""
# What a learner wrote in place of a piece of RIGHT, and how its verdict's second line begins.
WRONG = [
    ("x.mean(axis=0)", "x.mean(axis=1, keepdims=True)", None),
    ("x.mean(axis=0)", "x.mean()", None),
    ("x.mean(axis=0)", "np.median(x, axis=0)", "μ is a mean"),
    ("(x - mean) /", "x /", "the mean is not subtracted"),
    ("((x - mean) ** 2).mean(axis=0)", "(x**2).mean(axis=0)", "the variance is taken around 0"),
    ("((x - mean) ** 2).mean(axis=0)", "x.var(axis=0, ddof=1)", "the variance divides by m − 1"),
    ("((x - mean) ** 2).mean(axis=0)", "((x - mean) ** 2).sum(axis=0)", "the squares are summed"),
    ("((x - mean) ** 2).mean(axis=0)", "abs(x - mean).mean(axis=0) ** 2", "the spread is the mean"),
    ("np.sqrt(var + eps)", "np.sqrt(var)", "ε is not used"),
    ("np.sqrt(var + eps)", "(np.sqrt(var) + eps)", "ε is added to the root"),
    ("np.sqrt(var + eps)", "np.sqrt(var + eps**2)", "ε is squared"),
    ("np.sqrt(var + eps)", "(var + eps)", "the division is by the variance"),
    ("/ np.sqrt", "* np.sqrt", "x − μ is multiplied"),
    ("gamma * x_hat + beta", "beta * x_hat + gamma", "γ and β have changed places"),
    ("gamma * x_hat + beta", "x_hat + beta", "γ is not used"),
    ("gamma * x_hat + beta", "gamma * x_hat", "β is not used"),
    ("gamma * x_hat + beta", "gamma * x_hat - beta", "β is subtracted"),
    ("gamma * x_hat + beta", "gamma * (x_hat + beta)", "β is added before"),
    ("gamma * x_hat + beta", "x_hat / gamma + beta", "x̂ is divided by γ"),
    ("np.sqrt(var + eps)", "np.sqrt(var - eps)", "ε is subtracted"),
    ("np.sqrt(var + eps)", "np.sqrt(var + 1e-5)", "ε is 1e-5 whatever"),
    ("x.mean(axis=0)", "x.sum(axis=0) / 4", "the mean divides by 4"),
    (
        "((x - mean) ** 2).mean(axis=0)",
        "((x - mean) ** 2).sum(axis=0) / 4",
        "the variance divides by 4",
    ),
    (
        "(x - mean) / np.sqrt(var + eps)",
        "(x - x.min(axis=0)) / np.ptp(x, axis=0)",
        "each feature is brought to the range",
    ),
]


def written(source, name="forward", **more):
    """The function of that name in a learner's source."""
    place = {"np": np, "torch": torch, **more}
    exec(source, place)
    return place[name]


@pytest.mark.parametrize(("right", "wrong", "sentence"), WRONG)
def test_wrong_code_gets_its_sentence(right, wrong, sentence):
    assert right in RIGHT
    verdict = checks.forward.judge(written(RIGHT.replace(right, wrong)))
    assert verdict.outcome == "wrong"
    named = [line for line in verdict.words.splitlines() if line.startswith("Mistake: ")]
    assert len(named) == (sentence is not None)
    assert not named or named[0].startswith(f"Mistake: {sentence}")


@pytest.mark.parametrize(("inside", "mistake"), [("var", "no eps"), ("var + 1e-5", "fixed eps")])
def test_a_fixed_eps_is_not_a_missing_one_in_float32(inside, mistake):
    source = RIGHT.replace("var + eps", inside).replace("return y", "return np.float32(y)")
    assert checks.forward.judge(written(source)).mistakes == (mistake,)


def test_the_toys_number_of_rows():
    source = RIGHT.replace("x.mean(axis=0)", "x.sum(axis=0) / 4")
    source = source.replace("((x - mean) ** 2).mean(axis=0)", "((x - mean) ** 2).sum(axis=0) / 4")
    assert checks.forward.judge(written(source)).mistakes == ("mean of 4", "variance of 4")


def test_two_at_once():
    source = RIGHT.replace("(var + eps)", "(var)").replace("gamma * x_hat", "x_hat")
    assert checks.forward.judge(written(source)).mistakes == ("no eps", "no gamma")


MEANS = [
    "x.mean(axis=0)",
    "x.mean(0, keepdims=True)",
    "np.mean(x, axis=0)",
    "x.sum(axis=0) / len(x)",
    "np.ones(len(x)) @ x / len(x)",
    "np.einsum('nc->c', x) / x.shape[0]",
    "sum(row for row in x) / len(x)",
    "np.array([column.sum() / len(column) for column in x.T])",
    "np.sort(x, axis=0).mean(axis=0)",
    "np.add.reduce(x[::-1]) / len(x)",
]
VARIANCES = [
    "((x - mean) ** 2).mean(axis=0)",
    "x.var(axis=0)",
    "np.std(x, axis=0) ** 2",
    "np.square(x - mean).sum(0) / len(x)",
    "np.einsum('nc,nc->c', x - mean, x - mean) / len(x)",
    "np.diag(np.cov(x.T, bias=True))",
    "np.linalg.norm(x - mean, axis=0) ** 2 / len(x)",
    "x.var(axis=0, ddof=1) * (len(x) - 1) / len(x)",
    "((x[:, None] - x[None]) ** 2).mean(axis=(0, 1)) / 2",
]
NORMALISED = [
    "(x - mean) / np.sqrt(var + eps)",
    "(x - mean) * (var + eps) ** -0.5",
    "np.exp(np.log(var + eps) * -0.5) * (x - mean)",
    "x / np.sqrt(var + eps) - mean / np.sqrt(var + eps)",
]
RESULTS = [
    "gamma * x_hat + beta",
    "np.stack([gamma * row for row in x_hat]) + beta",
    "x_hat @ np.diag(gamma) + beta",
    "(gamma * x_hat + beta).astype(np.float32)",
    "torch.from_numpy(gamma * x_hat + beta)",
    "np.asfortranarray(gamma * x_hat + beta)",
    "(x_hat * gamma[None] + beta[None]).tolist()",
    "np.float32(gamma) * np.float32(x_hat) + beta",
]


@pytest.mark.parametrize("mean", MEANS)
def test_right_but_different_is_never_wrong(mean):
    """In all 2,880 combinations of the lines."""
    for var, x_hat, y in itertools.product(VARIANCES, NORMALISED, RESULTS):
        lines = (f"mean = {mean}", f"var = {var}", f"x_hat = {x_hat}", f"return {y}")
        source = "\n    ".join(["def forward(x, gamma, beta, eps):", *lines])
        verdict = checks.forward.judge(written(source))
        assert verdict.outcome == "right", source + verdict.words
        assert verdict.mistakes == () or "x / np.sqrt" in x_hat or "float32" in y, source


# The other exercises: their solutions, and what a learner wrote in place of a piece of them.
IDENTITY = """
def identity(x, eps):
    gamma = np.sqrt(x.var(axis=0) + eps)
    beta = x.mean(axis=0)
    return gamma, beta
"""
VARIANCE = """
def variance(rows):
    count = 0
    mean = 0.0
    squares = 0.0
    for row in rows:
        count += 1
        old = mean
        mean = mean + (row - mean) / count
        squares = squares + (row - old) * (row - mean)
    return squares / count
"""
JACOBIAN = """
def jacobian(x, gamma, eps):
    m = len(x)
    std = np.sqrt(x.var() + eps)
    x_hat = (x - x.mean()) / std
    direct = np.eye(m)
    mean = np.ones((m, m)) / m
    variance = np.outer(x_hat, x_hat) / m
    return gamma / std * (direct - mean - variance)
"""
MORE_WRONG = [
    (IDENTITY, "x.var(axis=0) + eps", "x.var(axis=0)", "ε is missing"),
    (IDENTITY, "np.sqrt(x.var(axis=0) + eps)", "x.std(axis=0) + eps", "ε is added to σ"),
    (IDENTITY, "var(axis=0) + eps", "var(axis=0) - eps", "ε is subtracted"),
    (IDENTITY, "np.sqrt(x.var(axis=0) + eps)", "x.var(axis=0) + eps", "γ is a variance"),
    (IDENTITY, "np.sqrt(", "1 / np.sqrt(", "γ is what BN multiplies by"),
    (IDENTITY, "var(axis=0)", "var(axis=0, ddof=1)", "the variance divides by m − 1"),
    (IDENTITY, "x.var(axis=0)", "(x**2).mean(axis=0)", "γ comes from E[x²]"),
    (IDENTITY, "= x.mean(axis=0)", "= -x.mean(axis=0)", "β has the wrong sign"),
    (IDENTITY, "= x.mean(axis=0)", "= np.zeros(x.shape[1])", "β is 0"),
    (IDENTITY, "= x.mean(axis=0)", "= x.mean(axis=0) / gamma", "β is divided by γ"),
    (IDENTITY, "= x.mean(axis=0)", "= x.mean(axis=0) * gamma", "β is multiplied by γ"),
    (IDENTITY, "= x.mean(axis=0)", "= np.median(x, axis=0)", "β is the median"),
    (IDENTITY, "return gamma, beta", "return beta, gamma", "γ and β have changed places"),
    (IDENTITY, "axis=0", "axis=1", "there is one γ and one β for each example"),
    (IDENTITY, "axis=0", "", "one γ and one β serve all features"),
    (VARIANCE, "/ count\n", "/ (count - 1)\n", None),  # the mean divides by 0
    (VARIANCE, "return squares / count", "return squares / (count - 1)", "the squares are divided"),
    (VARIANCE, "return squares / count", "return squares", "the squares are not divided"),
    (VARIANCE, "(row - mean)\n    return", "(row - old)\n    return", "both factors take the old"),
    (VARIANCE, "(row - old) *", "(row - mean) *", "both factors take the new mean"),
    (VARIANCE, "(row - mean) / count", "(row - mean) / count ** (3 * count)", None),
    (VARIANCE, "count = 0", "count = 1", None),  # as the count also divides in the end
    (VARIANCE, "(row - old) * (row - mean)", "row**2", "this is E[x²]"),
    (VARIANCE, "squares / count", "squares / count - mean**2", "the squared mean is subtracted"),
    (VARIANCE, "squares / count", "(squares / count) ** 0.5", "this is the standard deviation"),
    (VARIANCE, "for row in rows", "next(rows)\n    for row in rows", "the first value starts"),
    (VARIANCE, "return squares", "return -squares", "the sign is wrong"),
    (JACOBIAN, "direct - mean - variance", "direct - variance", "the mean is treated as a const"),
    (JACOBIAN, "direct - mean - variance", "direct - mean", "the variance is treated as a const"),
    (JACOBIAN, "np.ones((m, m)) / m", "np.ones((m, m))", "the mean's part is 1"),
    (
        JACOBIAN,
        "np.outer(x_hat, x_hat) / m",
        "np.outer(x_hat, x_hat)",
        "the variance's part is not",
    ),
    (JACOBIAN, "np.outer(", "2 * np.outer(", "the variance's part is twice"),
    (JACOBIAN, "np.outer(", "0.5 * np.outer(", "the variance's part is half"),
    (JACOBIAN, "direct - mean", "direct + mean", "the mean's part has the wrong sign"),
    (JACOBIAN, "- variance", "+ variance", "the variance's part has the wrong sign"),
    (JACOBIAN, "np.outer(x_hat, x_hat)", "np.diag(x_hat**2)", "the variance's part stands on"),
    (JACOBIAN, "(direct - mean - variance)", "direct * (1 - mean - variance)", "only an example's"),
    (JACOBIAN, "x.var()", "x.var(ddof=1)", "the variance divides by m − 1"),
    (JACOBIAN, "x.var() + eps", "x.var()", "ε is not used"),
    (JACOBIAN, "(x - x.mean()) / std", "x / std", "x̂ is taken without"),
    (JACOBIAN, "gamma / std", "1 / std", "γ is not used"),
    (JACOBIAN, "gamma / std", "gamma / std**2", "it is divided by the variance"),
    (JACOBIAN, "gamma / std", "gamma", "this is right but for the division"),
    (JACOBIAN, "gamma / std", "gamma * std", "it is multiplied by"),
    (JACOBIAN, "return gamma", "return 2 * gamma", "everything is twice"),
    (JACOBIAN, "return gamma", "return -gamma", "everything has the wrong sign"),
]


@pytest.mark.parametrize(("solution", "right", "wrong", "sentence"), MORE_WRONG)
def test_wrong_code_of_the_other_exercises(solution, right, wrong, sentence):
    name = solution.split("(")[0].split()[1]
    assert right in solution
    verdict = checks.EXERCISES[name].judge(written(solution.replace(right, wrong), name))
    assert verdict.outcome == "wrong"
    named = [line for line in verdict.words.splitlines() if line.startswith("Mistake: ")]
    assert len(named) == (sentence is not None), verdict.words
    assert not named or named[0].startswith(f"Mistake: {sentence}")


GAMMAS = [
    "np.sqrt(x.var(axis=0) + eps)",
    "(x.var(0) + eps) ** 0.5",
    "np.hypot(x.std(axis=0), np.sqrt(eps))",
    "np.sqrt(((x - x.mean(0)) ** 2).sum(0) / len(x) + eps)",
    "np.array([np.sqrt(column.var() + eps) for column in x.T])",
    "[float((column.var() + eps) ** 0.5) for column in x.T]",
    "1 / (x[0] - x.mean(0)) * (x[0] - x.mean(0)) * np.sqrt(np.var(x, 0) + eps)",
    "torch.sqrt(torch.from_numpy(x).var(dim=0, unbiased=False) + eps)",
    "np.sqrt(np.diag(np.cov(x.T, bias=True)) + eps)",
    "np.sqrt((x**2).mean(0) - x.mean(0) ** 2 + eps)",
    "np.float32(np.sqrt(x.var(axis=0) + eps))",
    "np.sqrt(x.var(axis=0, keepdims=True) + eps)",
]


@pytest.mark.parametrize("form", ["({}, {})", "[{}, {}]"])
def test_undone_in_other_ways(form):
    for gamma, beta in itertools.product(GAMMAS, MEANS):
        source = f"def identity(x, eps):\n    return {form.format(gamma, beta)}"
        assert checks.identity.judge(written(source, "identity")) == ("right", "Right.", ())


def test_what_bn_notices():
    right = checks.scale.answers
    assert checks.scale.judge({part: f" {word.upper()} " for part, word in right.items()}) == (
        "right",
        "Right.",
        (),
    )
    verdict = checks.scale.judge({**right, "-W": "same"})
    assert verdict.mistakes == ("sign",)
    assert verdict.words.startswith("Wrong: '-W' is not what you say (1 of 7 are wrong).")


def test_the_answers_of_the_question_are_what_bn_does():
    """Catches an answer that the layer itself contradicts."""
    rng = np.random.default_rng(0)
    u, W = rng.normal(size=(60, 4)), rng.normal(size=(3, 4))
    W /= (u @ W.T).std(axis=0)[:, None]
    own, mixing = rng.uniform(0.5, 2, size=(3, 1)), rng.uniform(0.2, 3, size=4)
    outputs = {
        "1000 W": (1000 * W, 0, 1e-5),
        "0.001 W": (0.001 * W, 0, 1e-5),
        "-W": (-W, 0, 1e-5),
        "W u + 5": (W, 5, 1e-5),
        "each row of W times its own number from 1 to 1000": (own * W, 0, 1e-5),
        "each column of W times its own number from 1 to 1000": (mixing * W, 0, 1e-5),
        "1000 W, and ε = 10": (1000 * W, 0, 10),
    }
    ones, zeros = np.ones(3), np.zeros(3)
    forward = written(RIGHT)
    base = forward(u @ W.T, ones, zeros, 1e-5)
    for part, (weights, bias, eps) in outputs.items():
        ratio = forward(u @ weights.T + bias, ones, zeros, eps) / base
        factor = np.median(ratio)
        if not np.allclose(ratio, factor, rtol=1e-3):
            word = "other"
        else:
            word = {1: "same", -1: "flipped"}.get(round(factor, 2), "smaller")
        assert checks.scale.answers[part] == word, part


SUMS = {
    "Welford": """
    count, mean, squares = 0, 0.0, 0.0
    for row in ROWS:
        count += 1
        step = row - mean
        mean = mean + step / count
        squares = squares + step * (row - mean)
    return RESULT(squares / count)""",
    "Welford, the other way to write it": """
    for n, row in enumerate(ROWS):
        if n == 0:
            mean, squares = row, 0 * row
            continue
        squares = squares + (row - mean) ** 2 * n / (n + 1)
        mean = (n * mean + row) / (n + 1)
    return RESULT(squares / (n + 1))""",
    "shifted by the first": """
    rows = iter(ROWS)
    first = next(rows)
    n, total, squares = 1, 0 * first, 0 * first
    for row in rows:
        n += 1
        total = total + (row - first)
        squares = squares + (row - first) ** 2
    return RESULT(squares / n - (total / n) ** 2)""",
    "kept": """
    return RESULT(np.stack(list(ROWS)).var(axis=0))""",
    "two passes over what was kept": """
    kept = np.array(list(ROWS))
    mean = sum(kept) / len(kept)
    return RESULT(((kept - mean) ** 2).mean(axis=0))""",
    "halves pooled": """
    def pool(a, b):
        (m, mu, s), (n, nu, t) = a, b
        d = nu - mu
        return m + n, mu + d * n / (m + n), s + t + d**2 * m * n / (m + n)
    parts = [(1, row, 0 * row) for row in ROWS]
    while len(parts) > 1:
        parts = [pool(*parts[:2]), *parts[2:]]
    n, _, squares = parts[0]
    return RESULT(squares / n)""",
    "in place": """
    mean = np.array(next(ROWS))
    squares = np.zeros_like(mean)
    n = 1
    for row in ROWS:
        n += 1
        row -= mean
        mean += row / n
        squares += row**2 * (n - 1) / n
    return RESULT(squares / n)""",
    "each feature by itself": """
    import statistics
    columns = zip(*(row.tolist() for row in ROWS))
    return RESULT(np.array([statistics.pvariance(column) for column in columns]))""",
}
KEPT = {"kept", "two passes over what was kept", "halves pooled"}
CHUNKS = """
def variance(rows):
    count, mean, squares = 0, 0.0, 0.0
    while chunk := list(itertools.islice(rows, 4)):
        chunk = np.array(chunk)
        n, distance = len(chunk), chunk.mean(axis=0) - mean
        squares = squares + ((chunk - chunk.mean(axis=0)) ** 2).sum(axis=0)
        squares = squares + distance**2 * count * n / (count + n)
        mean = mean + distance * n / (count + n)
        count += n
    return squares / count
"""
TWICE = [
    """
    n, total, squares = 0, 0.0, 0.0
    for row in rows:
        n, total = n + 1, total + row
    for row in rows:
        squares = squares + (row - total / n) ** 2
    return squares / n""",
    """
    mean = sum(rows) / sum(1 for _ in rows)
    return sum((row - mean) ** 2 for row in rows)""",
    """
    return sum((row - sum(rows) / len(rows)) ** 2 for row in rows) / len(rows)""",
    """
    return np.var(rows, axis=0)""",
]
STREAMS = ["rows", "(row for row in rows)", "map(np.asarray, rows)"]
FORMS = [
    "np.asarray",
    "np.float32",
    "list",
    "torch.as_tensor",
    "np.asfortranarray",
    "(lambda v: v[None])",
]


@pytest.mark.parametrize("way", SUMS)
def test_a_variance_in_other_ways(way):
    for stream, form in itertools.product(STREAMS, FORMS):
        source = SUMS[way].replace("ROWS", stream).replace("RESULT", form)
        if "next(" in source and stream != "rows":
            continue
        attempt = written(f"def variance(rows):{source}", "variance")
        verdict = checks.variance.judge(attempt)
        assert verdict[::2] == ("right", ()), source
        remark = verdict.words.splitlines()[1:]
        assert bool(remark) == (way in KEPT), verdict.words
        assert not remark or remark[0].startswith("But it keeps all rows")


def test_a_variance_in_chunks():
    """Asking a stream for more after its end is no second pass."""
    right = written(CHUNKS, "variance", itertools=itertools)
    assert checks.variance.judge(right) == ("right", "Right.", ())
    unbiased = CHUNKS.replace("squares / count\n", "squares / (count - 1)\n")
    verdict = checks.variance.judge(written(unbiased, "variance", itertools=itertools))
    assert verdict.mistakes == ("m - 1",)


@pytest.mark.parametrize("body", TWICE)
def test_a_stream_comes_once(body):
    verdict = checks.variance.judge(written(f"def variance(rows):{body}", "variance"))
    assert verdict.outcome == "wrong"
    named = "Mistake: the rows come only once" in verdict.words
    assert named == ("1 for _" not in body), verdict.words  # that one is wrong of a list, too
    assert not named or "chapter 02, Computing the variance." in verdict.words


@pytest.mark.parametrize(
    "formula",
    [
        "s / n - (t / n) ** 2",
        "(s - t * t / n) / n",
        "(n * s - t**2) / n**2",
    ],
)
def test_a_variance_that_is_right_on_paper(formula):
    source = f"""
def variance(rows):
    n, t, s = 0, 0.0, 0.0
    for row in rows:
        n, t, s = n + 1, t + row, s + row**2
    return {formula}
"""
    verdict = checks.variance.judge(written(source, "variance"))
    assert (verdict.outcome, verdict.mistakes) == ("right", ("floats",))
    assert verdict.words.startswith("Right on paper, not in floating point")
    assert "chapter 02, Computing the variance" in verdict.words


FORWARD = """
def forward(x, gamma, eps):
    return gamma * (x - x.mean()) / (((x - x.mean()) ** 2).mean() + eps) ** 0.5

"""
JACOBIANS = {
    "central differences": """
    J = np.empty((len(x), len(x)))
    for i, e in enumerate(np.eye(len(x))):
        J[:, i] = (forward(x + H * e, gamma, eps) - forward(x - H * e, gamma, eps)) / (2 * H)
    return J""",
    "five points": """
    def f(step):
        return np.array([forward(x + step * e, gamma, eps) for e in np.eye(len(x))]).T
    return (8 * (f(H) - f(-H)) - (f(2 * H) - f(-2 * H))) / (12 * H)""",
    "one-sided": """
    base = forward(x, gamma, eps)
    return [[(forward(x + 1e-7 * e, gamma, eps) - base)[j] / 1e-7 for e in np.eye(len(x))]
            for j in range(len(x))]""",
    "a complex step": """
    steps = 1e-30j * np.eye(len(x))
    return np.stack([forward(x + e, gamma, eps).imag / 1e-30 for e in steps], axis=1)""",
    "autograd": """
    t = torch.from_numpy(x)
    return torch.autograd.functional.jacobian(lambda v: forward(v, gamma, eps), t)""",
    "loops": """
    m, mu = len(x), sum(x) / len(x)
    v = sum((a - mu) ** 2 for a in x) / m + eps
    J = [[0.0] * m for _ in x]
    for j in range(m):
        for i in range(m):
            J[j][i] = gamma * v**-0.5 * ((i == j) - 1 / m - (x[i] - mu) * (x[j] - mu) / (m * v))
    return J""",
    "a projection": """
    c = x - x.mean()
    v = c @ c / len(x) + eps
    P = np.eye(len(x)) - np.full((len(x), len(x)), 1 / len(x))
    return gamma * v**-0.5 * (P - P @ np.outer(x, x) @ P / (len(x) * v))""",
    "chain rule": """
    m = len(x)
    c = x - x.mean()
    std = np.sqrt(c @ c / m + eps)
    dc = np.eye(m) - 1 / m
    dvar = 2 / m * c @ dc
    dstd = dvar / (2 * std)
    return np.asfortranarray(gamma * (dc / std - np.outer(c, dstd) / std**2))""",
    "einsum, float32": """
    m = len(x)
    s = (x.var() + eps) ** -0.5
    h = (x - x.mean()) * s
    return np.float32(gamma * s * (np.eye(m) - (1 + np.einsum('j,i->ji', h, h)) / m))""",
}


@pytest.mark.parametrize("way", JACOBIANS)
@pytest.mark.parametrize("H", [1e-6, 1e-5, 1e-4, 1e-3])
def test_a_jacobian_in_other_ways(way, H):
    source = f"{FORWARD}def jacobian(x, gamma, eps):{JACOBIANS[way]}"
    verdict = checks.jacobian.judge(written(source, "jacobian", H=H))
    assert verdict == ("right", "Right.", ()), verdict.words
