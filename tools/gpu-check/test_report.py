"""Tests of what this tool reads and writes. They need neither a GPU nor the program."""

import array
import contextlib
import io
import json
import tempfile
import unittest
from pathlib import Path

import correct
import dumps
import fast
import pack
import report
import steps

KERNELS = """running 1 test
SKIPPED linear linear.tma: this machine lacks sm_90a
test every_kernel_matches_its_reference ... linear               linear.mma                   24 cases, 1 failed, 0.1 s
linear               linear                       36 cases, 0 failed, 2.0 s
thread 'x' panicked at tests/kernels.rs:1:
linear linear.mma case 3 Bf16 in place: 2.10e-1 at 17, allowed 1e-2
"""

CRITERION = """Benchmarking linear/linear.mma/cuda:0/x: Analyzing
linear/linear.mma/cuda:0/x
                        time:   [1.0000 ms 2.0000 ms 3.0000 ms]
                        thrpt:  [100.00 Gelem/s 250.00 Gelem/s 300.00 Gelem/s]
                        thrpt:  [1.0 GiB/s 2.0 GiB/s 3.0 GiB/s]
cuda:0 NVIDIA H200 has ceilings 4000 GB/s (add), 700000 GFLOP/s (large linear)
                        best: 250.0 GFLOP/s, 2.1 GB/s, 80 % of the memory ceiling
short/row/a             time:   [1.0000 µs 4.0000 µs 5.0000 µs]
                        thrpt:  [1.0 MiB/s 512.0 MiB/s 600.0 MiB/s]
"""

PROFILE = {"rows": [{"name": "linear.mma", "seconds": 0.1, "share": 0.5, "calls": 9, "flops": 4e13, "bytes": 1e10}]}


def picture(seconds: float) -> dict:
    stages = {"text": 0.0, "stage_c": seconds, "stage_b": 0.0, "stage_a": 0.0}
    return {"status": "ok", "seconds": 1, "quick": False, "pixels": 1024, "model": "large", "picture": seconds, "device": "cuda:0",
            "stages": {name: [value] for name, value in stages.items()}, "stages_median": stages, "after": "1980 MHz"}


class MockMachine:
    """A machine with a CUDA device. Its commands return the test's answer for each op."""

    def __init__(self, folder: str, answers: dict):
        tool = Path(folder) / "compute-sanitizer"
        tool.touch(mode=0o755)
        self.environment, self.answers = {"PATH": folder}, answers
        self.commands, self.quick, self.program, self.earlier, self.clock = [], False, Path, {}, lambda: 0.0

    def device(self, _kind):
        return {"name": "cuda:0"}

    def left(self):
        return 60.0

    def json(self, *_words):
        return [{"op": op} for op in self.answers]

    def run(self, _argv, _seconds, **environment):
        rc, text = self.answers[environment["CASCADE_KERNELS"]]
        self.commands.append({"rc": rc, "timed_out": rc == 124})
        return {"rc": rc, "timed_out": rc == 124, "stdout": text, "stderr": ""}


class Sanitizing(unittest.TestCase):
    CLEAN = "add add 6 cases, 0 failed\n========= ERROR SUMMARY: 0 errors\n"
    FOUND = "scale scale 6 cases, 0 failed\n========= Invalid __shared__ read of size 4\n========= ERROR SUMMARY: 2 errors\n"

    def sanitize(self, answers: dict) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            return steps.one(MockMachine(folder, answers), 60, correct.memcheck)

    def test_clean(self):
        result = self.sanitize({"add": (0, self.CLEAN)})
        self.assertEqual((result["status"], result["findings"], result["cases"]), ("ok", {}, 6))

    def test_errors_are_not_crashes(self):
        result = self.sanitize({"add": (0, self.CLEAN), "scale": (correct.FOUND, self.FOUND)})
        self.assertEqual((result["status"], result["crashed"]), ("failed", []))
        self.assertEqual(result["findings"]["scale"]["total"], 2)
        self.assertIn("Invalid __shared__ read", report.markdown({"sanitizer-memcheck": result}))

    def test_time_limit(self):
        result = self.sanitize({"add": (0, self.CLEAN), "conv2d": (124, "")})
        self.assertEqual((result["status"], result["without_summary"]), ("timed out", ["conv2d"]))
        self.assertTrue(result["crashed"][0]["timed_out"])

    def test_unsupported_device(self):
        result = self.sanitize({"add": (1, "========= Error: Device not supported\n")})
        self.assertEqual(result["status"], "not measured")
        self.assertIn("Device not supported", result["reason"])


