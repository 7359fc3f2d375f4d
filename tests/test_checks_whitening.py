"""The exercises of chapter 01: wrong code and its sentence, right code in many forms."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch

from bn_helpers import checks, whitening

ZCA = """
def zca(x, eps):
    m, d = x.shape
    centred = x - x.mean(axis=0)
    cov = centred.T @ centred / m + eps * np.eye(d)
    values, vectors = np.linalg.eigh(cov)
    W = vectors @ np.diag(values**-0.5) @ vectors.T
    return centred @ W.T
"""
CONDITION = """
def condition(x):
    ones = np.ones((len(x), 1))
    a = np.hstack([ones, x])
    H = a.T @ a / len(a)
    eigenvalues = np.linalg.eigvalsh(H)
    return eigenvalues[-1] / eigenvalues[0]
"""
CHANGE = """
def inverse_root_change(C, dC):
    values, U = np.linalg.eigh(C)
    roots = np.sqrt(values)
    K = -1 / (np.outer(roots, roots) * np.add.outer(roots, roots))
    seen = U.T @ dC @ U
    return U @ (K * seen) @ U.T
"""
BIAS = """
def predict_bias(u, target, rate, steps):
    gradient = -np.mean(target)
    return -rate * steps * gradient
"""
COV = "centred.T @ centred / m + eps * np.eye(d)"
W = "vectors @ np.diag(values**-0.5) @ vectors.T"
K = "-1 / (np.outer(roots, roots) * np.add.outer(roots, roots))"
NAIVE = "(values[:, None] ** -0.5 - values**-0.5) / (values[:, None] - values)"
EXTREMES = "np.linalg.eigvalsh(H)\n    return eigenvalues[-1] / eigenvalues[0]"
FIRST_BY_LAST = "np.linalg.eigvals(H)\n    return eigenvalues[0] / eigenvalues[-1]"
# Source, a piece of it, what a learner wrote instead, and how the mistake's sentence begins.
WRONG = [
    (ZCA, "x.mean(axis=0)", "x.mean(axis=1, keepdims=True)", "the mean is taken over the features"),
    (ZCA, "x - x.mean(axis=0)", "x", "the batch is not centred"),
    (ZCA, "centred.T @ centred", "x.T @ x", "the covariance is taken of x"),
    (ZCA, "centred @ W.T", "x @ W.T", "W is applied to x"),
    (ZCA, "centred @ W.T", "centred @ W.T + x.mean(axis=0)", "the mean is added again"),
    (ZCA, "/ m", "/ (m - 1)", "the covariance divides by m − 1"),
    (ZCA, COV, "np.cov(x.T) + eps * np.eye(d)", "the covariance divides by m − 1"),
    (ZCA, " / m", "", "the covariance is a sum"),
    (ZCA, " + eps * np.eye(d)", "", "ε is not used"),
    (ZCA, "eps * np.eye(d)", "eps", "ε is added to every entry"),
    (ZCA, "eps * np.eye(d)", "eps**2 * np.eye(d)", "ε is squared"),
    (ZCA, "values**-0.5", "1 / values", "this multiplies by C⁻¹"),
    (ZCA, "values**-0.5", "np.sqrt(values)", "this multiplies by the root"),
    (ZCA, W, "np.diag(values**-0.5) @ vectors.T", "this is PCA whitening"),
    (ZCA, W, "np.linalg.inv(np.linalg.cholesky(cov))", "this is Cholesky whitening"),
    (ZCA, W, "vectors.T @ np.diag(values**-0.5) @ vectors", "U and Uᵀ have changed places"),
    (ZCA, W, "np.diag(np.diag(cov) ** -0.5)", "each feature is scaled by itself"),
    (ZCA, W, "np.linalg.inv(np.sqrt(cov))", "the root is taken entry by entry"),
    (ZCA, W, "cov**-0.5", "cov**-0.5 is taken entry by entry"),
    (ZCA, "x.mean(axis=0)", "x.mean()", "one mean is taken of all the numbers"),
    (ZCA, W, "np.eye(d)", None),
    (CONDITION, "np.hstack([ones, x])", "x", "the bias is missing"),
    (CONDITION, "np.hstack([ones, x])", "x - x.mean(axis=0)", "this is the condition number of"),
    (CONDITION, "eigenvalues[-1] / eigenvalues[0]", "np.linalg.cond(a)", "this is the root of κ"),
    (CONDITION, "[-1] / eigenvalues[0]", "[0] / eigenvalues[-1]", "this is 1/κ"),
    (CONDITION, "[-1] / eigen", "[-1] - eigen", "κ is a ratio of eigenvalues"),
    (CONDITION, "np.linalg.eigvalsh(H)", "np.sort(np.diag(H))", "the diagonal entries of H"),
    (CONDITION, "eigvalsh", "eigvals", "np.linalg.eigvals leaves the eigenvalues unsorted, so the"),
    (CONDITION, EXTREMES, FIRST_BY_LAST, "np.linalg.eigvals leaves the eigenvalues unsorted"),
    (CONDITION, "[-1] / eigenvalues[0]", "[-1]", None),
    (CHANGE, "U.T @ dC @ U\n    return U @ (K * seen) @ U.T", "dC\n    return K * seen", "K multi"),
    (CHANGE, "U @ (K * seen) @ U.T", "K * seen", "the change is still in the basis"),
    (CHANGE, "roots = ", "U = U.T\n    roots = ", "U and Uᵀ have changed places"),
    (CHANGE, "U.T @ dC @ U", "U @ dC @ U.T", "dC is seen as U dC Uᵀ"),
    (CHANGE, "U @ (K * seen) @ U.T", "U.T @ (K * seen) @ U", "it is turned back by Uᵀ … U"),
    (CHANGE, "K = -1", "K = 1", "the sign is wrong"),
    (
        CHANGE,
        "np.linalg.eigh(C)\n",
        "np.linalg.eigh(C)\n    return -0.5 * whitening.zca_power(C) @ dC\n",
        "−½ C^(−3/2) dC",
    ),
    (CHANGE, " * np.add.outer(roots, roots)", "", "the sum of the roots"),
    (CHANGE, "K = -1", "K = -0.5", "there is a ½ too many"),
    (CHANGE, "np.sqrt(values)", "values", "K takes the roots"),
    (CHANGE, K, "1 / np.add.outer(roots, roots)", "this is the change of C^(1/2)"),
    (CHANGE, K, "-1 / np.outer(values, values)", "this is the change of C⁻¹"),
    (CHANGE, K, NAIVE, None),
    (
        CHANGE,
        K,
        f"{NAIVE}\n    np.fill_diagonal(K, -0.5 * values**-1.5)",
        "λi − λj is divided by, and is 0 where",
    ),
    (CHANGE, "U @ (K * seen) @ U.T", "root(C + dC) - root(C)", "this is the change for all of dC"),
    (CHANGE, K, "np.ones_like(C)", None),
    (BIAS, "-rate * steps * gradient", "0.0", "0 is where the true gradient"),
    (BIAS, "-rate", "rate", "the sign is wrong"),
    (BIAS, "np.mean(target)", "np.sum(target)", "the gradient is summed"),
    (BIAS, "-np.mean(target)", "np.mean(u - target)", "the gradient is taken of u − t"),
    (
        BIAS,
        "return -rate * steps * gradient",
        "b = 0.0\n    for _ in range(steps):\n"
        "        b -= rate * np.mean(u + b - target)\n    return b",
        "this b feeds back",
    ),
    (BIAS, " * steps", "", "this is b after a single step"),
    (BIAS, "* steps", "* (steps + 1)", "this is b a step later"),
    (BIAS, "-rate", "-2 * rate", "the ½ of the loss"),
    (BIAS, "-rate * steps", "-steps", "the learning rate is not used"),
    (BIAS, "-np.mean(target)", "-np.median(target)", None),
]


def root(C):
    values, U = np.linalg.eigh(C)
    return (U / np.sqrt(values)) @ U.T


class Powers:
    """Stands in for a learner's own C^(−3/2)."""

    @staticmethod
    def zca_power(C):
        return np.linalg.matrix_power(root(C), 3)


