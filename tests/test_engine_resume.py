"""Going on from a run, and the engine's refusals: exact, no false alarms."""

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsde as js

KEY = js.key(11)
ROOT = Path(__file__).parents[1]


def bowl(phi):
    return 0.5 * jnp.sum(jnp.array([1.0, 2.0]) * phi**2)


PROBLEM = js.potential(bowl, jnp.zeros(2))
CHAIN = js.sgd(PROBLEM, learning_rate=0.1)


def statistics():
    return {"cov": js.Covariance(), "lag": js.Autocovariance((1, 3))}


def run(start=None, **given):
    options = dict(steps=0) | given
    if not isinstance(start, js.Run):
        options = dict(key=KEY, chains=20, groups=4, statistics=statistics()) | options
    return js.simulate(CHAIN, np.ones(2) if start is None else start, **options)


def same(a, b):
    pairs = zip(jax.tree.leaves(a.accumulators), jax.tree.leaves(b.accumulators), strict=True)
    return (
        a.samples == b.samples
        and a.step == b.step
        and a.positions.tobytes() == b.positions.tobytes()
        and all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)
    )


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("cuts", [(5, 95), (50, 50, 110), (1, 1, 208), (99, 1, 1, 109)])
def test_a_stop_before_the_first_sample_moves_no_sample(every, cuts):
    whole = run(steps=sum(cuts), every=every)
    part = run(steps=cuts[0], every=every)
    for more in cuts[1:]:
        part = run(part, steps=more)  # `every` is the run's own
    assert part.every == every
    assert same(part, whole)


@pytest.mark.parametrize("every", [1, 7])
def test_burn_in_may_be_a_run_of_its_own(every):
    assert same(run(run(burn_in=31, every=every), steps=60), run(burn_in=31, steps=60, every=every))
    at_once = run(steps=60, burn_in=31, every=every)
    chunked = run(steps=60, burn_in=31, every=every, chunk=4)
    assert same(at_once, chunked)
    assert at_once.samples == 60 // every


def test_no_more_steps_change_nothing():
    before = run(steps=10)
    assert same(run(before, steps=0), before)


def test_what_would_leave_a_gap_or_mix_states_is_refused():
    begun = run(steps=10)
    with pytest.raises(ValueError, match="gap in statistics"):
        run(begun, burn_in=5, steps=5)
    assert run(begun, burn_in=5, steps=5, statistics=statistics()).samples == 5
    adam = js.sgd(PROBLEM, learning_rate=0.1, optimizer=optax.adam)
    with pytest.raises(ValueError, match="another state"):
        js.simulate(adam, begun, steps=5)
    with pytest.raises(ValueError, match="leave key"):
        js.simulate(CHAIN, begun, steps=5, key=KEY)
    with pytest.raises(ValueError, match="dimension 2"):
        js.simulate(js.sgd(js.potential(jnp.sum, jnp.zeros(3)), learning_rate=0.1), begun, steps=5)
    with pytest.raises(ValueError, match="every must be at most"):
        run(steps=1, every=1 << 40)


def test_any_chunk_length_is_taken():
    assert same(run(steps=40, chunk=1 << 50), run(steps=40))


def test_other_learning_rates_go_on_as_the_same_chain():
    halves = js.simulate(js.sgd(PROBLEM, learning_rate=0.05), run(steps=30), steps=20)
    direct = js.advance(js.sgd(PROBLEM, learning_rate=0.05), run(steps=30).positions, key=KEY, steps=20, first_step=30)
    np.testing.assert_allclose(halves.positions, direct, rtol=2e-6, atol=2e-6)


def test_advance_numbers_its_steps_in_64_bits():
    x = np.ones((3, 2), np.float32)
    far = [js.advance(CHAIN, x, key=KEY, steps=3, first_step=s) for s in (0, 2**31 + 5, 2**32, 2**45, 2**63)]
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(far, 2))
    chains = [js.advance(CHAIN, x, key=KEY, steps=3, first_chain=c) for c in (0, 2**32, 2**50)]
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(chains, 2))
    apart = js.advance(CHAIN, x, key=KEY, steps=3, first_chain=2**32 - 1)
    np.testing.assert_array_equal(apart[1:], chains[1][:2])  # the low word carries into the high one


