#!/bin/sh
# prune.sh PYTHON DIRECTORY: leave of the Python modules in DIRECTORY what a replica opens, with bytecode in the place of
# source. Every file that is left is measured, and costs time at each start under Gramine.
set -eu
python=$1
directory=$2
# Tests, what is for compilers and type checkers, a compiler of Fortran, and the converter of other frameworks' models,
# which would tell its makers over the network that it was imported.
find "$directory" -depth -type d \
    \( -name __pycache__ -o -name tests -o -name include -o -name cmake -o -path '*/numpy/f2py' \
    -o -path '*/openvino/tools' -o -path '*/openvino_telemetry' \) -exec rm -r {} +
find "$directory" -type f \
    \( -name '*.[ach]' -o -name '*.[chp]pp' -o -name '*.px[di]' -o -name '*.py[ixf]' -o -name '*.f90' \) -delete
# Of OpenVINO: other devices than the CPU, and kinds of models that the server does not take. It takes those of TensorFlow,
# ONNX and TensorFlow Lite.
find "$directory" -path '*/openvino/libs/*' \
    \( -name cache.json -o -name '*_intel_[gn]pu_plugin.so' -o -name '*_gguf_frontend.so*' -o -name '*_jax_frontend.so*' \
    -o -name '*_paddle_frontend.so*' -o -name '*_pytorch_frontend.so*' \) -delete
# Colours in a terminal. Keras, which comes with TensorFlow, imports them.
if [ ! -d "$directory/keras" ]; then
    for name in rich pygments markdown_it mdurl; do rm -rf "${directory:?}/$name"; done
fi
# Bytecode without its source beside it is taken as it is. It says no date: the same source gives the same bytes.
export PYTHONHASHSEED=0
compile="$python -E -m compileall -q -f -j 1 --invalidation-mode unchecked-hash"
$compile -b -x "^$directory/sealserve/" "$directory"
find "$directory" -name '*.py' -not -path "$directory/sealserve/*" -delete
# sealserve keeps its source: a replica compares its bytecode with that before it uses a key.
if [ -d "$directory/sealserve" ]; then $compile "$directory/sealserve"; fi
