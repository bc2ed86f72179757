#!/usr/bin/env bash
# Install SLURM for tests/integration/test_cluster_slurm.py, from Debian's packages. Where that cannot be done, say so and
# go on: those tests are then skipped.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if type -P slurmctld slurmd sbatch munged >/dev/null; then
    echo "SLURM is installed."
elif ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
    echo "SLURM is not installed, and only root with apt-get could do it: its tests will be skipped."
elif export DEBIAN_FRONTEND=noninteractive && apt-get update >"$log" 2>&1 &&
    apt-get install -y --no-install-recommends munge slurm-client slurmctld slurmd >>"$log" 2>&1; then
    echo "SLURM was installed."
else
    tail -n 3 "$log"
    echo "SLURM could not be installed: its tests will be skipped."
fi
