//! Profiles in Chrome's trace format, for `chrome://tracing` and Perfetto.

use std::time::Duration;

use serde_json::{Value, json};

use super::profile::{Events, Span};
use crate::backend::Device;
use crate::registry;

/// Thread ids, which the viewer shows as tracks.
const STAGES: u32 = 1;
const CALLS: u32 = 2;
const NODES: u32 = 3;
/// Process ids of the host and the device.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// The trace: for the host a track of stages and a track of backend calls, and for the
/// device a track of nodes. Times are in microseconds.
pub fn trace(events: &Events, device: &Device) -> Value {
    let title = |what: &str, pid: u32, tid: u32, name: &str| json!({ "ph": "M", "name": what, "pid": pid, "tid": tid, "args": { "name": name } });
    let mut all = vec![
        title("process_name", HOST, STAGES, "host"),
        title("thread_name", HOST, STAGES, "stages"),
        title("thread_name", HOST, CALLS, "backend calls"),
        title("process_name", DEVICE, NODES, &device.name),
        title("thread_name", DEVICE, NODES, "nodes"),
    ];
    let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
    let complete = |name: &str, cat: &str, (pid, tid): (u32, u32), start, time, args: Value| json!({ "ph": "X", "name": name, "cat": cat, "pid": pid, "tid": tid, "ts": micros(start), "dur": micros(time), "args": args });
    let host =
        |tid: u32| move |span: &Span| complete(&span.name, "host", (HOST, tid), span.start, span.time, json!({}));
    all.extend(events.stages.iter().map(host(STAGES)));
    all.extend(events.host.iter().map(host(CALLS)));
    let kernels = |plan: &std::sync::Arc<crate::plan::Plan>| {
        let chosen = |node| registry::choose(node, plan, device.target()).0.name;
        plan.nodes.iter().map(chosen).collect::<Vec<_>>()
    };
    let kernels: Vec<_> = events.plans.iter().map(kernels).collect();
    all.extend(events.calls.iter().map(|call| {
        let plan = &events.plans[call.plan];
        let node = &plan.nodes[call.node];
        let cost = plan.cost(node, device.stores_bf16());
        let args = json!({
            "layer": node.at, "kernel": kernels[call.plan][call.node], "node": call.node,
            "result": node.output.shape.to_string(), "flops": cost.flops, "bytes": cost.bytes,
        });
        let segment = plan.segment_of(call.node).name;
        complete(node.op.name(), segment, (DEVICE, NODES), call.start, call.time, args)
    }));
    json!({ "traceEvents": all, "displayTimeUnit": "ms" })
}
