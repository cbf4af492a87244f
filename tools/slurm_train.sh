#!/usr/bin/env bash
# Train on the machines of a Slurm job, submitted from the root of this repository:
#   sbatch --nodes=2 --gpus-per-node=8 tools/slurm_train.sh CONFIG PROCESSES [options of tools/train.py]
# PROCESSES run on each machine. Two minutes before the time limit, and when the job is preempted,
# the run saves its state and ends; the same command goes on from there, as does Slurm's requeue.
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
if [[ $# -lt 2 ]]; then
    echo "error: usage: sbatch [options of sbatch] $0 CONFIG PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
export NNODES=$SLURM_NNODES
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR
# Jobs that share a machine need ports of their own.
export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
# One launcher per machine; when one ends with an error, Slurm ends the others.
exec srun --kill-on-bad-exit=1 bash -c \
    'NODE_RANK=$SLURM_NODEID exec tools/dist_train.sh "$1" "$2" --resume "${@:3}"' bash "$@"
