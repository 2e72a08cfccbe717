#!/usr/bin/env bash
# Take every GPU figure in one command, on a machine with a GPU, or part by part:
#
#     bash benchmarks/gpu.sh path/to/casia [folder for what it measures] [part ...]
#
# Parts, in this order when none is named:
#   agree      the engines and precisions agree with eager float32 after 50 steps (tests/test_engine.py)
#   speed      benchmarks/results/speed-<gpu>.md; deterministic: the same with --deterministic
#   tft        wall clock of the whole command: TFT on CASIA, 4 folds x 1000 epochs, four at once, graph, bfloat16
#   precise    the same in float32; eager: 50 epochs of it eagerly, one fold at a time; alone: 250 epochs, graph, one at a time
#   atfnn      ATFNN on CASIA, four folds at once; eager-atfnn: 10 epochs of it eagerly, one fold at a time
#   iemocap    TFT on an IEMOCAP-sized synthetic corpus, 10 folds at once, 100 epochs (the paper's 1000 take ten times as long)
# A part that was interrupted goes on from its last saved state, so its wall clock then counts from there.
set -euo pipefail
casia=$(realpath "${1:?name the folder of CASIA}")
out=$(realpath -m "${2:-gpu-figures}")
shift $(($# < 2 ? $# : 2))
parts=${*:-agree speed deterministic tft precise eager alone atfnn eager-atfnn iemocap}
cd "$(dirname "$0")/.."
mkdir -p "$out"
failed=0
python=$(command -v python3 || command -v python)
python=${PYTHON:-$python}

wall() { # name, arguments of train.py
    local name=$1 start
    shift
    start=$(date +%s.%N)
    $python train.py --device cuda --runs "$out/$name" "$@" >"$out/$name.log" 2>&1 || {
        echo "$name: FAILED, see $out/$name.log" | tee -a "$out/wall.txt" && failed=1
        return
    }
    echo "$name $(date +%s.%N) $start" | awk '{printf "%-16s %8.1f s\n", $1, $2 - $3}' | tee -a "$out/wall.txt"
}

for part in $parts; do
    on_casia=(--db casia --root "$casia")
    case $part in
    agree) $python -m pytest -q tests/test_engine.py ;;
    speed) $python benchmarks/speed.py --device cuda --steps 40 ;;
    deterministic) $python benchmarks/speed.py --device cuda --steps 40 --deterministic ;;
    tft) wall tft "${on_casia[@]}" --model tft --engine graph --precision bfloat16 ;;
    precise) wall precise "${on_casia[@]}" --model tft --engine graph ;;
    eager) wall eager "${on_casia[@]}" --model tft --engine eager --together 1 --epochs 50 ;;
    alone) wall alone "${on_casia[@]}" --model tft --engine graph --together 1 --epochs 250 ;;
    atfnn) wall atfnn "${on_casia[@]}" --model atfnn --engine graph ;;
    eager-atfnn) wall eager-atfnn "${on_casia[@]}" --model atfnn --engine eager --together 1 --epochs 10 ;;
    iemocap)
        [ -d "$out/corpus" ] || $python benchmarks/synthetic.py --layout iemocap --size full --out "$out/corpus"
        wall iemocap --db iemocap --root "$out/corpus" --model tft --engine graph --precision bfloat16 --epochs 100 --together 10
        ;;
    *) echo "gpu.sh: $part: no such part" >&2 && exit 2 ;;
    esac
done
exit $failed