class Reading(unittest.TestCase):
    def test_kernel_tests(self):
        parsed = correct.parse_kernels(KERNELS)
        self.assertEqual([(row["kernel"], row["cases"], row["failed"]) for row in parsed["rows"]],
                         [("linear.mma", 24, 1), ("linear", 36, 0)])
        self.assertEqual(len(parsed["different"]), 1)
        self.assertEqual(parsed["skipped"], ["linear linear.tma (sm_90a)"])

    def test_sanitizer(self):
        text = "========= Invalid __global__ write of size 4 bytes at 0x12\n========= ERROR SUMMARY: 1 error\n"
        self.assertEqual(correct.parse_sanitizer(text), (1, {"Invalid __global__ write of size 4 bytes at 0x…": 1}))
        clean = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
        self.assertEqual(correct.parse_sanitizer(clean), (0, {}))
        self.assertEqual(correct.parse_sanitizer("========= Device not supported\n"), (None, {}))

    def test_criterion(self):
        first, second = fast.parse_criterion(CRITERION)
        self.assertEqual(first, {"name": "linear/linear.mma/cuda:0/x", "seconds": 2e-3, "flops": 2.5e11, "bytes": 2.0 * 2**30})
        self.assertEqual(second, {"name": "short/row/a", "seconds": 4e-6, "bytes": 512.0 * 2**20})

    def test_errors_of_pictures_and_networks(self):
        lines = "guided                       cuda:0   stage_c      1.5e-6\nguided  cpu   stage_c  2.0e-6\n"
        self.assertEqual(correct.parse_pipelines(lines), {"cuda:0": {"stage_c": 1.5e-6}, "cpu": {"stage_c": 2e-6}})
        lines = "tiny_prior in bf16 on NVIDIA H200: 3.30e-3, diffusers 9.10e-3\n"
        self.assertEqual(correct.parse_fidelity(lines)[0]["error"], 3.3e-3)

    def test_glibc(self):
        symbols = "0 DF *UND* 0 (GLIBC_2.34) dlopen\n0 DF *UND* 0 (GLIBC_2.38) __isoc23_strtol\n"
        self.assertEqual(pack.too_new(symbols), ["GLIBC_2.38 __isoc23_strtol"])

    def test_tensors(self):
        with tempfile.TemporaryDirectory() as folder:
            header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}).encode()
            file = Path(folder) / "x"
            file.write_bytes(len(header).to_bytes(8, "little") + header + array.array("f", [9, 3, 4]).tobytes())
            self.assertEqual(list(dumps.tensors(file)["x"]), [3, 4])
        self.assertAlmostEqual(dumps.relative_l2([3, 5], [3, 4]), 0.2)
        self.assertEqual(dumps.relative_l2([3], [3, 4]), float("inf"))

    def test_choice(self):
        self.assertEqual([name for name, *_ in steps.chosen("demo")], ["environment", "demo"])
        self.assertEqual(len(steps.chosen("all")), len(steps.STEPS))
        with self.assertRaises(SystemExit):
            steps.chosen("speed")


class Pictures(unittest.TestCase):
    def verdict(self, **errors) -> str:
        """Of a machine whose dumps have these errors against the CPU's in f32."""
        with tempfile.TemporaryDirectory() as folder:
            machine = MockMachine(folder, {})
            machine.device = lambda _kind: {"name": "cuda:0"}
            machine.scratch = lambda: tempfile.TemporaryDirectory(dir=folder)

            def run(argv, _seconds):
                name = str(argv[-1]).rsplit("/", 1)[1]
                values = array.array("f", [1 + errors.get(name, 0)])
                header = {t: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for t in ("stage_c", "stage_b", "image")}
                text = json.dumps(header).encode()
                Path(argv[-1]).write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes())
                machine.commands.append({"rc": 0, "timed_out": False})

            machine.run = run
            return steps.one(machine, 60, lambda m: correct.against_cpu(m, "model", []))["status"]

    def test_a_gpu_may_round_as_the_cpu_does(self):
        own = {"cpu bf16": 0.01, "gpu bf16": 0.012, "gpu bf16, without sm_90a": 0.011}
        self.assertEqual(self.verdict(**own), "ok")
        self.assertEqual(self.verdict(**own, gpu=0.01), "failed")
        for wrong in ("gpu bf16", "gpu bf16, without sm_90a"):
            self.assertEqual(self.verdict(**own | {wrong: 0.02}), "failed")


