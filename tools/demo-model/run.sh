#!/usr/bin/env bash
# Makes the demo model from nothing: ./run.sh [MODEL_FOLDER]. Needs npm and the packages of requirements.txt.
# Interrupt it at any moment and start it again: finished parts are kept and the part in work goes on.
# Minutes are of one processor core; on a GPU they are minutes on the clock. Stage C learns beside Stage B.
set -euo pipefail
out=$(realpath "${1:-$(dirname "$0")/../../models/demo}")
cd "$(dirname "$0")"
export DEMO_WORK=${DEMO_WORK:-$PWD/work} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MALLOC_TOP_PAD_=268435456 MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592
A=${MINUTES_A:-8} ENCODER=${MINUTES_ENCODER:-10} JOINT=${MINUTES_JOINT:-30} B=${MINUTES_B:-360} C=${MINUTES_C:-360}
TOWER=${MINUTES_TOWER:-9} VISION=${MINUTES_VISION:-26}
mkdir -p "$DEMO_WORK"

once() { # once MARK COMMAND...: run the command unless it has finished before
    [ -e "$DEMO_WORK/$1.done" ] || { "${@:2}" && touch "$DEMO_WORK/$1.done"; }
}

fetch() {
    (cd "$DEMO_WORK" && npm pack @lobehub/fluent-emoji-3d@1.1.0 unicode-emoji-json@0.9.0
     for name in lobehub-fluent-emoji-3d-1.1.0 unicode-emoji-json-0.9.0; do mkdir -p $name && tar xzf $name.tgz -C $name; done)
}

once fetched fetch
once data python prepare_data.py "$DEMO_WORK/lobehub-fluent-emoji-3d-1.1.0/package/assets" "$DEMO_WORK/unicode-emoji-json-0.9.0/package/data-by-emoji.json"
once text python train_text.py 280
once captions python embed_captions.py
once stage_a python train_stage_a.py "$A" resume
once encoder python train_encoder.py "$ENCODER" resume
once stage_b python train_stage_b.py "$B" "$JOINT" resume &
until [ -e "$DEMO_WORK/latents_c.pt" ]; do sleep 5; kill -0 %1; done # the encoder is still learning
once stage_c python train_stage_c.py "$C" resume
wait %1
python export_encoder.py "$out/effnet_encoder.safetensors"
python export.py "$out" "$DEMO_WORK/apple.png"
once vision python train_vision.py "$TOWER" "$VISION" resume
python export_vision.py "$out"
python fit_previewer.py "$out/previewer"
python evaluate.py "$out" "$out"