def written(source, **more):
    """The function that a learner's source defines, and its check."""
    place = {"np": np, "torch": torch, "scipy": scipy, "root": root, **more}
    exec(source, place)
    name = source.split("def ")[1].split("(")[0]
    return getattr(checks, name), place[name]


@pytest.mark.parametrize(("source", "right", "wrong", "sentence"), WRONG)
def test_wrong_code_gets_its_sentence(source, right, wrong, sentence):
    assert right in source
    check, attempt = written(source.replace(right, wrong, 1), whitening=Powers)
    verdict = check.judge(attempt)
    assert verdict.outcome == "wrong"
    named = [line for line in verdict.words.splitlines() if line.startswith("Mistake: ")]
    assert len(named) == (sentence is not None), verdict.words
    assert not named or named[0].startswith(f"Mistake: {sentence}"), verdict.words


def test_unsorted_eigenvalues_are_named_where_the_bias_is_last_too():
    source = CONDITION.replace("[ones, x]", "[x, ones]")
    for right, wrong in (("eigvalsh", "eigvals"), (EXTREMES, FIRST_BY_LAST)):
        check, attempt = written(source.replace(right, wrong))
        assert "leaves the eigenvalues unsorted" in check.judge(attempt).words


@pytest.mark.parametrize("source", [ZCA, CONDITION, CHANGE, BIAS])
def test_the_sources_are_right(source):
    check, attempt = written(source)
    assert check.judge(attempt) == ("right", "Right.", ())


