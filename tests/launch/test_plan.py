import dataclasses
import json
import os
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cycle
from launch import compiled, gathers, plan, topology
from tests.launch.conftest import call
from warp_translate.errors import UserError
from warp_translate.experiment import build
from warp_translate.ops import bilinear_warp

FLOAT = 4


def tiny_config():
    config = cycle.get_config("runlocal")
    config.adversary.r1 = 0.0  # The penalty would double the compilation.
    config.losses.update(identity=0.0, identity_pretranslated=0.0)
    return config


@pytest.fixture(scope="module")
def local_plan():
    return plan.make_plan(tiny_config(), topology.open_topology("local"), batch_per_chip=2)


def nbytes(*trees):
    return sum(np.asarray(leaf).nbytes for tree in trees for leaf in jax.tree.leaves(tree))


@pytest.mark.full
def test_parts_are_those_of_the_initial_state(local_plan):
    config = tiny_config()
    state = build.initial_state(build.training(config), config)
    networks = (state.a_to_b, state.b_to_a, state.d_a, state.d_b)
    assert local_plan.chips == 8
    assert local_plan.parts == {
        "parameters": nbytes(*(network.params for network in networks)),
        "optimizer": nbytes(*(network.opt_state for network in networks)),
        "moving average": nbytes(state.a_to_b.ema, state.b_to_a.ema),
        "image pool": nbytes(state.pool_a, state.pool_b),
        "other state": nbytes(state.step, state.d_a.spectral, state.d_b.spectral),
        "batch": 2 * 2 * 32 * 32 * 3,
    }
    key_bytes = 8
    assert local_plan.memory["arguments"] == sum(local_plan.parts.values()) + key_bytes
    # Only gradients and metrics are reduced over the devices.
    (reduced,) = local_plan.collectives
    assert reduced.kind == "all-reduce"
    parameters = local_plan.parts["parameters"]
    assert parameters <= reduced.bytes <= parameters + 100 * FLOAT


@pytest.mark.full
def test_verdicts(local_plan):
    text = plan.table(local_plan)
    assert "8 x cpu, global batch 16 (2 per chip)" in text
    assert "fits: unknown" in text and "not checked" in text  # A CPU's memory and tiles.
    assert (local_plan.fits, local_plan.gathers, local_plan.passes) == (None, None, True)
    total = local_plan.memory["total"]
    assert dataclasses.replace(local_plan, hbm_bytes=total).passes
    short = dataclasses.replace(local_plan, hbm_bytes=total - 1)
    assert not short.passes
    assert "fits: NO" in plan.table(short)
    good = gathers.Moved("gather a", count=2, floor=1, bound=10, moved=10)
    bad = dataclasses.replace(good, moved=11)
    assert dataclasses.replace(local_plan, gathers=(good,)).passes
    blown = dataclasses.replace(local_plan, gathers=(good, bad))
    assert not blown.passes
    assert "BLOW-UP: 1 of them" in plan.table(blown)
    found = json.loads(plan.to_json(blown))
    assert (found["blown_up"], found["gathers"][1]["moved"]) == (1, 11)