class Budget(unittest.TestCase):
    """The order of steps and their time limits, with a clock that only the steps move."""

    class Machine:
        def __init__(self, minutes: float):
            self.now, self.quick, self.earlier, self.commands = 0.0, False, {}, []
            self.deadline = self.step_end = 60 * minutes

        def clock(self):
            return self.now

        def left(self):
            return min(self.step_end, self.deadline) - self.now

    def takes(self, seconds: float, done: list, name: str):
        def action(machine):
            done.append((name, round(machine.left())))
            machine.now += min(seconds, machine.left())
            return {}
        return action

    def run_steps(self, machine, todo, results) -> list:
        done: list = []
        timed = [(name, group, least, limit, self.takes(seconds, done, name)) for name, group, least, limit, seconds in todo]
        with contextlib.redirect_stdout(io.StringIO()):
            steps.run_steps(machine, timed, results, False, lambda: None)
        return done

    def test_what_does_not_fit_is_said_and_a_second_run_goes_on(self):
        todo = [("a", "x", 10, 100, 60), ("b", "x", 90, 200, 90), ("c", "x", 20, 50, 30), ("d", "x", 50, 60, 20)]
        results: dict = {}
        machine = self.Machine(2)
        # 120 s, of which 10 are kept back: after `a` there are 50, too few for `b`; `c` fits, and `d` does not any more.
        self.assertEqual(self.run_steps(machine, todo, results), [("a", 100), ("c", 50)])
        self.assertEqual({name: result["status"] for name, result in results.items()},
                         {"a": "ok", "b": "not reached", "c": "ok", "d": "not reached"})
        self.assertIn("50 s were left, and it takes 90 s at least", results["b"]["reason"])
        self.assertIn("**Not reached in the time given**: b, d.", report.markdown(results))
        self.assertEqual(self.run_steps(self.Machine(3), todo, results), [("b", 170), ("d", 60)])
        self.assertEqual(report.not_reached(results), [])

    def test_no_step_outlasts_the_run(self):
        done = self.run_steps(self.Machine(1), [("a", "x", 10, 300, 1000), ("b", "x", 1, 300, 1)], {})
        self.assertEqual(done, [("a", 50)])

    def test_a_step_that_stopped_goes_on(self):
        answers = {"add": (0, Sanitizing.CLEAN), "scale": (0, "scale scale 6 cases, 0 failed\n")}
        with tempfile.TemporaryDirectory() as folder:
            machine = MockMachine(folder, answers)
            time_left = iter([60.0, 1.0])
            machine.left = lambda: next(time_left)
            first = steps.one(machine, 60, correct.kernels_cuda)
            self.assertEqual((first["status"], first["not_reached"], first["cases"]), ("partial", ["scale"], 6))
            self.assertEqual(report.not_reached({"kernels-cuda": first}), ["kernels-cuda (scale)"])
            machine = MockMachine(folder, answers)
            machine.earlier = first
            second = steps.one(machine, 60, correct.kernels_cuda)
            self.assertEqual((second["status"], second["not_reached"], second["cases"]), ("ok", [], 12))

    def test_runs_are_merged(self):
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("first.json", "second.json")]
            files[0].write_text(json.dumps({"a": {"status": "ok"}, "b": {"status": "not reached"}}))
            files[1].write_text(json.dumps({"a": {"status": "not reached"}, "b": {"status": "failed"}}))
            self.assertEqual({name: r["status"] for name, r in steps.merged(files).items()}, {"a": "ok", "b": "failed"})

    def test_correctness_comes_first_and_fits_one_run(self):
        groups = [group for _, group, *_ in steps.STEPS if group]
        order = list(dict.fromkeys(groups))
        self.assertEqual(order, ["correct", "fast", "more", "sanitize", "beside", "vulkan"])
        self.assertEqual(groups, sorted(groups, key=order.index), "the steps of a group stand together")
        most = sum(limit for _, group, _, limit, _ in steps.STEPS if group in ("", "correct"))
        self.assertLessEqual(most, 9 * 60 + steps.RESERVE, "the default of --minutes")
        self.assertTrue(all(least <= limit for *_, least, limit, _ in steps.STEPS))


class Writing(unittest.TestCase):
    def test_nothing_measured(self):
        text = report.markdown({})
        self.assertIn("not measured: this step was not selected", text)
        self.assertNotIn("cannot be written", text)
        self.assertEqual(text.count("| G"), 3)

    def test_reasons(self):
        result = {"status": "not measured", "reason": "no CUDA driver", "commands": []}
        text = report.markdown({name: result for name, *_ in steps.STEPS if name != "environment"})
        self.assertNotIn("cannot be written", text)
        self.assertGreater(text.count("not measured: no CUDA driver"), 15)

    def test_gates_and_ratios(self):
        results = {"beside-large": picture(0.5), "diffusers-eager": picture(1.0), "synthetic-large": picture(0.4)}
        text = report.markdown(results)
        self.assertIn("| G1 | 0.60 s | 0.500 s | pass |", text)
        self.assertIn("| G2 | 0.45 s | 0.500 s | FAIL |", text)
        self.assertIn("| 1000.0 | 2.00 |", text)

    def test_shares(self):
        gpu = {"status": "ok", "gpu": {"name": "NVIDIA H200"}}
        profile = {"status": "ok", "profile": PROFILE, "model": "large", "pixels": 1024}
        text = "\n".join(report.kernels({"environment": gpu, "profile-large": profile}))
        self.assertIn("400.0 TFLOP/s", text)
        self.assertIn("40 % of bf16", text)

    def test_failures_are_named(self):
        parsed = correct.parse_kernels(KERNELS)
        kernels = {"status": "failed", "cases": 60, "failed": 1, "crashed": [], "not_reached": ["scale"], **parsed}
        text = report.markdown({"kernels-cuda": kernels})
        self.assertIn("linear linear.mma case 3", text)
        self.assertIn("not reached within the time limit: scale", text)


if __name__ == "__main__":
    unittest.main()