def test_every_mistake_is_made_above():
    made = {
        switch
        for source, right, wrong, _ in WRONG
        for check, attempt in [written(source.replace(right, wrong, 1), whitening=Powers)]
        for switch in [(check.name, name) for name in check.judge(attempt).mistakes]
    }
    exercises = [checks.zca, checks.condition, checks.inverse_root_change, checks.predict_bias]
    known = {(check.name, name) for check in exercises for name in check.mistakes}
    assert known - made == {("zca", "eps outside")}


def test_eps_at_the_roots_is_named():
    source = ZCA.replace(" + eps * np.eye(d)", "").replace(
        "values**-0.5", "1 / (values**0.5 + eps)"
    )
    check, attempt = written(source)
    assert check.judge(attempt).mistakes == ("eps outside",)


@pytest.mark.parametrize(
    ("changes", "mistakes"),
    [
        ([("/ m", "/ (m - 1)"), (" + eps * np.eye(d)", "")], ("m - 1", "no eps")),
        (
            [("centred.T @ centred", "x.T @ x"), ("values**-0.5", "1 / values")],
            ("second moment", "no root"),
        ),
        (
            [(W, "np.diag(values**-0.5) @ vectors.T"), ("x - x.mean(axis=0)", "x")],
            ("not centred", "pca"),
        ),
    ],
)
def test_two_at_once(changes, mistakes):
    source = ZCA
    for right, wrong in changes:
        source = source.replace(right, wrong, 1)
    check, attempt = written(source)
    assert check.judge(attempt).mistakes == mistakes


