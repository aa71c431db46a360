//! A shader's text → a checked module, with what the host must know of it:
//! bindings, numbers by name, and the workgroup memory that it takes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{
    AddressSpace, ArraySize, BinaryOperator, Expression, Handle, Literal, SourceLocation, StorageAccess, TypeInner,
};

use crate::error::{Error, Result};
use crate::registry::{Kernel, Shader};

/// Bytes that a shader's own text may have, and bytes of the stack that it is parsed on. The front end calls itself for
/// every operand of a chain like `a + a + a`, and takes up to 600 bytes for a character of it.
const LONGEST: usize = 64 << 10;
const STACK: usize = 256 << 20;

/// How deep statements may be nested. What compiles them further calls itself for each.
const NESTED: usize = 100;

/// A parsed and checked shader with its tunables.
pub(super) struct Module {
    naga: naga::Module,
    /// Entry points that add the first workgroup of their part, see `common.wgsl`.
    parted: Vec<String>,
    tunables: &'static [(&'static str, u32)],
}

impl Module {
    /// Parses and checks the shader of a row, which consists of `texts`, each with its file. The row's own comes first, so
    /// that the line numbers of messages are its; they also say which line of another file is meant.
    pub(super) fn parse(texts: &[(PathBuf, &str)], shader: &Shader) -> Result<Self> {
        let path = &texts[0].0;
        let name = path.display().to_string();
        if let Some((path, text)) = texts.iter().find(|(_, text)| text.len() > LONGEST) {
            let message = format!("has {} bytes; expected {LONGEST} at most", text.len());
            return Err(Error::Shader { path: path.clone(), message });
        }
        let text = texts.iter().map(|(_, text)| *text).collect::<Vec<_>>().join("\n");
        let explained = |message: String, at: Option<SourceLocation>| {
            let place = at.and_then(|at| appended(texts, at.line_number as usize));
            let place = place.map(|(file, line)| format!("this is line {line} of {}\n", file.display()));
            message + &place.unwrap_or_default()
        };
        let check = || {
            let naga = naga::front::wgsl::parse_str(&text)
                .map_err(|e| explained(e.emit_to_string_with_path(&text, &name), e.location(&text)))?;
            let bodies = naga.functions.iter().map(|(_, f)| f).chain(naga.entry_points.iter().map(|e| &e.function));
            if bodies.map(|function| depth(&function.body)).max() > Some(NESTED) {
                return Err(format!("statements are nested more than {NESTED} deep, `else if` counted"));
            }
            let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
            let info = validator
                .validate(&naga)
                .map_err(|e| explained(e.emit_to_string_with_path(&text, &name), e.location(&text)))?;
            Ok((naga, info))
        };
        let (naga, info) = on_a_large_stack(check).map_err(|message| Error::Shader { path: path.clone(), message })?;
        let is_part = |(_, v): &(_, &naga::GlobalVariable)| v.space == AddressSpace::Immediate;
        let part = naga.global_variables.iter().find(is_part).map(|(part, _)| part);
        let reads = |entry: usize| part.is_some_and(|part| !info.get_entry_point(entry)[part].is_empty());
        let entries = naga.entry_points.iter().enumerate().filter(|(i, _)| reads(*i));
        let parted = entries.map(|(_, entry)| entry.name.clone()).collect();
        Ok(Self { parted, naga, tunables: shader.tunables })
    }

    /// The same of a row as it is built in.
    pub(super) fn built_in(kernel: &Kernel, shader: &Shader) -> Result<Self> {
        let file = |name| PathBuf::from(format!("shaders/{name}.wgsl"));
        let appended = shader.appended().map(|shared| (file(shared.name), shared.text));
        let texts: Vec<_> = [(file(kernel.name), shader.source)].into_iter().chain(appended).collect();
        Self::parse(&texts, shader)
    }

