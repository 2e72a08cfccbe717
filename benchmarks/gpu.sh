#!/usr/bin/env bash
# Measure what only a GPU can show, all in one command or part by part:
#
#     bash benchmarks/gpu.sh path/to/casia [folder for what it measures] [part ...]
#
# Parts, in this order when none is named:
#   tests      runners, precisions and forms of the modules agree with the plain loop
#   seeds      TFT on CASIA, 1000 epochs, seeds 1 to 4, eight folds at once, compiled, bfloat16
#   t+f t+tf f+tf     its ablations, 1000 epochs, seed 0, likewise
#   forms      speed of TFT and ATFNN recorded and compiled: with all fast modules, without each of them, and plain
#   turns      speed with ten folds at once that take turns of 8, 16 and 64 recorded steps, in epochs of 189 steps
#   speed      all loops against the plain loop, to be copied to benchmarks/results/speed-<gpu>.md
#   iemocap    wall clock of TFT on an IEMOCAP-sized synthetic corpus, ten folds at once, 100 of 1000 epochs
#   deep       the networks of comparisons/ on CASIA, seeds 0 to 4, operation by operation
#
# Trained folds are in <folder>/runs; `python evaluate.py --runs <folder>/runs` prints their tables. Wall clocks are in
# wall.txt. Repeat the command after an interruption: parts that are done are skipped, and a training resumes from its
# last saved state, marked "resumed", as its wall clock counts from there. To repeat a part, remove its line of done.txt.
set -euo pipefail
casia=$(realpath -e "${1:?name the folder of CASIA}")
out=$(realpath -m "${2:-gpu-results}")
shift $(($# < 2 ? $# : 2))
all="tests seeds t+f t+tf f+tf forms turns speed iemocap deep"
parts=${*:-$all}
for part in $parts; do
    [[ " $all " == *" $part "* ]] || { echo "gpu.sh: $part: no such part, choose among $all" >&2 && exit 2; }
done
cd "$(dirname "$0")/.."
mkdir -p "$out"
python=${PYTHON:-$(command -v python3 || command -v python)}

train() { # name, folder of the runs, arguments of train.py
    local name=$1 runs=$2 start resumed=
    shift 2
    [ -e "$out/$name.log" ] && resumed=resumed
    start=$(date +%s)
    $python train.py --device cuda --engine compiled --precision bfloat16 --runs "$runs" "$@" >>"$out/$name.log" 2>&1 ||
        { tail -n 1 "$out/$name.log" && return 1; }
    echo "$name: $(($(date +%s) - start)) s $resumed" | tee -a "$out/wall.txt"
}

tft() { # name, arguments of train.py
    local name=$1
    shift
    train "$name" "$out/runs" --db casia --root "$casia" --epochs 1000 --folds-at-once 8 "$@"
}

speed() { # name, arguments of speed.py
    local name=$1
    shift
    $python benchmarks/speed.py --device cuda --repeats 1 --out "$out/$name.md" "$@"
}

measure() { # part
    case $1 in
    tests) $python -m pytest -q tests/test_gpu.py tests/test_fast.py ;;
    seeds) tft seeds --model tft --seed 1-4 ;;
    t+f | t+tf | f+tf) tft "$1" --model "tft-$1" --seed 0 ;;
    forms) speed forms --forms --engine graph compiled --precision bfloat16 --folds-at-once 4 --steps 12 ;;
    turns) speed turns --model tft --engine compiled --precision bfloat16 --folds-at-once 10 --turn 8 16 64 --steps 187 ;;
    speed) speed speed --steps 12 ;;
    iemocap)
        [ -d "$out/corpus" ] || $python -m common.synthetic --layout iemocap --size full --out "$out/corpus"
        train iemocap "$out/runs-synthetic" --db iemocap --root "$out/corpus" --epochs 100 --folds-at-once 10
        ;;
    deep)
        for model in cnn-lstm cnn-gru-seqcap fcn-attention stc stc-off adarl adarl-off dtpm-pooling; do
            train "$model" "$out/runs" --db casia --root "$casia" --model "$model" --seed 0-4 --engine auto --eval-every 5 || return 1
        done
        ;;
    esac
}

failed=0
for part in $parts; do
    if grep -qsx "$part" "$out/done.txt"; then
        echo "$part: is done, see $out"
    elif measure "$part"; then
        echo "$part" >>"$out/done.txt"
    else
        echo "$part: FAILED" && failed=1
    fi
done
exit $failed
