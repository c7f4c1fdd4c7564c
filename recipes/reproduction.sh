# Sourced by the reproduce_*.sh scripts: what they share. Variables: RAW (default downloads), GPUS (default 1).
#   --dry-run   prints every command and every raw file that is missing, and runs nothing
# Each command resumes where it was stopped, so run an interrupted script again.
set -euo pipefail
dry_run=false
for argument in "$@"; do
  case "$argument" in
    --dry-run) dry_run=true ;;
    *) echo "usage: bash $0 [--dry-run]" >&2; exit 2 ;;
  esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RAW="${RAW:-downloads}"
GPUS="${GPUS:-1}"
missing=0

# need PATH SOURCE: checks for a raw file or folder that you download yourself
need() {
  [ -e "$1" ] || { echo "missing: $1   from $2" >&2; missing=$((missing + 1)); }
}

# all_here: stops if a needed file is missing, else enters the environment; a dry run does neither
all_here() {
  $dry_run && return
  if [ "$missing" -gt 0 ]; then
    echo "$missing raw files are missing; put them there and run this again" >&2
    exit 1
  fi
  . recipes/environment.sh
}

# run COMMAND...: prints the command, and runs it
run() {
  printf '+'; printf ' %q' "$@"; printf '\n'
  $dry_run || "$@"
}

# prepare DATASET OPTIONS...: runs `cmal prepare` unless its manifest exists
prepare() {
  if $dry_run || [ ! -f "data/$1/manifest.json" ]; then run cmal prepare "$@"; fi
}

# extract IMAGES STORE OPTIONS...: runs `cmal extract-regions` on all GPUs
extract() {
  local images="$1" store="$2"
  shift 2
  run cmal extract-regions "$images" --out "$store" "$@" --gpus "$GPUS"
}