def test_a_run_goes_on_past_2_32_steps():
    """In the middle of a launch, of a block of draws and of the samples between two looks, by every executor."""
    chain = js.integrate(js.langevin(js.potential(lambda x: x @ x / 2, np.zeros(2)), temperature=0.5), dt=0.1)
    ends = []
    for executor in ("vmap", "lanes", "native"):
        begun = js.simulate(chain, np.ones(2), key=KEY, chains=40, steps=3, executor=executor)
        far = dataclasses.replace(begun, step=2**32 - 9)
        more = js.simulate(chain, far, steps=20, executor=executor, every=4, statistics={"mean": js.Mean()})
        assert more.executor == executor and more.step == 2**32 + 11
        ends.append([more.positions, *jax.tree.leaves(more.partials("mean"))])
    for end in ends[1:]:
        for a, b in zip(end, ends[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_each_group_holds_its_own_chains():
    merged = run(steps=12, chains=23, groups=5)
    assert merged.group_sizes == (5, 5, 5, 4, 4)
    np.testing.assert_array_equal(np.bincount(merged.group), merged.group_sizes)
    last = run(steps=12, every=12, chains=23, groups=5, statistics={"mean": js.Mean()})
    for g in range(5):
        own = jax.tree.map(lambda a, g=g: a[g : g + 1], last.partials("mean"))
        np.testing.assert_allclose(
            last.statistic("mean").result(own), last.positions[last.group == g].mean(0), rtol=1e-6
        )


def test_a_chain_that_dies_leaves_no_trace_in_the_statistics():
    """The statistics of a run in which some chains diverge are those of the others alone."""

    def falls(phi):
        return jnp.sum(phi**2 / 2 - phi**4 / 4)

    chain = js.sgd(js.potential(falls, jnp.zeros(1), noise_covariance=1e-4), learning_rate=0.1)
    starts = np.where(np.arange(24)[:, None] % 3 == 0, 1.5, 0.2)
    both = js.simulate(chain, starts, key=KEY, chains=24, steps=80, statistics=statistics(), groups=4)
    np.testing.assert_array_equal(both.diverged, np.arange(24) % 3 == 0)
    assert np.isfinite(both.positions).all()
    # the first step that is not finite, by the same arithmetic in float64 without noise
    x, step = 1.5, 0
    while abs(x) < float(np.finfo(np.float32).max) ** 0.4:
        x, step = x - 0.1 * (x - x**3), step + 1
    assert np.abs(both.diverged_at[::3] - (step - 1)).max() <= 1
    assert (both.diverged_at[both.diverged_at >= 0] > 0).all() and (both.diverged_at[1::3] == -1).all()
    alive = both.positions[~both.diverged]
    again = js.simulate(chain, starts, key=KEY, chains=24, steps=80, every=80, statistics={"m": js.Mean()}, groups=4)
    np.testing.assert_allclose(again["m"].value, alive.mean(0), rtol=1e-6)
    # the same chains one by one, through the traced core
    alone = [js.advance(chain, starts[j].astype("f4"), key=KEY, steps=80, first_chain=j) for j in range(24) if j % 3]
    np.testing.assert_allclose(np.stack(alone), alive, rtol=1e-5, atol=1e-6)


def test_the_component_of_a_bad_start_is_named():
    problem = js.potential(lambda p: jnp.sum(jnp.sqrt(p["scale"])) + jnp.sum(p["weights"] ** 2),
                           {"scale": jnp.ones(2), "weights": jnp.zeros(3)})  # fmt: skip
    with pytest.raises(ValueError, match=r"component \['scale'\]\[1\]"):
        js.simulate(js.sgd(problem, learning_rate=0.1), {"scale": np.array([1.0, 0.0]), "weights": np.zeros(3)},
                    key=KEY, chains=4, steps=2)  # fmt: skip


_PRINTED = """
import hashlib, jax, numpy as np, jaxsde as js, jax.numpy as jnp
x, y = np.arange(16.0).reshape(8, 2) % 5 - 2, np.arange(8.0) % 3 - 1
problem = js.finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, (x, y), np.zeros(2))
statistics = {"cov": js.Covariance(), "hist": js.Histogram(np.linspace(-2, 2, 9), components=0)}
chain = js.sgd(problem, learning_rate=0.05, batch_size=2)
print(jax.device_count())
for executor in ("native", "vmap", "lanes"):
    for seed in (5, 6):
        run = js.simulate(chain, np.zeros(2), key=js.key(seed), chains=200, steps=70, every=3, groups=8, statistics=statistics,
                          executor=executor)
        assert run.executor == executor
        held = [run.positions] + jax.tree.leaves([run.partials(name) for name in statistics])
        print(len(run.layout.tiles), hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in held)).hexdigest())
"""


def test_devices_processes_and_cores_change_nothing():
    """Other processes, with 1, 2 and 8 devices, by either way to ask for them, and with one core: the same bytes of chains and of
    merged statistics, by every executor for CPUs; and other bytes for another seed. Every core has a tile of its own, however
    many devices there are."""
    told = []
    for devices, asked, one_core in (
        (1, {}, False),
        (2, {"JAX_NUM_CPU_DEVICES": "2"}, False),
        (8, {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}, True),
    ):
        pin = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})" if one_core else ""
        done = subprocess.run(
            [sys.executable, "-c", pin + _PRINTED],
            env=os.environ | {"PYTHONPATH": str(ROOT), **asked}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        count, *lines = done.stdout.splitlines()
        runs = [line.split() for line in lines]
        told.append([bits for _, bits in runs])
        cores = 1 if one_core else len(os.sched_getaffinity(0))
        assert int(count) == devices and all(int(tiles) >= min(cores, 8) for tiles, _ in runs)
    assert told[0] == told[1] == told[2]
    assert all(a != b for a, b in zip(told[0][::2], told[0][1::2], strict=True))
