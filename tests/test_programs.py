"""One process may work on any number of losses: what was compiled for them is forgotten again."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde import compiled
from jaxsde.engine import launch
from jaxsde.engine.executors.native import plan_of
from jaxsde.engine.pace import Pace
from jaxsde.theory import float64

KEPT = 1


def programs() -> int:
    """Of XLA's, in this process."""
    gc.collect()
    return len(jax.devices()[0].client.live_executables())


def problem(i: int):
    return js.potential(lambda x: jnp.sum(x**2 / 2 - 0.1 * i * jnp.cos(x)), np.full(2, 0.5), noise_covariance=1.0)


def keep_few(monkeypatch):
    compiled._own.cache_clear()
    own = compiled._own.__wrapped__
    monkeypatch.setattr(compiled, "_own", compiled.functools.lru_cache(maxsize=KEPT)(own))


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["vmap", "lanes", "native"])
def test_programs_of_runs_are_forgotten(executor, monkeypatch):
    keep_few(monkeypatch)
    monkeypatch.setattr(launch, "_KEPT_PROGRAMS", KEPT)
    monkeypatch.setattr(plan_of, "kept", KEPT)
    # a statistic that XLA looks after, under `native` too
    statistics = {"autocovariance": js.Autocovariance(2)} if executor == "native" else {}
    counted = []
    for i in range(2 * KEPT + 1):
        chain = js.integrate(js.sgd_sde(problem(i), learning_rate=0.05), dt=0.05)
        js.simulate(chain, np.full(2, 0.5), key=js.key(0), chains=16, steps=2, executor=executor, statistics=statistics)
        counted.append(programs())
    assert len(launch._programs) == KEPT
    assert counted[-1] == counted[KEPT]


def test_programs_of_theory_are_forgotten(monkeypatch):
    keep_few(monkeypatch)
    counted = []
    for i in range(2 * KEPT + 1):
        wide = float64.widen(problem(i))
        value = float64.evaluate(float64.loss, wide, np.full(2, 0.5))
        assert value == pytest.approx(0.25 - 0.2 * i * np.cos(0.5), abs=1e-7)
        each = float64.evaluate_many(float64.loss, wide, np.full((3, 2), 0.5))
        np.testing.assert_array_equal(each, np.full(3, value))
        counted.append(programs())
    assert counted[-1] == counted[KEPT]


def test_a_program_is_found_again():
    function = compiled.jitted(float64.loss, problem(1))
    assert compiled.jitted(float64.loss, js.potential(problem(1).loss, np.zeros(2))) is not function
    same = problem(1)
    assert compiled.jitted(float64.loss, same) is compiled.jitted(float64.loss, same)


def test_a_problem_of_other_data_compiles_nothing():
    rng = np.random.default_rng(0)
    made = lambda: js.finite_sum(squared, (rng.normal(size=(7, 3)), rng.normal(size=7)), rng.normal(size=3))
    made()
    before = compiled._own.cache_info().misses, programs()
    made()
    assert (compiled._own.cache_info().misses, programs()) == before


def squared(w, e):
    return (e[0] @ w - e[1]) ** 2


def test_the_first_chunk_is_as_long_as_another_run_of_the_program_says(monkeypatch):
    ticks = itertools.count()  # whatever is timed takes a thousandth of a second
    monkeypatch.setattr(launch, "time", types.SimpleNamespace(perf_counter=lambda: 1e-3 * next(ticks)))
    problem = js.potential(lambda x: x @ x / 2 + 0.125 * x[0] ** 4, np.ones(2), noise_covariance=1.0)
    chain = js.integrate(js.sgd_sde(problem, learning_rate=0.1), dt=0.05)
    given = dict(chains=64, every=3, key=js.key(1), statistics={"m": js.Mean()}, executor="vmap")

    def first():
        return next(iter(js.iterate(chain, np.ones(2), steps=4000, **given))).step

    assert first() == 63  # nothing is known
    program = next(reversed(launch._programs.values()))
    # a launch that is over at once says that a few times as many steps will not be long, fewer for more tiles, and no more
    program.short = (60, 1e-3)
    assert [program.known_steps(tiles) for tiles in (1, 60, 120, 10_000)] == [480, 62, 31, 1]
    assert first() == 480 and program.short[0] == 480
    program.took(100, 1e-3)
    assert program.short[0] == 480 and program.pace.steps() is None
    program.took(1000, 1.0)
    assert first() == 498  # half a second, and whole intervals
    whole, parts = (js.simulate(chain, np.ones(2), steps=4000, chunk=c, **given) for c in (None, 1000))
    np.testing.assert_array_equal(whole.positions, parts.positions)