CENTRED = [
    "x - x.mean(axis=0)",
    "x - np.ones(m) @ x / m",
    "np.array([row - x.sum(0) / m for row in x])",
    "(np.eye(m) - 1 / m) @ x",
    "x.copy() - np.einsum('md->d', x)[None] / len(x)",
    "np.asfortranarray(x - np.mean(x, axis=0, keepdims=True))",
]
COVARIANCES = [
    COV,
    "np.cov(x.T, bias=True) + eps * np.eye(d)",
    "np.cov(x, rowvar=False, ddof=0) + np.diag(np.full(d, eps))",
    "np.einsum('mi,mj->ij', centred, centred) / m + eps * np.identity(d)",
    "np.mean([np.outer(row, row) for row in centred], axis=0) + eps * np.eye(d)",
    "np.where(np.eye(d) == 1, eps, 0) + x.T @ centred / len(x)",
    "(x.T @ x / m - np.outer(x.mean(0), x.mean(0))) + eps * np.eye(d)",
]
ROOTS = [
    "s, U = np.linalg.eigh(cov); W = U @ np.diag(s**-0.5) @ U.T",
    "s, U = np.linalg.eigh(cov); W = (U[:, ::-1] / np.sqrt(s[::-1])) @ U[:, ::-1].T",
    "s, U = np.linalg.eigh(cov); U = -U; W = np.einsum('ik,k,jk->ij', U, 1 / np.sqrt(s), U)",
    "s, U = np.linalg.eigh(cov); W = sum(np.outer(u, u) / a**0.5 for a, u in zip(s, U.T))",
    "s, U = np.linalg.eig(cov); W = U @ np.diag(s**-0.5) @ np.linalg.inv(U)",
    "U, s, _ = np.linalg.svd(cov); W = U @ np.diag(1 / np.sqrt(s)) @ U.T",
    "W = np.linalg.inv(scipy.linalg.sqrtm(cov))",
    "W = scipy.linalg.fractional_matrix_power(cov, -0.5)",
    "W = newton_schulz(cov, 30)",
]
PRODUCTS = [
    "centred @ W",
    "centred @ W.T",
    "(W @ centred.T).T",
    "np.array([W @ row for row in centred])",
    "np.linalg.solve(np.linalg.inv(W), centred.T).T",
    "(centred @ W).tolist()",
    "(centred @ W).astype(np.float32)",
    "torch.from_numpy(centred @ W)",
    "np.float32(centred) @ np.float32(W)",
    "x @ W - x.mean(axis=0) @ W",
]


@pytest.mark.parametrize("centred", CENTRED)
def test_right_but_different_zca_is_never_wrong(centred):
    for cov, roots, product in itertools.product(COVARIANCES, ROOTS, PRODUCTS):
        lines = ["m, d = x.shape", f"centred = {centred}", f"cov = {cov}", roots]
        source = "\n    ".join(["def zca(x, eps):", *lines, f"return {product}"])
        check, attempt = written(source, newton_schulz=whitening.newton_schulz)
        verdict = check.judge(attempt)
        assert verdict.outcome == "right", source + verdict.words
        lossy = "x.T @" in cov or "x @ W -" in product or "float32" in product
        assert verdict.mistakes == () or lossy or "newton" in roots, source + verdict.words


def test_a_mean_that_drowns_the_spread_is_right_on_paper_only():
    source = ZCA.replace("centred.T @ centred / m", "x.T @ x / m - np.outer(*[x.mean(0)] * 2)")
    check, attempt = written(source)
    verdict = check.judge(attempt)
    assert (verdict.outcome, verdict.mistakes) == ("right", ("floats",))
    assert "subtract it before" in verdict.words


EXTENDED = [
    "np.hstack([np.ones((len(x), 1)), x])",
    "np.hstack([x, np.ones((len(x), 1))])",
    "np.column_stack([np.ones(len(x)), x])",
    "np.array([[1, *row] for row in x])",
    "np.pad(x, ((0, 0), (1, 0)), constant_values=1)",
    "np.asfortranarray(np.insert(x, 0, 1, axis=1))",
]
RATIOS = [
    "np.linalg.eigvalsh(a.T @ a / len(a))[-1] / np.linalg.eigvalsh(a.T @ a / len(a))[0]",
    "np.linalg.cond(a.T @ a)",
    "np.linalg.cond(a) ** 2",
    "np.divide(*np.linalg.svd(a)[1][[0, -1]]) ** 2",
    "np.linalg.norm(a.T @ a, 2) * np.linalg.norm(np.linalg.inv(a.T @ a), 2)",
    "max(np.linalg.eigvals(a.T @ a).real) / min(np.linalg.eigvals(a.T @ a).real)",
    "np.float32(np.linalg.cond(a.T @ a))",
    "torch.linalg.cond(torch.from_numpy(a)) ** 2",
    "[np.linalg.cond(a.T @ a / 7)]",
]


