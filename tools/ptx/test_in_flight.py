"""Tests of in_flight.py. planted.cu shows the rest, with real compilers."""

import unittest

import in_flight

A = "HGMMA.64x16x16.F32.BF16 R24, R120, gdesc[UR4], R24"
COMMIT = f"{A}, gsb0"
WAIT = "WARPGROUP.DEPBAR.LE gsb0, 0x0"


def sass(*lines):
    """What is wrong with a kernel of these instructions and labels."""
    text = "\t.section\t.text.kernel,\"ax\",@progbits\n"
    for i, line in enumerate([*lines, "EXIT"]):
        text += f"{line}\n" if line.endswith(":") else f"        /*{16 * i:04x}*/                   {line} ;\n"
    return [fault for program in in_flight.sass(text) for fault in in_flight.faults(program)]


def ptx(*lines):
    text = ".visible .entry kernel(\n.param .u64 p\n)\n{\n" + "\n".join([*lines, "ret;"]) + "\n}\n"
    return [fault for program in in_flight.ptx(text) for fault in in_flight.faults(program)]


class Sass(unittest.TestCase):
    def test_what_waits_is_right(self):
        self.assertEqual(sass("MOV R120, R1", A, COMMIT, "MOV R1, R119", WAIT, "MOV R120, R24"), [])
        # Fragments may be read again, accumulators added to.
        self.assertEqual(sass(A, COMMIT, "MOV R1, R120", COMMIT, WAIT), [])

    def test_fragments_are_not_written(self):
        for write in [
            "MOV R123, R1",
            "@P0 IMAD.U32 R120, R2, 0x10000, RZ",
            "LDG.E.64 R119, desc[UR8][R2.64]",
            "LDSM.16.M88.4 R117, [R9]",
            "SHFL.BFLY PT, R121, R1, 0x1, 0x1f",
        ]:
            self.assertEqual(len(sass(COMMIT, write, WAIT)), 1, write)
            self.assertEqual(len(sass(A, write, COMMIT, WAIT)), 1, f"{write}, the group still open")
        self.assertEqual(sass(COMMIT, "LDG.E.64 R118, desc[UR8][R2.64]", WAIT), [], "up to R119")

    def test_accumulators_are_not_touched(self):
        for touch in [
            "FADD R1, R24, R2",
            "MOV R31, R1",
            "ISETP.NE.AND P0, PT, R25, RZ, PT",
            "STS.128 [R1], R21",
            "LDG.E R1, desc[UR8][R23.64]",
        ]:
            self.assertEqual(len(sass(COMMIT, touch, WAIT)), 1, touch)
        for miss in [
            "STS.128 [R1], R20",
            "IMAD.WIDE.U32 R6, R23, 0x2, R8",
            "IMAD.WIDE.U32 R6, R23, 0x2, RZ",
            "LDG.E R1, desc[UR8][R22.64]",
        ]:
            self.assertEqual(sass(COMMIT, miss, WAIT), [], f"{miss}, up to R23")
        self.assertEqual(len(sass(COMMIT, "IMAD.WIDE.U32 R6, R1, 0x2, R23", WAIT)), 1, "up to R24")

    def test_a_wait_leaves_the_latest_groups(self):
        other = COMMIT.replace("R120", "R124")
        left = "WARPGROUP.DEPBAR.LE gsb0, 0x1"
        self.assertEqual(sass(COMMIT, other, left, "MOV R120, R1", WAIT), [])
        self.assertEqual(len(sass(COMMIT, other, left, "MOV R124, R1", WAIT)), 1)

    def test_loops_and_branches_are_followed(self):
        loop = [".L_x_1:", "MOV R120, R1", COMMIT, "@P0 BRA `(.L_x_1)", WAIT]
        self.assertEqual(len(sass(*loop)), 1)
        self.assertEqual(sass(*loop[:3], WAIT, loop[3]), [])
        self.assertEqual(len(sass(COMMIT, "@P0 BRA `(.L_x_2)", WAIT, ".L_x_2:", "MOV R120, R1", WAIT)), 1)

    def test_what_cannot_be_followed_is_a_fault(self):
        self.assertEqual(len(sass(COMMIT, "CALL.REL.NOINC `(divide)", WAIT)), 1)
        self.assertEqual(len(sass(COMMIT)), 1, "nobody waits")


class Ptx(unittest.TestCase):
    START = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, %rd1, onto, 1, 1, 0;"
    COMMIT = "wgmma.commit_group.sync.aligned;"
    WAIT = "wgmma.wait_group.sync.aligned 0;"

    def test_registers_in_flight_are_found(self):
        block = ["{", ".reg .pred onto;", "setp.ne.b32 onto, %r9, 0;", self.START, "}", self.COMMIT]
        self.assertEqual(ptx("mov.b32 %r1, %r5;", *block, self.WAIT, "mov.b32 %r1, %f1;"), [])
        for touch in ["mov.b32 %r4, %r5;", "add.f32 %f9, %f1, %f1;", "@%p1 mov.b32 %r1, %r5;"]:
            self.assertEqual(len(ptx(*block, touch, self.WAIT)), 1, touch)
        loop = ["$L__BB0_1:", "mov.b32 %r1, %r5;", *block, "@%p1 bra \t$L__BB0_1;", self.WAIT]
        self.assertEqual(len(ptx(*loop)), 1)


if __name__ == "__main__":
    unittest.main()
