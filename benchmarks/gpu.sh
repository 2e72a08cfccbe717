#!/usr/bin/env bash
# Measure what training takes, on a machine with a GPU, all in one command or part by part:
#
#     bash benchmarks/gpu.sh path/to/casia [folder for what it measures] [part ...]
#
# Parts, in this order when none is named:
#   agree      the engines and precisions agree with eager float32 after 50 steps (tests/test_engine.py)
#   tft        wall clock of the whole command: TFT on CASIA, 4 folds x 1000 epochs, all at once, compiled, bfloat16
#   atfnn      the same of ATFNN, 100 epochs
#   speed      speed.md, to be copied to benchmarks/results/speed-<gpu>.md
#   float32    100 epochs of TFT, recorded, float32: its scores against those that `tft` has after as many
#   eager      10 epochs of TFT eagerly, float32, one fold at a time; eager-atfnn: the same of ATFNN
#   iemocap    TFT on an IEMOCAP-sized synthetic corpus, 10 folds at once, 100 epochs (the paper's 1000 take ten times as long)
#   deterministic   the parts tft and speed with --deterministic
# Wall clocks stand in wall.txt; the first part that compiles a network in a precision holds the time for it, torch keeps
# the result. A part that was interrupted goes on from its last saved state and is marked "resumed": its wall clock
# counts from there. One whose wall clock is there is not run again: remove its line and its folder for that.
set -euo pipefail
casia=$(realpath -e "${1:?name the folder of CASIA}")
out=$(realpath -m "${2:-gpu-figures}")
shift $(($# < 2 ? $# : 2))
every="agree tft atfnn speed float32 eager eager-atfnn iemocap deterministic"
parts=${*:-$every}
for part in $parts; do
    [[ " $every " == *" $part "* ]] || { echo "gpu.sh: $part: no such part, they are $every" >&2 && exit 2; }
done
cd "$(dirname "$0")/.."
mkdir -p "$out"
failed=0
python=$(command -v python3 || command -v python)
python=${PYTHON:-$python}

wall() { # name, arguments of train.py
    local name=$1 start resumed=
    shift
    if grep -qs "^$name .* s" "$out/wall.txt"; then echo "$name: is in $out/wall.txt" && return; fi
    [ -d "$out/$name" ] && resumed=" resumed"
    start=$(date +%s.%N)
    $python train.py --device cuda --runs "$out/$name" "$@" >"$out/$name.log" 2>&1 || {
        echo "$name: FAILED, see $out/$name.log" | tee -a "$out/wall.txt"
        failed=1
        return
    }
    echo "$name $(date +%s.%N) $start$resumed" | awk '{printf "%-16s %8.1f s %s\n", $1, $2 - $3, $4}' | tee -a "$out/wall.txt"
}

speed() { # name, arguments of speed.py
    local name=$1
    shift
    $python benchmarks/speed.py --device cuda --steps 12 --repeats 1 --out "$out/$name.md" "$@" || failed=1
}

for part in $parts; do
    on_casia=(--db casia --root "$casia")
    fast=(--engine compiled --precision bfloat16)
    case $part in
    agree) $python -m pytest -q tests/test_engine.py || failed=1 ;;
    tft) wall tft "${on_casia[@]}" --model tft "${fast[@]}" ;;
    atfnn) wall atfnn "${on_casia[@]}" --model atfnn "${fast[@]}" ;;
    speed) speed speed ;;
    float32) wall float32 "${on_casia[@]}" --model tft --engine graph --epochs 100 ;;
    eager) wall eager "${on_casia[@]}" --model tft --engine eager --together 1 --epochs 10 ;;
    eager-atfnn) wall eager-atfnn "${on_casia[@]}" --model atfnn --engine eager --together 1 --epochs 10 ;;
    iemocap)
        [ -d "$out/corpus" ] || {
            rm -rf "$out/corpus.part"
            $python benchmarks/synthetic.py --layout iemocap --size full --out "$out/corpus.part" &&
                mv "$out/corpus.part" "$out/corpus"
        } || failed=1
        wall iemocap --db iemocap --root "$out/corpus" --model tft "${fast[@]}" --epochs 100
        ;;
    deterministic)
        wall deterministic "${on_casia[@]}" --model tft "${fast[@]}" --deterministic
        speed speed-deterministic --deterministic
        ;;
    esac
done
exit $failed