@pytest.mark.parametrize(("a", "ratio"), list(itertools.product(EXTENDED, RATIOS)))
def test_right_but_different_condition_is_never_wrong(a, ratio):
    check, attempt = written(f"def condition(x):\n    a = {a}\n    return {ratio}")
    assert check.judge(attempt) == ("right", "Right.", ())


CHANGES = [
    "values, U = np.linalg.eigh(C); U = -U[:, ::-1]; r = np.sqrt(values[::-1])\n"
    "    return U @ (-(U.T @ dC @ U) / (np.outer(r, r) * (r[:, None] + r))) @ U.T",
    "R = np.linalg.inv(root(C))\n"
    "    return scipy.linalg.solve_sylvester(R, R, -root(C) @ dC @ root(C))",
    "R = np.linalg.inv(root(C)); dR = scipy.linalg.solve_sylvester(R, R, dC)\n"
    "    return -root(C) @ dR @ root(C)",
    "return (root(C + 1e-5 * dC) - root(C - 1e-5 * dC)) / 2e-5",
    "W = root(C); R = W @ C; eye = np.eye(len(C)); big = np.kron(R, eye) + np.kron(eye, R)\n"
    "    return -np.linalg.solve(big, (W @ dC @ W).ravel()).reshape(C.shape)",
    "values, U = np.linalg.eigh(C); out = np.zeros(C.shape); seen = np.linalg.solve(U, dC @ U)\n"
    "    for i, a in enumerate(values**0.5):\n"
    "        for j, b in enumerate(values**0.5):\n"
    "            out -= np.outer(U[:, i], U[:, j]) * seen[i, j] / (a * b * (a + b))\n"
    "    return out.astype(np.float32)",
    "values, U = np.linalg.eigh(C); r = np.sqrt(values)\n"
    "    K = -1 / (np.outer(r, values) + np.outer(values, r))\n"
    "    return np.einsum('ik,kl,jl->ij', U, K * (U.T @ dC @ U), U).tolist()",
    "values, U = np.linalg.eigh(C); gap = values[:, None] - values; near = abs(gap) < 1e-9\n"
    "    K = (values[:, None] ** -0.5 - values**-0.5) / np.where(near, 1, gap)\n"
    "    K = np.where(near, -0.5 * values**-1.5, K)\n"
    "    return torch.from_numpy(U @ (K * (U.T @ dC @ U)) @ U.T)",
]


@pytest.mark.parametrize("body", CHANGES)
def test_right_but_different_changes_are_never_wrong(body):
    check, attempt = written(f"def inverse_root_change(C, dC):\n    {body}")
    assert check.judge(attempt) == ("right", "Right.", ())


BIASES = [
    "return rate * steps * target.mean()",
    "return steps * rate * sum(target) / len(u)",
    "x_hat = u - u.mean(); return -steps * rate * np.sum((x_hat - target) / u.size)",
    "b = 0\n    for _ in range(steps):\n        x = u + b\n"
    "        b = b - rate * ((x - x.mean()) - target).mean()\n    return b",
    "return np.float32(rate * steps * np.average(target))",
    "return torch.tensor(target).mean() * rate * steps",
    "return np.full(1, rate * steps * np.mean(target - (u - np.mean(u))))",
    "return np.linspace(0, rate * steps * np.mean(target), steps + 1)[-1]",
]


@pytest.mark.parametrize("body", BIASES)
def test_right_but_different_bias_is_never_wrong(body):
    check, attempt = written(f"def predict_bias(u, target, rate, steps):\n    {body}")
    assert check.judge(attempt) == ("right", "Right.", ())


@pytest.mark.parametrize("kind", [int, float, np.int64, np.array, str])
def test_counts_of_any_kind(kind):
    verdict = checks.count_statistics.judge({"whitening": kind(5150), "BN": kind(200)})
    assert verdict.outcome == ("wrong" if kind is str else "right")