def plan_command(*further, **environment):
    words = ["-m", "launch.plan", "--config=experiments/paired.py:runlocal", *further]
    return call(sys.executable, *words, env={**os.environ, **environment}, timeout=1200)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--topology=local", "--config.training.global_batch=6"], ".*: 4 or 8 would do"),
        ([], r"plan needs --config=experiments/FILE\.py and --topology"),
    ],
)
def test_user_error_is_one_line_and_status_2(words, message):
    done = plan_command(*words, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert re.match(f"error: {message}", line)


@pytest.mark.parametrize(
    ("name", "libtpu", "expected"),
    [
        ("v5e:3x5", "", r"v5e:3x5 does not exist; choose local or one of .*v5e:\{2x2,"),
        (
            "v5e:2x2",
            "JAX TPU support not installed; cannot",
            r"pip install 'warp-translate\[plan\]'",
        ),
        ("v5e:2x2", "ABORTED: error when accessing libtpu multi-process lockfile.", "only one can"),
        ("v5e:2x2", "INVALID: no such chip\nmore", "cannot be opened: INVALID: no such chip$"),
        ("h200:3", "", r"h200:3 does not exist; choose .*h200:\{1,2,4,8\}"),
        ("h200:1", "topology not implemented for cuda", r"'warp-translate\[plan_gpu\]'$"),
    ],
)
def test_topology_errors_are_one_line(monkeypatch, name, libtpu, expected):
    for variable, value in topology._ENVIRONMENT.items():  # open_topology sets them.
        monkeypatch.setenv(variable, value)

    def refuse(*arguments, **options):
        raise RuntimeError(libtpu)

    monkeypatch.setattr(topology.topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError, match=expected) as raised:
        topology.open_topology(name)
    assert "\n" not in str(raised.value)


PROGRAM = """
%body (p.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p.1 = (s32[], f32[4]{0}) parameter(0)
}

ENTRY %main (a.1: f32[16,3], b.1: bf16[8]) -> f32[16,3] {
  %a.1 = f32[16,3]{1,0:T(8,128)} parameter(0)
  %b.1 = bf16[8]{0:T(256)(128)(2,1)S(1)} parameter(1)
  %start.1 = (f32[16,3]{1,0:T(8,128)}, bf16[8]{0}) all-reduce-start(%a.1, %b.1), to_apply=%sum
  %done.1 = (f32[16,3]{1,0}, bf16[8]{0}) all-reduce-done(%start.1)
  %all.2 = f32[16,3]{1,0} all-reduce(%a.1), replica_groups={}, metadata={op_name="step/psum"}
  %all.3 = bf16[32]{0} all-gather(%b.1), dimensions={0}
  %c.1 = (pred[3,5]{1,0}, f8e4m3fn[6]{0:S(2)}, token[], f32[]) tuple(%b.1)
  %all.4 = (pred[3,5]{1,0}, f8e4m3fn[6]{0}) collective-permute(%c.1), channel_id=1
  %while.1 = (s32[], f32[4]{0}) while(%t.1), body=%body, c={"known_trip_count":{"n":"5"}}
  %while.2 = (s32[], f32[4]{0}) while(%t.1), body=%body
  %cond.1 = f32[4]{0} conditional(%i.1, %a.1), branch_computations={%x, %y}
  %fusion.1 = f32[16,3]{1,0} fusion(%a.1), m={op_name="step/conv"}, c={"estimated_cycles":"70"}
  ROOT %fusion.2 = f32[16,3]{1,0} fusion(%a.1), c={"estimated_cycles":"900"}
}
"""


def test_read_program():
    read = compiled.read_program(PROGRAM)
    a, b = 16 * 3 * 4, 8 * 2
    assert read.collectives == (
        compiled.Collective("all-reduce", 2, a + b + a),
        compiled.Collective("all-gather", 1, b),
        compiled.Collective("collective-permute", 1, 3 * 5 + 6 + 4),
    )
    assert read.loops == (5, None)
    assert read.conditionals == 1
    assert read.operations == (
        compiled.Operation("fusion.2", "", 900),
        compiled.Operation("fusion.1", "step/conv", 70),
    )


KERNELS = """
%body (p.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p.1 = (s32[], f32[4]{0}) parameter(0)
  %g.1 = f32[4]{0} get-tuple-element(%p.1), index=1
  %fusion.9 = f32[4]{0} fusion(%g.1, %g.1), calls=%inside
  ROOT %t.1 = (s32[], f32[4]{0}) tuple(%g.1, %fusion.9)
}

%small (p.2: f32[4]) -> f32[4] {
  ROOT %p.2 = f32[4]{0} parameter(0)
}

%large (p.3: f32[4]) -> f32[4] {
  %p.3 = f32[4]{0} parameter(0)
  %copy.1 = f32[4]{0} copy(%p.3)
  ROOT %copy.2 = f32[4]{0} copy(%copy.1)
}

ENTRY %main (a.1: f32[4], b.1: bf16[8,2]) -> f32[4] {
  %a.1 = f32[4]{0} parameter(0)
  %b.1 = bf16[8,2]{1,0} parameter(1)
  %conv.1 = (f32[4]{0}, u8[0]{0}) custom-call(%a.1, %b.1), custom_call_target="c", m={op_name="f"}
  %g.2 = f32[4]{0} get-tuple-element(%conv.1), index=0
  %while.1 = (s32[], f32[4]{0}) while(%t.2), condition=%small, body=%body
  ROOT %cond.1 = f32[4]{0} conditional(%i.1, %a.1, %a.1), branch_computations={%small, %large}
}
"""


def test_kernels_of_all_called_computations_are_counted():
    read = compiled.read_program(KERNELS)
    vector = 4 * FLOAT
    assert read.kernels == (
        compiled.Kernel("c", "f", vector + 8 * 2 * 2 + vector),
        compiled.Kernel("fusion.9", "", vector + vector),
        compiled.Kernel("copy.1", "", vector + vector),
        compiled.Kernel("copy.2", "", vector + vector),
    )
    assert read.bytes == 8 * vector + 32


def test_images_that_are_no_size_are_refused():
    done = plan_command("--topology=local", "--translate=12x0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --translate=12x0 is not HEIGHTxWIDTH, for example 2160x3840\n"


def test_a_translation_is_planned_on_the_local_device():
    found = plan.plan_translation(tiny_config(), topology.open_topology("local"), 12, 20)
    assert (found.chips, found.global_batch, found.parts["image"]) == (1, 1, 12 * 20 * 3)
    assert found.memory["new results"] == 12 * 20 * 3
    assert "translation, 12 x 20, factor 2 on local" in plan.table(found)


def warp_jaxpr(argument, size):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    displacement = jax.ShapeDtypeStruct((1, size, size, 2), jnp.float32)
    gradient = jax.grad(lambda *inputs: bilinear_warp(*inputs).sum(), argument)
    return jax.jit(gradient).trace(image, displacement).jaxpr


@pytest.mark.parametrize(
    ("platform", "argument", "expected"),
    [
        ("cpu", 0, {"scatter-add": 4}),
        ("cpu", 1, {"gather": 12}),
        ("cuda", 0, {"scatter-add": 1}),
        ("cuda", 1, {"gather": 2}),
        ("tpu", 0, {"scatter-add": 12}),
        ("tpu", 1, {"gather": 1}),
    ],
)
def test_live_gathers_of_the_platform_are_found(platform, argument, expected):
    found = {}
    jaxpr = gathers._without_dead_code(warp_jaxpr(argument, 8).jaxpr)
    for equation, count, _ in gathers._equations(jaxpr, platform):
        name = equation.primitive.name
        if name in ("gather", "scatter-add"):
            found[name] = found.get(name, 0) + count
    assert found == expected


def test_gather_in_a_loop_counts_once_per_iteration():
    def loop(image, rows):
        return jax.lax.scan(lambda total, row: (total + image[row], None), image[0], rows)[0]

    jaxpr = jax.make_jaxpr(loop)(jnp.zeros((9, 4)), jnp.zeros((5,), jnp.int32)).jaxpr
    reads = ("gather", "dynamic_slice")
    counts = [
        count
        for equation, count, _ in gathers._equations(jaxpr, "cpu")
        if equation.primitive.name in reads
    ]
    assert max(counts) == 5


def test_large_gathers_are_compiled_alone_and_small_ones_skipped():
    size, logged = 256, []
    device = jax.devices()[0]

    def added_twice(pixels, places):
        once = jnp.zeros_like(pixels).at[places].add(pixels, mode="promise_in_bounds")
        return once.at[places].add(pixels, mode="promise_in_bounds")

    def jaxpr(size):
        pixels = jax.ShapeDtypeStruct((size * size, 3), jnp.float32)
        places = jax.ShapeDtypeStruct((size * size,), jnp.uint32)
        return jax.jit(added_twice).trace(pixels, places).jaxpr

    found = gathers.moved_by_gathers(jaxpr(size), device, logged.append)
    # The first scatters into zeros, the second into its result.
    assert {"from a constant" in each.name: each.count for each in found} == {True: 1, False: 1}
    assert len(logged) == 2
    pixels = size * size
    for each in found:
        assert each.name.startswith("scatter-add float32[65536,3]")
        assert each.floor == pixels * (3 + 1 + 3 + 3) * 4
        assert each.bound == each.floor + pixels * 3 * 4096
        assert pixels * 3 * 4 < each.moved <= each.bound
    assert gathers.moved_by_gathers(jaxpr(8), device, logged.append) == []


@pytest.mark.parametrize(
    ("scatter", "slice_size", "gigabytes", "blows_up"),
    [
        # The compiler's count at 1024 px, see experiments/benchmarks/warp_tpu.py.
        (False, 3, 69.4, True),  # rows of the flattened image
        (False, 12, 7.4, False),  # four neighbors as planes
        (True, 3, 138.1, True),
        (True, 1, 0.1, False),
    ],
)
def test_bound_separates_the_forms_of_the_warp(scatter, slice_size, gigabytes, blows_up):
    pixels = 1024 * 1024
    floor = pixels * (2 * slice_size + 1) * 4
    bound = gathers.bound_bytes(floor, pixels, slice_size, scatter=scatter)
    moved = gathers.Moved("warp", 1, floor, bound, round(gigabytes * 1e9))
    assert moved.blows_up is blows_up


@pytest.mark.full
def test_step_is_compiled_for_four_absent_chips(tmp_path):
    pytest.importorskip("libtpu")
    file = tmp_path / "plan.json"
    done = plan_command(
        "--config.data.size=160",
        "--config.data.load_size=160",
        "--topology=v5e:2x2",
        f"--json={file}",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["chips"] == 4
    assert found["chip"] == "TPU v5 lite"
    assert found["fits"] and found["passes"]
    assert found["parts"]["batch"] == 2 * 2 * 160 * 160 * 3
    reduced = {each["kind"]: each["bytes"] for each in found["collectives"]}
    assert reduced["all-reduce"] >= found["parts"]["parameters"]
    (read,) = (each for each in found["gathers"] if "[12," in each["name"])
    assert read["moved"] > read["floor"]
