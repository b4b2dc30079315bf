#!/usr/bin/env bash
# Runs launch/slurm/train.sbatch with two tasks on a real one-node SLURM cluster: they are preempted,
# save, exit with 42, are requeued and finish.
#
#   apt-get install slurm-wlm slurm-client munge
#   tests/launch/slurm_cluster.sh FOLDER
#
# Run as root, with warp-translate on PATH, in the folder that contains experiments/. FOLDER is
# created and kept; the daemons end with the script.
set -euo pipefail

if (($# != 1)); then
  echo "usage: $0 FOLDER" >&2
  exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
host=$(hostname -s)
daemons=()
job=

stop() {
  if [[ $job ]]; then
    scancel --full --signal=KILL "$job" 2>/dev/null || true
    sleep 1
  fi
  kill "${daemons[@]}" 2>/dev/null || true
  sleep 2
  kill -KILL "${daemons[@]}" 2>/dev/null || true  # Some wait for others that have exited.
  wait
}
trap stop EXIT

mkdir -p "$folder/state" "$folder/spool"
cat > "$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=27817
SlurmdPort=27818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
KillWait=30
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf

# Retries a command every 0.2 s, at most 100 times.
retry() { for _ in {1..100}; do "$@" 2>/dev/null && return; sleep 0.2; done; }

idle() { sinfo --noheader --format=%T | grep -q idle; }

(umask 077 && head -c 1024 /dev/urandom > "$folder/munge.key")
munged --foreground --force --socket="$folder/munge.sock" --key-file="$folder/munge.key" \
  --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
  --seed-file="$folder/munge.seed" &> "$folder/munged.out" &
daemons+=($!)
retry test -S "$folder/munge.sock"
slurmctld -D &> "$folder/slurmctld.out" &
daemons+=($!)
slurmd -D &> "$folder/slurmd.out" &
daemons+=($!)
retry idle
sinfo

# Two simulated devices per task.
export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2
work=$folder/run
job=$(sbatch --parsable --ntasks-per-node=2 --output="$folder/job.log" launch/slurm/train.sbatch \
  --config=experiments/paired.py:runlocal --workdir="$work" --heartbeat_timeout=30 \
  --config.training.total_steps=600 --config.training.log_every=50 \
  --config.training.save_every=50 --config.training.evaluate_every=600)
echo "job $job"

# Prints the last checkpoint's step.
last_step() { find "$work/checkpoints" -mindepth 1 -maxdepth 1 -name '[0-9]*' -printf '%f\n' \
  2>/dev/null | grep -x '[0-9]*' | sort -n | tail -1; }

# Whether the job has ended. A busy controller may not answer, which means nothing.
ended() {
  local found
  if found=$(squeue --noheader --job="$job" 2>&1); then
    [[ -z $found ]]
  else
    [[ $found == *"Invalid job id"* ]]
  fi
}

# Waits until a line of the job's log matches. A job that is requeued disappears for a moment.
await() {
  local missed=0
  for _ in {1..900}; do
    if grep -q -- "$1" "$folder/job.log" 2>/dev/null; then return; fi
    if ended; then ((++missed < 20)) || break; else missed=0; fi
    sleep 0.5
  done
  echo "error: \"$1\" is not in the log; the job was missing $missed times:" >&2
  tail -40 "$folder/job.log" >&2
  scontrol show job "$job" >&2 || true
  tail -20 "$folder/slurmctld.log" >&2
  exit 1
}

await '4 cpu device(s) of 2 processes'
await 'steps/s'
echo "training; sending SIGTERM to the job's steps, as a cluster does on preemption"
scancel --signal=TERM "$job"
await 'requeuing job'
saved=$(last_step)
echo "preempted and requeued after step $saved"
# A requeued job waits two minutes unless its start time is set. It would be refused as revoked
# before the credential of its first start has expired, after five seconds.
sleep 8
retry scontrol update jobid="$job" starttime=now
await "checkpoint of step $saved "
await 'warp-translate evaluate'
[[ $(last_step) == 600 ]]
echo "resumed and finished"
