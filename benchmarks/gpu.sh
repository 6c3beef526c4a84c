#!/usr/bin/env bash
# Everything that one modern graphics card is measured with, in at most 9 minutes:
#   benchmarks/gpu.sh [--short] [--only NAME,NAME] [--images FOLDER] [OUT]
# FOLDER holds CIFAR-10 as image files, train/<class>/ and test/<class>/; without it they are looked for in data/cifar10,
# as an archive in shared/data here or beside the repository, and at last torchvision's files in data/. --short runs a little of each part, on any machine, to see that it works.
# --only runs some parts: tests, step-32, step-96, accuracy, augment, policies, data; with --short step is one.
# TIMES=4 in the environment makes every time limit four times as long, for a busy machine.
# OUT (default: gpu-results) gets a log and a JSON file of each part, and gpu.json of all. A part that fails or takes too
# long does not stop the others; the last lines say which did, and the status is 1 then.
set -u
cd "$(dirname "$0")/.."

short= images= out= only=
while [ $# -gt 0 ]; do
  case $1 in
    --short) short=1 ;;
    --only)
      [ $# -gt 1 ] || { echo "error: --only needs names of parts" >&2; exit 2; }
      only=$2; shift ;;
    --images)
      [ $# -gt 1 ] || { echo "error: --images needs a folder" >&2; exit 2; }
      images=$2; shift ;;
    -*) echo "error: $1 is unknown: give --short, --only NAMES, --images FOLDER or the folder of the results" >&2; exit 2 ;;
    *) out=$1 ;;
  esac
  shift
done
out=${out:-gpu-results}
if [ -n "$images" ] && [ ! -d "$images/train" ]; then
  echo "error: --images $images: there is no folder train in it" >&2; exit 2
fi
if [ -e "$out/parts.tsv" ] || [ -e "$out/gpu.json" ]; then
  echo "error: $out holds results already: give another folder" >&2; exit 2
fi
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)

python=${PYTHON:-python}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH

started=$(date +%s)
times=${TIMES:-1}
total=$((525 * times))   # seconds for all parts; what is left of the 9 minutes is for the start and the summary

# part NAME SECONDS COMMAND...: runs it, at most so long and at most as long as is left.
part() {
  local name=$1 limit=$(($2 * times)) begin left status
  shift 2
  case ",${only:-$name}," in *",$name,"*) ;; *) return ;; esac
  begin=$(date +%s)
  left=$((started + total - begin))
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -lt 5 ]; then
    printf '%s\t125\t0\t0\n' "$name" >> "$out/parts.tsv"
    echo "$name: no time is left"
    return
  fi
  echo "$name: at most $limit s ..."
  { timeout --kill-after=5 "$limit" "$@" > "$out/$name.log" 2>&1 < /dev/null; } 2> /dev/null
  status=$?
  [ "$status" -ne 137 ] || status=124   # it did not end when it was asked to
  [ "$status" -eq 0 ] || echo "$name: failed or took too long"
  printf '%s\t%s\t%s\t%s\n' "$name" "$status" $(($(date +%s) - begin)) "$limit" >> "$out/parts.tsv"
}

bench() { local name=$1 limit=$2; shift 2; part "$name" "$limit" "$python" -m layermatch.bench "$@" --json "$out/$name.json"; }

# An archive is unpacked for this run alone: 60,000 small files.
unpack() {
  local archive
  if [ -z "$images" ] && [ -d data/cifar10/train ]; then images=data/cifar10; fi
  if [ -n "$images" ]; then return; fi
  for archive in shared/data/cifar10_jpeg.tar.xz ../shared/data/cifar10_jpeg.tar.xz; do
    if [ ! -f "$archive" ]; then continue; fi
    images=$(mktemp -d) || { images=; return; }
    trap 'rm -rf "$images"' EXIT
    only=${only:+$only,unpack}
    part unpack 60 tar -xf "$archive" -C "$images"
    return
  done
}

tests="gpu_equals_cpu or on_cuda_a_phase"
part tests 90 "$python" -m pytest -q -n 0 -k "$tests" tests/augment tests/callbacks/test_cost.py

if [ -n "$short" ]; then
  bench step 150 step --quick --rounds 1
  bench policies 100 policies --quick
  bench augment 100 augment --quick
  bench data 150 data --quick
  if [ -n "$images" ]; then
    bench accuracy 200 accuracy --quick --setting cifar10_jpeg --root "$images" --recipes fast --seeds 0
  else
    bench accuracy 200 accuracy --quick --setting digits --labels 10 --recipes fast --seeds 0
  fi
else
  bench step-32 110 step --case WRN-28-2 --rounds 1
  bench step-96 150 step --case WRN-37-2 --rounds 1
  unpack
  # Not compiled: four shapes of batches would take longer to compile than these short runs take.
  options="--labels 250 --recipes fast --seeds 0 1 2 --steps 1500 --eval-every 100 --targets 0.5 0.6 0.7 0.8 --set compile=false"
  if [ -n "$images" ]; then
    # shellcheck disable=SC2086 # they are many words
    bench accuracy 190 accuracy --setting cifar10_jpeg --root "$images" $options
  else
    # shellcheck disable=SC2086
    bench accuracy 190 accuracy --setting cifar10 --root data $options
  fi
  bench augment 60 augment --quick
  bench policies 60 policies --quick
  bench data 60 data --quick
fi

"$python" -m layermatch.bench.collect "$out"
