#!/usr/bin/env bash
# A real SLURM on this machine runs launch/slurm/train.sbatch with two tasks: they are told to stop,
# save, leave with 42, are queued again and finish.
#
#   apt-get install slurm-wlm slurm-client munge
#   tests/launch/slurm_cluster.sh FOLDER
#
# As root, with warp-translate on PATH, in the folder that holds experiments/. FOLDER is made, gets
# everything, and is kept. The daemons end with the script.
set -euo pipefail

if (($# != 1)); then
  echo "usage: $0 FOLDER" >&2
  exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
host=$(hostname -s)
daemons=()

stop() {
  if [[ -n ${job:-} ]]; then
    scancel --full --signal=KILL "$job" 2>/dev/null || true
    sleep 1
  fi
  if ((${#daemons[@]})); then
    kill "${daemons[@]}" 2>/dev/null || true
    sleep 2
    # Some of them wait for others that are gone already.
    kill -KILL "${daemons[@]}" 2>/dev/null || true
  fi
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

(umask 077 && head -c 1024 /dev/urandom > "$folder/munge.key")
munged --foreground --force --socket="$folder/munge.sock" --key-file="$folder/munge.key" \
  --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
  --seed-file="$folder/munge.seed" &> "$folder/munged.out" &
daemons+=($!)
for _ in {1..50}; do
  [[ -S $folder/munge.sock ]] && break
  sleep 0.2
done
slurmctld -D &> "$folder/slurmctld.out" &
daemons+=($!)
slurmd -D &> "$folder/slurmd.out" &
daemons+=($!)
for _ in {1..100}; do
  sinfo --noheader --format=%T 2>/dev/null | grep -q idle && break
  sleep 0.2
done
sinfo

# Each task pretends to have two devices; addresses of the steps' node must lead to this machine.
export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2
work=$folder/run
job=$(sbatch --parsable --ntasks-per-node=2 --output="$folder/job.log" launch/slurm/train.sbatch \
  --config=experiments/paired.py:runlocal --workdir="$work" --heartbeat_timeout=30 \
  --config.training.total_steps=600 --config.training.log_every=50 \
  --config.training.save_every=50 --config.training.evaluate_every=600)
echo "job $job"

# The steps of the checkpoints there are, oldest first.
steps() { find "$work/checkpoints" -mindepth 1 -maxdepth 1 -name '[0-9]*' -printf '%f\n' \
  2>/dev/null | grep -x '[0-9]*' | sort -n; }

# Whether the job is gone. A controller that is busy answers late or not at all, which says nothing.
gone() {
  local found
  if found=$(squeue --noheader --job="$job" 2>&1); then
    [[ -z $found ]]
  else
    [[ $found == *"Invalid job id"* ]]
  fi
}

# Waits until a line of the job's log matches, with the job alive. A job that is queued again is
# nowhere to be seen for a moment.
await() {
  local missed=0
  for _ in {1..900}; do
    if grep -q -- "$1" "$folder/job.log" 2>/dev/null; then return; fi
    if gone; then
      ((++missed < 20)) || break
    else
      missed=0
    fi
    sleep 0.5
  done
  # What happened, by the job's log, the queue and the controller.
  echo "error: \"$1\" did not come; $missed times the job was gone:" >&2
  tail -40 "$folder/job.log" >&2
  scontrol show job "$job" >&2 || true
  tail -20 "$folder/slurmctld.log" >&2
  exit 1
}

await '4 cpu device(s) of 2 processes'
await 'steps/s'
echo "trains; it is told to stop"
# What a cluster does before it takes the node away: it signals the job's steps.
scancel --signal=TERM "$job"
await 'is queued again'
saved=$(steps | tail -1)
echo "preempted and queued again after step $saved"
# A job that was queued again waits two minutes unless it is told not to. Before the credential of
# its first start has expired, after five seconds, the second one would be refused as revoked.
sleep 8
for _ in {1..100}; do
  scontrol update jobid="$job" starttime=now 2>/dev/null && break
  sleep 0.2
done
await "resuming from the checkpoint of step $saved "
await 'trained; evaluate with'
[[ $(steps | tail -1) == 600 ]]
echo "went on and finished"
