#!/usr/bin/env bash
# Test in several processes:   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# One process per GPU; without GPUs they run on the CPU.
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT on each.
set -euo pipefail
if [[ $# -lt 3 ]]; then
    echo "error: usage: $0 CONFIG CHECKPOINT PROCESSES [options of tools/test.py]" >&2
    exit 2
fi
if [[ ${NNODES:-1} == 1 ]]; then
    machines=(--standalone) # any free port
else
    machines=(--nnodes="$NNODES" --node_rank="$NODE_RANK" --master_addr="$MASTER_ADDR"
        --master_port="${MASTER_PORT:-29500}")
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${machines[@]}" --nproc_per_node="$3" \
    "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch "${@:4}"
