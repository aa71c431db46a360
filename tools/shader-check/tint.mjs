// Compiles WGSL with Tint, as Chromium does: node tint.mjs KIND,… FILE.wgsl…
// Every entry point, with all operands of each of these kinds (their numbers in common.wgsl); prints one line of JSON for each file.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const { create } = createRequire(`${process.cwd()}/`)('webgpu');
const [kinds, ...files] = process.argv.slice(2);
const gpu = create(['backend=vulkan']);
const adapter = await gpu.requestAdapter();
const device = await adapter.requestDevice({ requiredFeatures: [...adapter.features], requiredLimits: limits(adapter.limits) });

// The adapter's, as wgpu asks for them.
function limits(of) {
    const wanted = {};
    for (const name in of) if (typeof of[name] === 'number') wanted[name] = of[name];
    return wanted;
}

async function compile(text) {
    const wrong = [];
    let pipelines = 0;
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code: text });
    for (const { type, lineNum, message } of (await module.getCompilationInfo()).messages) {
        if (type === 'error') wrong.push(`line ${lineNum}: ${message}`);
    }
    await device.popErrorScope();
    if (wrong.length > 0) return { pipelines, wrong };
    const ids = [...text.matchAll(/@id\((\d+)\)\s*override/g)].map((found) => found[1]);
    const entries = [...text.matchAll(/@compute\b[^{]*?\bfn\s+(\w+)/g)].map((found) => found[1]);
    for (const entryPoint of entries) {
        for (const kind of ids.length > 0 ? kinds.split(',').map(Number) : [0]) {
            const constants = Object.fromEntries(ids.map((id) => [id, kind]));
            try {
                await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint, constants } });
                pipelines += 1;
            } catch (error) {
                wrong.push(`${entryPoint}, operands of kind ${kind}: ${error.message}`);
            }
        }
    }
    return { pipelines, wrong };
}

for (const file of files) console.log(JSON.stringify({ file, ...(await compile(readFileSync(file, 'utf8'))) }));
process.exit(0);
