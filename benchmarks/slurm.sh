#!/usr/bin/env bash
# Share the folds of a training command over a SLURM job array, a GPU for each task:
#
#     sbatch benchmarks/slurm.sh --db iemocap --root /corpora/iemocap --model all --seed 0-4
#     sbatch --array=0-63 benchmarks/slurm.sh --db casia --root /corpora/casia --model all --seed 0-4 --folds-at-once 4
#
# Submit it from the project's folder, with its virtual environment active. The file system of --runs must be shared
# and support locks (flock). Submit it again to resume what was interrupted: finished folds are skipped.
#SBATCH --job-name=ser
#SBATCH --array=0-7
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --output=slurm-%A_%a.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-4}"
exec python train.py "$@"
