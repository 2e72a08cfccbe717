#!/usr/bin/env bash
# Take every GPU figure in one command, on a machine with a GPU:
#
#     bash benchmarks/gpu.sh path/to/casia [folder for what it measures]
#
# Writes benchmarks/results/speed-<gpu>.md, the same with --deterministic, and wall.txt: wall-clock seconds of whole
# commands for TFT on CASIA (4 folds x 1000 epochs; one fold at a time, four at once, eagerly, in bfloat16), TFT on an
# IEMOCAP-sized synthetic corpus (10 folds; 100 epochs, so ten times as long for the paper's 1000) and ATFNN on CASIA.
set -euo pipefail
casia=$(realpath "${1:?name the folder of CASIA}")
out=$(realpath -m "${2:-gpu-figures}")
cd "$(dirname "$0")/.."
mkdir -p "$out"

wall() { # name, arguments of train.py
    local name=$1 start
    shift
    start=$(date +%s.%N)
    python train.py --device cuda --runs "$out/$name" "$@" >"$out/$name.log" 2>&1 || echo "FAILED, see $out/$name.log"
    echo "$name $(date +%s.%N) $start" | awk '{printf "%-24s %8.1f s\n", $1, $2 - $3}' | tee -a "$out/wall.txt"
}

python benchmarks/speed.py --device cuda --steps 40
python benchmarks/speed.py --device cuda --steps 40 --deterministic
wall tft-casia --db casia --root "$casia" --model tft
wall tft-casia-bfloat16 --db casia --root "$casia" --model tft --precision bfloat16
wall tft-casia-one-by-one --db casia --root "$casia" --model tft --together 1 --epochs 250
wall tft-casia-eager --db casia --root "$casia" --model tft --engine eager --together 1 --epochs 50
wall atfnn-casia --db casia --root "$casia" --model atfnn
[ -d "$out/iemocap" ] || python benchmarks/synthetic.py --layout iemocap --size full --out "$out/iemocap"
wall tft-iemocap-100 --db iemocap --root "$out/iemocap" --model tft --epochs 100 --together 10
cat "$out/wall.txt"