def test_launches_in_which_chains_stop_say_nothing():
    problem = js.potential(lambda x: -(x[0] ** 4), np.ones(1), noise_covariance=1.0)
    chain = js.integrate(js.sgd_sde(problem, learning_rate=0.1), dt=0.05)
    run = js.simulate(chain, np.ones(1), chains=64, steps=200, key=js.key(1), executor="vmap")
    program = next(reversed(launch._programs.values()))
    assert run.diverged.all() and program.short[0] == 0 and program.pace.steps() is None


def test_launches_that_are_all_copying_do_not_get_shorter_and_shorter():
    """Of launches that take a second each beside .01 s a step, the steps are to take four fifths; of those that take nothing
    by themselves each takes half a second."""

    def lengths(itself, a_step, first, launches, times=1):
        pace, found = Pace(), [first]
        assert pace.steps() is None
        for _ in range(launches):
            pace.took(found[-1], (itself + a_step * found[-1]) / times)
            found.append(pace.steps(times))
        return found[-2:]

    for times in (1, 8):
        np.testing.assert_allclose(lengths(1.0, 0.01, 8, 6, times), 400, atol=1)
        np.testing.assert_allclose(lengths(0.0, 0.01, 8, 6, times), 50, atol=1)
    np.testing.assert_allclose(lengths(0.1, 0.01, 64, 6), 40, atol=1)
    assert lengths(0.0, 2.0, 8, 4) == [1, 1]


WAITS = """
import jax
import jax.numpy as jnp
import numpy as np
import jaxsde as js

x = np.linspace(0, 1, 12)

def evidence(p):
    total = p @ p / 2
    for k in range(4):
        kernel = jnp.exp(p[k]) * jnp.exp(-((x[:, None] - x) ** 2) * (k + 1)) + jnp.eye(12)
        root = jnp.linalg.cholesky(kernel)
        at = jax.scipy.linalg.solve_triangular(root, np.sin(6 * x), lower=True)
        total += at @ at / 2 + jnp.log(jnp.diag(root)).sum()
    return total

def spectrum(p):
    return sum(jnp.sum(jnp.abs(jnp.fft.rfft(jnp.tile(p, 4) * jnp.cos(k * jnp.arange(16.0)))) ** 2) for k in range(4)) / 50

def seen(p):
    matrix = jnp.outer(jnp.tile(p, 3), jnp.tile(p, 3)) + 2 * jnp.eye(12)
    return jnp.linalg.cholesky(matrix).sum() + jnp.linalg.eigvalsh(matrix).sum()

# in the step, and in what looks at the steps of machine code
for loss, given in ((evidence, {"executor": "vmap"}), (spectrum, {"executor": "vmap"}),
                    (lambda p: p @ p, {"statistics": {"seen": js.of(seen, js.Mean())}})):
    chain = js.integrate(js.langevin(js.potential(loss, np.zeros(4)), temperature=1.0), dt=0.001)
    for _ in range(3):
        run = js.simulate(chain, np.zeros(4), key=js.key(0), chains=4096, steps=16, **given)
        assert run.step == 16 and np.isfinite(run.positions).all() and run.positions.std() > 0.01
print("over")
"""


@pytest.mark.slow
def test_factorisations_of_many_chains_do_not_wait_for_each_other():
    """XLA runs them where their own parts have to run: two tiles at a time, or two in one program, once waited for ever."""
    done = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "over", done.stderr
