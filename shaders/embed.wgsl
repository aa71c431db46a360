// embed: y = tokens[ids] + positions
//
// ids        [n, 1, t, 1] u32, arena; clamped to the last row  binding 2
// tokens     [v, c] learned                                    binding 3
// positions  [p, c] learned, p >= t, or absent                 binding 4
// out        [n, 1, t, c] f32, arena                           binding 1
//
// Launch     one lane per element of out, WG lanes per workgroup.
// Memory     reads the indexed rows once, writes out once.
// Numerics   f32.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/embed.rs
override WG: u32 = 64u;
@id(1) override tokens_kind: u32;
@id(2) override positions_kind: u32;

struct Params { out: Shape, ids: Shape, tokens: Shape, positions: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> ids: array<u32>;
@group(0) @binding(3) var<storage, read> tokens: array<u32>;
@group(0) @binding(4) var<storage, read> positions: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    if i >= p.out.n * p.out.w * p.out.c { return; }
    let row = i / p.out.c;
    let channel = i % p.out.c;
    let token = min(ids[row], p.tokens.w - 1u) * p.out.c + channel;
    var y = element(tokens[word(token, tokens_kind)], token, tokens_kind);
    if positions_kind != ABSENT {
        let position = row % p.out.w * p.out.c + channel;
        y += element(positions[word(position, positions_kind)], position, positions_kind);
    }
    out[i] = y;
}
