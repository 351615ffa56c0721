#!/bin/sh
# Makes an environment for each peer: benchmarks/peers/environments.sh [FOLDER]
# The constraints pin torch to its CPU build; a free choice would bring gigabytes of CUDA.
set -eu
here=$(dirname "$0")
folder=${1:-$here/environments}
python=${PYTHON:-python3}
constraints=$here/../../constraints-test.txt

make_environment() {
    name=$1
    shift
    "$python" -m venv "$folder/$name"
    "$folder/$name/bin/python" -m pip --disable-pip-version-check install --quiet --constraint "$constraints" "$@"
}

make_environment torch-pruning torch-pruning==1.6.1 torch onnx
make_environment onnxsim onnxsim==0.8.1 onnxruntime
make_environment plot matplotlib
