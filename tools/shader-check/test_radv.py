import unittest

import radv

# A loop over K that loads, with a loop inside that multiplies and adds; then one that stores.
CODE = """\
BB0:
	v_mov_b32_e32 v1, 0                                         ; 7e020280
	global_load_b32 v9, v[1:2], off
BB1:
	buffer_load_b128 v[2:5], v1, s[0:3], 0 offen
	buffer_load_b32 v6, v1, s[4:7], 0 offen
	s_waitcnt vmcnt(1)
	s_waitcnt vmcnt(0) lgkmcnt(0)
	s_waitcnt lgkmcnt(0)
BB2:
	v_fmac_f32_e32 v7, v2, v6
	v_dual_fmac_f32 v8, v3, v6 :: v_dual_fmac_f32 v10, v4, v6
	s_add_i32 s1, s1, 1
	s_cbranch_scc1 BB2
	s_cbranch_scc0 BB3
	s_branch BB1
BB3:
	v_fma_f32 v7, v7, v7, v7
	s_waitcnt vmcnt(0)
	s_cbranch_scc0 BB3
	s_endpgm
"""
WMMA = CODE.replace("	s_waitcnt lgkmcnt(0)\nBB2", "	v_wmma_f32_16x16x16_f16 v[8:15], v[2:9], v[2:9], v[8:15]\nBB2")


class Radv(unittest.TestCase):
    def test_loops_are_found_by_their_last_branch_back(self):
        lines = [line.split(";")[0].strip() for line in CODE.splitlines()]
        self.assertEqual([(lines[a], lines[b]) for a, b in radv.loops(lines)], [("BB2:", "s_cbranch_scc1 BB2"), ("BB1:", "s_branch BB1"), ("BB3:", "s_cbranch_scc0 BB3")])

    def test_the_hottest_loop_and_the_loads_around_it(self):
        self.assertEqual(radv.counts(CODE), {"fma": 75, "loads": 2, "waits": 2})
        # A product of matrices is more work than the loop inside; the share is that of its own instructions.
        self.assertEqual(radv.counts(WMMA), {"fma": round(100 / 7), "loads": 2, "waits": 2})
        # Without a loop, all of the code counts.
        self.assertEqual(radv.counts("BB0:\n\tglobal_load_b32 v1, v[1:2], off\n\ts_waitcnt vmcnt(0)\n\tv_add_f32 v1, v1, v1\n"), {"fma": 0, "loads": 1, "waits": 1})

    def test_what_is_worse_is_named(self):
        good = {"vgprs": 120, "waves": 8, "spills": 0, "lds": 8704, "code": 800, "fma": 65, "loads": 16, "waits": 16}
        rows, version = radv.read(radv.table({"a,main": good}, "25.0.7"))
        self.assertEqual((rows, version), ({"a,main": good}, "25.0.7"))
        for column, worse in [("vgprs", 132), ("waves", 7), ("spills", 1), ("lds", 9000), ("code", 900), ("fma", 60), ("loads", 17), ("waits", 17)]:
            faults, _ = radv.compare({"a,main": {**good, column: worse}}, rows)
            self.assertEqual(faults, [f"a,main: {column} {good[column]} → {worse}"])
        # Small changes, and what is better.
        self.assertEqual(radv.compare({"a,main": {**good, "vgprs": 122, "code": 830, "fma": 64}}, rows), ([], 0))
        self.assertEqual(radv.compare({"a,main": {**good, "waits": 1, "fma": 80}}, rows), ([], 1))
        faults, _ = radv.compare({"b,main": good}, rows)
        self.assertEqual(len(faults), 2)
