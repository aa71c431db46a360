//! Shaders with cooperative matrices, on adapters without: the built-in functions are replaced by ordinary code that does
//! what WGSL says of them, with any number of subgroups. All else is the shader as it is: loads, tiles, barriers, the
//! epilogue. What a real matrix unit does, its rounding above all, is not seen.

use cascade_rt::backend::Backend;
use cascade_rt::backend::wgpu::{Wgpu, adapters};
use cascade_rt::ops::{Case, Operand};
use cascade_rt::registry::{self, Caps, Kernel, Lang, Launch, Target};
use cascade_rt::shape::Shape;
use cascade_rt::tensor::Dtype;

use super::cases::{self, One, Stored};

/// f16 has 11 bits; a sum of products of rounded operands is off by about as much.
const TOLERANCE: f32 = 2e-3;

/// FLOP of the largest case that is run: one lane does what a matrix unit would.
const MOST: u64 = 5_000_000;

/// What comes after `begin` and before `end`, and what comes after that.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<(&'a str, &'a str)> {
    text.split_once(begin)?.1.split_once(end)
}

/// A call in one line of a shader, `name…(&array[at], stride)`, as a view of the array, element (r, c) at
/// `at + r * row + c * column`.
fn view(line: &str, call: &str, transposed: bool) -> Option<String> {
    let (head, arguments) = line.split_once(call).filter(|(head, _)| !head.trim_start().starts_with("//"))?;
    let (array, rest) = between(arguments, "(&", "[")?;
    let (at, stride) = rest.rsplit_once("], ")?;
    let stride = stride.trim_end_matches(");");
    let (row, column) = if transposed { (stride, "1u") } else { ("1u", stride) };
    Some(format!("{head}View({array}_number, {at}, {row}, {column});"))
}

/// The shader without cooperative matrices; a group's lanes form subgroups of `width`.
fn modelled(source: &str, width: u32) -> String {
    let mut arrays = Vec::new();
    let mut lines = Vec::new();
    for line in source.lines() {
        let indent: String = line.chars().take_while(|c| *c == ' ').collect();
        let new = if line == "enable wgpu_cooperative_matrix;"
            || line.contains("@builtin(subgroup_")
            || line.contains("@builtin(num_subgroups)")
        {
            String::new()
        } else if line == "    let group = part.first + id;" {
            format!(
                "{line} let width = WIDTH; let subgroup = lane / width; let subgroups = WG / width; let here = lane % width; own_lane = here;"
            )
        } else if let Some(view) = view(line, "coopLoadT<", true).or_else(|| view(line, "coopLoad<", false)) {
            let array = between(line, "(&", "[").expect("found above").0.to_owned();
            if !arrays.contains(&array) {
                arrays.push(array);
            }
            view
        } else if line.contains("coopMultiplyAdd(") {
            let each = line.split(';').filter(|s| !s.trim().is_empty()).map(|statement| {
                let (sum, call) =
                    statement.trim().split_once(" = coopMultiplyAdd(").expect("c = coopMultiplyAdd(a, b, c)");
                let operands = call.strip_suffix(&format!(", {sum})")).expect("the sum is the last argument");
                format!("multiply_add({operands}, &{sum});")
            });
            format!("{indent}{}", each.collect::<String>())
        } else if line.contains("coopStoreT(") {
            let (sum, rest) = between(line, "coopStoreT(", ", &sums[").expect("coopStoreT(c, &sums[at], stride)");
            let (at, stride) = rest.rsplit_once("], ").expect("a stride");
            format!("{indent}store_sums(&{sum}, {at}, {});", stride.trim_end_matches(");"))
        } else if line.contains("coop_mat") {
            let each =
                line.split(';').filter_map(|s| s.split_once('=')).map(|(var, _)| format!("{} = Sums();", var.trim()));
            format!("{indent}{}", each.collect::<String>())
        } else {
            line.to_owned()
        };
        assert!(!new.contains("coop") || new.contains("//"), "{new:?} is not modelled");
        lines.push(new);
    }
    let numbers = arrays.iter().enumerate().map(|(i, array)| format!("const {array}_number = {i}u;\n"));
    let cases = arrays.iter().map(|array| format!("case {array}_number: {{ return f32({array}[at]); }}\n"));
    format!(
        "{}\n{}
const WIDTH: u32 = {width}u;
var<private> own_lane: u32; // the lane's number in its subgroup
struct View {{ array: u32, at: u32, row: u32, column: u32 }}
struct Sums {{ held: array<f32, M * M / 8u> }} // those of one lane, `width` apart; a subgroup has at least 8
fn element_of(v: View, r: u32, c: u32) -> f32 {{
    let at = v.at + r * v.row + c * v.column;
    switch v.array {{ {} default: {{ return 0.0; }} }}
}}
fn multiply_add(a: View, b: View, to: ptr<function, Sums>) {{
    for (var i = own_lane; i < M * M; i += WIDTH) {{
        for (var k = 0u; k < M; k++) {{ (*to).held[i / WIDTH] += element_of(a, i / M, k) * element_of(b, k, i % M); }}
    }}
}}
fn store_sums(from_lane: ptr<function, Sums>, at: u32, stride: u32) {{
    for (var i = own_lane; i < M * M; i += WIDTH) {{ sums[at + i / M * stride + i % M] = (*from_lane).held[i / WIDTH]; }}
}}
",
        lines.join("\n"),
        numbers.collect::<String>(),
        cases.collect::<String>()
    )
}

