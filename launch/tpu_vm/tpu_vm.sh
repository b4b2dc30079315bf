#!/usr/bin/env bash
# TPU VMs by gcloud: see usage below.
set -euo pipefail

usage() {
  cat <<'END'
Usage: launch/tpu_vm/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [flags] [-- train ...]

  create   queues a request for TPU VMs; needs --type and --runtime, and --spot is possible
  status   says whether the request was granted
  install  copies the committed state of this checkout to all workers and installs it there
  run      trains on all workers: run ... -- train --config=... --workdir=...
  stop     tells the training to save and to leave, with status 42
  delete   gives the TPU VMs back

  --name=NAME           of the request and of the TPU VM
  --zone=ZONE           for example us-west4-a
  --project=PROJECT     gcloud's own default if left out
  --type=TYPE           accelerator, for example v5litepod-16
  --runtime=VERSION     image of the VM, for example v2-alpha-tpuv5-lite
  --spot                cheaper, and may be taken away
  --dry-run             prints the commands instead

JAX reads from the TPU VMs which worker it is, so run is given no coordinator. The work directory
must be on storage that all workers have mounted. run prints the status that every worker left with;
when the connection is lost the training goes on, with its output in ~/warp_translate/train.log.
END
}

fail() {
  echo "error: $1; see --help" >&2
  exit 2
}

# Runs a command, or prints it so that it can be pasted.
call() {
  if [[ $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# A command on every worker.
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
[[ $command == run || $# == 0 ]] || fail "$command takes nothing behind --"
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
    # The images come with a Python that is too old; uv brings one.
    on_workers "set -e; mkdir -p warp_translate; tar -xzf warp_translate.tar.gz -C warp_translate; \
cd warp_translate; python3 -m pip install --quiet --user uv; \
test -d .venv || python3 -m uv venv --quiet --python=3.12 .venv; \
python3 -m uv pip install --quiet --python=.venv/bin/python -e '.[demo,eval,tpu]'"
    ;;
  run)
    [[ ${1:-} == train ]] || fail "run needs -- train --config=... --workdir=..."
    # Left to itself by nohup, watched by tail: a lost connection ends only the watching.
    on_workers "cd warp_translate || exit; \
nohup .venv/bin/warp-translate $(printf '%q ' "$@")> train.log 2>&1 & \
echo \$! > train.pid; tail --pid=\$! -n +1 -F train.log; \
wait \$!; status=\$?; echo \"left with status \$status\"; exit \$status"
    ;;
  stop)
    on_workers "kill -TERM \$(cat warp_translate/train.pid)"
    ;;
  delete)
    call gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
    ;;
esac
