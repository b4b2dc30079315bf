#!/usr/bin/env bash
# Creates TPU VMs with gcloud and trains on them; see usage below.
set -euo pipefail

usage() {
  cat <<'END'
Usage: launch/tpu_vm/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [flags] [-- train ...]

  create   queue a request for TPU VMs; needs --type and --runtime
  status   print the state of the request
  install  copy the committed state of this checkout to all workers and install it
  run      train on all workers: run ... -- train --config=... --workdir=...
  stop     make the training save and exit with status 42
  delete   delete the TPU VMs and the request

  --name=NAME           name of the request and of the TPU VM
  --zone=ZONE           zone, for example us-west4-a
  --project=PROJECT     project; gcloud's default if omitted
  --type=TYPE           accelerator type, for example v5litepod-16
  --runtime=VERSION     VM image, for example v2-alpha-tpuv5-lite
  --spot                create a cheaper VM that may be preempted
  --dry-run             print the gcloud commands without running them

JAX finds its worker index on the TPU VM, so run needs no coordinator. The work directory must be on
storage mounted by all workers. run prints every worker's exit status; after a lost connection the
training continues, with its output in ~/warp_translate/train.log.
END
}

fail() {
  echo "error: $1; see --help" >&2
  exit 2
}

# Runs a command, or prints it quoted for the shell.
call() {
  if [[ $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# Runs a command on every worker.
on_workers() {
  call gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all --command="$1"
}

(($#)) || fail "no command"
command=$1
shift
name="" zone="" project="" type="" runtime="" spot="" dry_run=""
case $command in
  create | status | install | run | stop | delete) ;;
  -h | --help)
    usage
    exit
    ;;
  *) fail "unknown command $command" ;;
esac
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --spot) spot=1 ;;
    --dry-run) dry_run=1 ;;
    -h | --help)
      usage
      exit
      ;;
    --)
      shift
      break
      ;;
    *) fail "unknown flag $1" ;;
  esac
  shift
done
[[ $name ]] || fail "--name is missing"
[[ $zone ]] || fail "--zone is missing"
[[ $command == run || $# == 0 ]] || fail "$command takes no arguments after --"
place=("--zone=$zone" ${project:+"--project=$project"})

case $command in
  create)
    [[ $type && $runtime ]] || fail "create needs --type and --runtime"
    call gcloud compute tpus queued-resources create "$name" "${place[@]}" --node-id="$name" \
      --accelerator-type="$type" --runtime-version="$runtime" ${spot:+--spot}
    ;;
  status)
    call gcloud compute tpus queued-resources describe "$name" "${place[@]}" --format="value(state)"
    ;;
  install)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    call git archive --format=tar.gz --output="$archive" HEAD
    call gcloud compute tpus tpu-vm scp "$archive" "$name:warp_translate.tar.gz" "${place[@]}" \
      --worker=all
    # The Python of the VM images is too old; uv installs one.
    on_workers "set -e; mkdir -p warp_translate; tar -xzf warp_translate.tar.gz -C warp_translate; \
cd warp_translate; python3 -m pip install --quiet --user uv; \
test -d .venv || python3 -m uv venv --quiet --python=3.12 .venv; \
python3 -m uv pip install --quiet --python=.venv/bin/python -e '.[demo,eval,tpu]'"
    ;;
  run)
    [[ ${1:-} == train ]] || fail "run needs -- train --config=... --workdir=..."
    # nohup keeps the training running after a lost connection; only tail ends.
    on_workers "cd warp_translate || exit; \
nohup .venv/bin/warp-translate $(printf '%q ' "$@")> train.log 2>&1 & \
echo \$! > train.pid; tail --pid=\$! -n +1 -F train.log; \
wait \$!; status=\$?; echo \"exited with status \$status\"; exit \$status"
    ;;
  stop)
    on_workers "kill -TERM \$(cat warp_translate/train.pid)"
    ;;
  delete)
    call gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
    ;;
esac