fn shapes(case: &Case) -> Vec<Option<Shape>> {
    case.inputs.iter().map(|operand| operand.as_ref().map(Operand::shape)).collect()
}

/// The cases of its op that the kernel serves, with subgroups of `width`: how many ran, and what differed.
fn check(kernel: &'static Kernel, adapter: usize, width: u32) -> (usize, Vec<String>) {
    let Launch::Wgsl(shader) = kernel.launch else { panic!("{} is a shader", kernel.name) };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(format!("{}.wgsl", kernel.name)), modelled(shader.source, width)).unwrap();
    let backend = Wgpu::with_caps(adapter, Caps::F16.and(Caps::ROUND_F16), Some(folder.path())).unwrap();
    let stored = Stored { dtype: Dtype::Bf16, state: true, gemm_inputs: false };
    let (mut ran, mut failures) = (0, Vec::new());
    for (i, case) in cases::of(kernel.op) {
        let Some(one) = One::of(i, stored).or_else(|| One::of(i, Stored { state: false, ..stored })) else { continue };
        let everything = Target::new(Lang::Wgsl, Caps::ALL);
        if case.op.flops(&shapes(case), case.op.shape(&shapes(case)).unwrap()) > MOST {
            continue;
        }
        if !registry::admissible(&one.plan().nodes[0], one.plan(), everything).any(|row| std::ptr::eq(row, kernel)) {
            continue;
        }
        ran += 1;
        let got = one.run(backend.compile_with(one.plan().clone(), &[kernel]).unwrap()).unwrap();
        let (at, error) = cases::worst(&got, &one.reference());
        if error > TOLERANCE {
            failures.push(format!("{} case {i}, subgroups of {width}: {error:.2e} at {at}", kernel.name));
        }
    }
    (ran, failures)
}

#[test]
fn cooperative_matrices_as_ordinary_code() {
    let Some(adapter) = adapters().iter().position(|adapter| adapter.caps.contains(Caps::F16)) else { return };
    let needs = [Caps::COOPERATIVE, Caps::COOPERATIVE_8];
    for kernel in registry::kernels(Lang::Wgsl).filter(|k| needs.iter().any(|caps| k.needs.contains(*caps))) {
        for width in [16, 32, 64] {
            let start = std::time::Instant::now();
            let (ran, failures) = check(kernel, adapter, width);
            let seconds = start.elapsed().as_secs_f32();
            println!("{:28} {ran} cases, subgroups of {width}, {seconds:.1} s", kernel.name);
            assert!(ran > 0 && failures.is_empty(), "{failures:?}");
        }
    }
}