    /// The module as wgpu takes it.
    pub(super) fn source(&self) -> wgpu::ShaderSource<'static> {
        wgpu::ShaderSource::Naga(Cow::Owned(self.naga.clone()))
    }

    /// Whether there is a compute entry point of this name.
    pub(super) fn has_entry(&self, name: &str) -> bool {
        self.naga.entry_points.iter().any(|e| e.name == name && e.stage == naga::ShaderStage::Compute)
    }

    /// Whether the grid of this entry point may be dispatched in parts.
    pub(super) fn is_parted(&self, entry: &str) -> bool {
        self.parted.iter().any(|name| name == entry)
    }

    /// Bindings of group 0 and what each may hold.
    pub(super) fn bindings(&self) -> Vec<wgpu::BindGroupLayoutEntry> {
        let entry = |(_, variable): (_, &naga::GlobalVariable)| {
            let ty = match variable.space {
                AddressSpace::Uniform => wgpu::BufferBindingType::Uniform,
                AddressSpace::Storage { access } => {
                    wgpu::BufferBindingType::Storage { read_only: !access.contains(StorageAccess::STORE) }
                }
                _ => return None,
            };
            Some(wgpu::BindGroupLayoutEntry {
                binding: variable.binding.as_ref()?.binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                count: None,
            })
        };
        self.naga.global_variables.iter().filter_map(entry).collect()
    }

    /// Pipeline constants: the row's tunables, and for each operand whose kind
    /// the shader asks for (an `override` with the operand's number as its id), that kind.
    pub(super) fn constants(&self, kinds: &[u32]) -> Vec<(String, f64)> {
        let constant = |(_, o): (_, &naga::Override)| match (o.id, &o.name) {
            (Some(id), _) => kinds.get(usize::from(id)).map(|&kind| (id.to_string(), f64::from(kind))),
            (None, Some(name)) => self.tunable(name).map(|value| (name.clone(), f64::from(value))),
            (None, None) => None,
        };
        self.naga.overrides.iter().filter_map(constant).collect()
    }

    /// The operands whose kind the shader asks for, in their order, each with its kind.
    pub(super) fn operands(&self, kinds: &[u32]) -> Vec<(&str, u32)> {
        let ids = self.naga.overrides.iter().filter_map(|(_, o)| Some((usize::from(o.id?), o.name.as_deref()?)));
        let ids: BTreeMap<usize, &str> = ids.collect();
        ids.iter().filter_map(|(i, name)| Some((name.trim_end_matches("_kind"), *kinds.get(*i)?))).collect()
    }

    /// SPIR-V of an entry point, specialised to operands of these kinds, as wgpu hands it to a driver of Vulkan 1.3 that
    /// keeps accesses within buffers; `checks` is what it adds.
    pub(super) fn spirv(
        &self,
        entry: &str,
        kinds: &[u32],
        checks: wgpu::ShaderRuntimeChecks,
    ) -> std::result::Result<Vec<u32>, String> {
        let stage = naga::ShaderStage::Compute;
        let constants = self.constants(kinds).into_iter().collect();
        let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&self.naga);
        let info = info.map_err(|e| e.to_string())?;
        let process = naga::back::pipeline_constants::process_overrides;
        let (module, info) = process(&self.naga, &info, Some((stage, entry)), &constants).map_err(|e| e.to_string())?;
        let index = if checks.bounds_checks { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
        let options = spv::Options {
            lang_version: (1, 6),
            flags: spv::WriterFlags::empty(),
            bounds_check_policies: BoundsCheckPolicies { index, ..Default::default() },
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: checks.force_loop_bounding,
            emit_int_div_checks: checks.int_div_checks,
            ..Default::default()
        };
        let pipeline = spv::PipelineOptions { shader_stage: stage, entry_point: entry.to_owned() };
        spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|e| e.to_string())
    }

    fn tunable(&self, name: &str) -> Option<u32> {
        self.tunables.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }

    /// The whole number that the shader calls `name`, an `override` or a `const`.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let named = |other: &Option<String>| other.as_deref() == Some(name);
        let mut overrides = self.naga.overrides.iter();
        if let Some((handle, _)) = overrides.find(|(_, o)| named(&o.name)) {
            return self.override_value(handle);
        }
        let (_, constant) = self.naga.constants.iter().find(|(_, c)| named(&c.name))?;
        self.value(constant.init)
    }

    fn override_value(&self, handle: Handle<naga::Override>) -> Option<u64> {
        let o = &self.naga.overrides[handle];
        match o.name.as_deref().and_then(|name| self.tunable(name)) {
            Some(value) => Some(value.into()),
            None => self.value(o.init?),
        }
    }

    fn value(&self, expression: Handle<Expression>) -> Option<u64> {
        match self.naga.global_expressions[expression] {
            Expression::Literal(Literal::U32(v)) => Some(v.into()),
            Expression::Literal(Literal::I32(v)) => v.try_into().ok(),
            Expression::Literal(Literal::AbstractInt(v)) => v.try_into().ok(),
            Expression::Constant(c) => self.value(self.naga.constants[c].init),
            Expression::Override(o) => self.override_value(o),
            Expression::Binary { op, left, right } => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                match op {
                    BinaryOperator::Add => left.checked_add(right),
                    BinaryOperator::Subtract => left.checked_sub(right),
                    BinaryOperator::Multiply => left.checked_mul(right),
                    BinaryOperator::Divide => left.checked_div(right),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Bytes of workgroup memory, all variables together; `None` if a size cannot be told.
    /// wgpu checks this against no limit, and too much ends some drivers.
    pub(super) fn workgroup_bytes(&self) -> Option<u64> {
        let variables = self.naga.global_variables.iter();
        variables.filter(|(_, v)| v.space == AddressSpace::WorkGroup).map(|(_, v)| self.size(v.ty)).sum()
    }

    fn size(&self, ty: Handle<naga::Type>) -> Option<u64> {
        match self.naga.types[ty].inner {
            TypeInner::Array { size, stride, .. } => {
                let count = match size {
                    ArraySize::Constant(n) => n.get().into(),
                    ArraySize::Pending(o) => self.override_value(o)?,
                    ArraySize::Dynamic => return None,
                };
                Some(count * u64::from(stride))
            }
            _ => Some(self.naga.types[ty].inner.size(self.naga.to_ctx()).into()),
        }
    }
}

/// The file behind the first that has line `line` of all texts together, and which line that is there.
fn appended<'a>(texts: &'a [(PathBuf, &str)], line: usize) -> Option<(&'a Path, usize)> {
    let mut left = line;
    for (i, (file, text)) in texts.iter().enumerate() {
        // A last line without an end is one, and so is what comes between an end and the next text.
        let lines = text.split('\n').count();
        if left <= lines {
            return (i > 0).then_some((file, left));
        }
        left -= lines;
    }
    None
}

/// How deep the statements of a block are nested.
fn depth(block: &naga::Block) -> usize {
    use naga::Statement::{Block, If, Loop, Switch};
    let inner = |statement: &naga::Statement| match statement {
        Block(body) => 1 + depth(body),
        If { accept, reject, .. } => 1 + depth(accept).max(depth(reject)),
        Loop { body, continuing, .. } => 1 + depth(body).max(depth(continuing)),
        Switch { cases, .. } => 1 + cases.iter().map(|case| depth(&case.body)).max().unwrap_or(0),
        _ => 0,
    };
    block.iter().map(inner).max().unwrap_or(0)
}

/// What was checked, or a message.
type Checked<T> = std::result::Result<T, String>;

/// Runs what calls itself as often as a text makes it to. A panic is an error, too.
fn on_a_large_stack<T: Send>(work: impl FnOnce() -> Checked<T> + Send) -> Checked<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|e| format!("no thread with {} MiB of stack to parse it on: {e}", STACK >> 20))?;
        thread.join().unwrap_or_else(|_| Err("the WGSL front end failed on it".into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Axis, Lang, Launch, kernels};

    fn parse(source: &str) -> Result<Module> {
        let shader = Shader { source: "", shared: &[], passes: &[], scratch: &[], tunables: &[("WG", 8)], band: "" };
        Module::parse(
            &[("a.wgsl".into(), source), ("b.wgsl".into(), "const B = 1;\nconst C = D;\nconst D = 2u;")],
            &shader,
        )
    }

    /// Also those that no device here can run.
    #[test]
    fn every_shader_is_valid_and_becomes_spirv() {
        for kernel in kernels(Lang::Wgsl) {
            let Launch::Wgsl(shader) = kernel.launch else { panic!("{} is a shader", kernel.name) };
            let module = Module::built_in(kernel, &shader).unwrap();
            assert!(module.workgroup_bytes().is_some_and(|bytes| bytes <= 32 << 10), "{}", kernel.name);
            for pass in shader.passes {
                assert!(module.has_entry(pass.entry), "{} {}", kernel.name, pass.entry);
                let words = module.spirv(pass.entry, &[1; 8], wgpu::ShaderRuntimeChecks::checked());
                assert!(words.is_ok_and(|w| !w.is_empty()), "{} {}", kernel.name, pass.entry);
                let parted = module.is_parted(pass.entry) || pass.grid == [Axis::ONE; 3];
                assert!(parted, "{}: `{}` does not add `part.first` to its workgroup", kernel.name, pass.entry);
            }
        }
    }

    #[test]
    fn numbers_and_workgroup_memory() {
        let module = parse(
            "override WG: u32 = 64u;\nconst TILE = 4u;\noverride LEN: u32 = WG * TILE + 1u;\n\
             var<workgroup> a: array<f32, LEN>;\nvar<workgroup> b: array<vec4<f32>, TILE>;\n\
             @compute @workgroup_size(WG) fn main() { a[0] = b[TILE - 1u].x; }",
        )
        .unwrap();
        assert_eq!(module.number("WG"), Some(8), "the row's value replaces the shader's");
        assert_eq!(module.number("TILE"), Some(4));
        assert_eq!(module.number("LEN"), Some(33));
        assert_eq!(module.number("main"), None);
        assert_eq!(module.workgroup_bytes(), Some(33 * 4 + 4 * 16));
        assert_eq!(module.constants(&[]), [("WG".to_owned(), 8.0)]);
    }

    /// Each of these makes something call itself once for each repetition.
    #[test]
    fn deep_shaders_are_errors_or_compile() {
        let value = |e: String| format!("fn f(a: u32) -> u32 {{ return {e}; }}");
        let body = |s: String| format!("fn f(a: u32) {{ {s} }}");
        let texts = |n: usize| {
            [
                value(format!("{}a{}", "(".repeat(n), ")".repeat(n))),
                value(format!("{}a{}", "abs(".repeat(n), ")".repeat(n))),
                value(format!("a{}", "+a".repeat(n))),
                value(format!("{}a", "~".repeat(n))),
                body(format!("let b = vec4(a){};", ".xyzw".repeat(n))),
                body(format!("var b = a; let c = {}b;", "*&".repeat(n))),
                body(format!("if a == 1u {{}} {}", "else if a==2u{}".repeat(n))),
                body(format!("{}{}", "{".repeat(n), "}".repeat(n))),
                body(format!("{}{}", "loop{".repeat(n), "break;}".repeat(n))),
                format!("var<private> a: {}u32{};", "array<".repeat(n), ",2>".repeat(n)),
            ]
        };
        for (i, text) in texts(100_000).iter().enumerate() {
            assert!(parse(text).is_err_and(|e| e.to_string().contains("65536 at most")), "text {i}");
        }
        // As long as they may be.
        for (i, text) in texts(4000).iter().chain(&texts(60)).enumerate() {
            let Ok(module) = parse(text) else { continue };
            let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module.naga).unwrap();
            let written = naga::back::spv::write_vec(&module.naga, &info, &naga::back::spv::Options::default(), None);
            assert!(written.is_ok(), "text {i}");
        }
        for (i, text) in texts(60).iter().take(7).enumerate() {
            assert!(parse(text).is_ok(), "text {i}");
        }
    }

    #[test]
    fn messages_name_the_line_of_an_appended_text() {
        let Err(error) = parse("const A = C + x;\n") else { panic!("x is unknown") };
        assert!(!error.to_string().contains("this is line"), "{error}");
        for own in ["const A: i32 = D;\n", "const A: i32 = D;"] {
            let Err(error) = parse(&format!("{own}\nfn D() {{}}")) else { panic!("D is there twice") };
            assert!(error.to_string().contains("this is line 3 of b.wgsl"), "{error}");
        }
        let texts = ["a\n", "b\nc\n", "d"].map(|text| (PathBuf::from(&text[..1]), text));
        // a, what follows it, b, c, what follows it, d.
        let places: Vec<_> =
            (1..=7).map(|line| appended(&texts, line).map(|(file, line)| (file.to_str().unwrap(), line))).collect();
        let (b, d) = (|line| Some(("b", line)), Some(("d", 1)));
        assert_eq!(places, [None, None, b(1), b(2), b(3), d, None]);
    }

    #[test]
    fn messages_name_file_and_line() {
        for (source, line) in
            [("\nfn f() -> f32 { return 1u; }", "a.wgsl:2"), ("fn f() {\n  let x = y;\n}", "a.wgsl:2")]
        {
            let Err(error) = parse(source) else { panic!("{source:?} is broken") };
            assert!(error.to_string().contains(line), "{error}");
        }
    }
}
