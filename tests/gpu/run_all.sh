#!/usr/bin/env bash
# Run everything that needs a GPU, from the root of the repository; print figures and results, and fail if any part
# failed. All parts take about 20 minutes; parts can be named: run_all.sh tests; run_all.sh runs table; run_all.sh
# settings data.
# WHEELS: a folder of wheels that the machine lacks: hydra-core, omegaconf==2.3.1, antlr4-python3-runtime==4.9.3,
# beartype, hatchling, trove-classifiers, tomlkit, pathspec, pluggy, packaging and editables beside torch, tensorboard,
# matplotlib and the rest. OUT: a folder for the log.
set -uo pipefail
failed=0
try() { "$@" || { failed=1; echo "FAILED: $*"; }; }

tests() { try python3 -m pytest -n 0 --timeout 150 -rA -s tests/gpu; }

runs() {
    for experiment in model=wgan_gp "model=dcgan ema_halflife_images=1000 horizontal_flip=true" experiment=gaussian \
        experiment=digits "model=stylegan2_ada dataset.image_size=32" "model=r3gan dataset.image_size=32"; do
        folder=$(mktemp -d)/run
        # shellcheck disable=SC2086
        try python3 -m gantrain $experiment steps=200 run_dir="$folder"
        try python3 -m gantrain resume="$folder" steps=400
    done
    try python3 -m gantrain -m hydra/launcher=devices hydra.launcher.runs_per_device=2 seed=0,1 steps=100 \
        run_dir="$(mktemp -d)/sweep"
}

table() { try python3 benchmarks/compare.py --rounds 3; }

# Measure each runtime option in a case that is bound by arithmetic, on random images.
settings() {
    data=$(mktemp -d)
    try python3 -c "
import sys; sys.path.insert(0, 'benchmarks')
from pathlib import Path; from cases import make_files
make_files(Path('$data/celeba/img_align_celeba'))"
    for setting in runtime=auto runtime=reference runtime.precision=tf32 runtime.acceleration=eager runtime.layout=contiguous \
        runtime.data=host; do
        echo "$setting"
        try python3 -m gantrain task=benchmark experiment=wgan_gp_celeba_f128 batch_size=256 steps=20 \
            dataset.root="$data" dataset.cache_dir="$data/cache" dataset.download=false $setting
    done
}

data() { try python3 benchmarks/data.py; }

[ -n "${OUT:-}" ] && exec > >(tee "$OUT/gpu.log") 2>&1 # the log exists even if the call is interrupted
if [ -n "${WHEELS:-}" ]; then
    python3 -m pip install --quiet --no-index --find-links "$WHEELS" hydra-core omegaconf jaxtyping beartype rich \
        hatchling editables pytest pytest-timeout pytest-xdist hypothesis scipy || exit 1
fi
python3 -m pip install --quiet --no-deps --no-build-isolation -e . || exit 1
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
python3 -c "import torch; print('torch', torch.__version__)"
[ $# -gt 0 ] || set -- tests runs table settings data
for part in "$@"; do
    SECONDS=0
    "$part"
    echo "== $part: $SECONDS s"
done
exit $failed
