#!/bin/sh
# Installs the package into /opt/venv: sh install.sh DEVICE TORCH_INDEX. No cache is left.
set -eu
device=$1 torch_index=$2
cd /src
python3 -m venv /tmp/tools
/tmp/tools/bin/pip install --quiet --no-cache-dir uv
uv=/tmp/tools/bin/uv
export UV_NO_CACHE=1 UV_LINK_MODE=copy
"$uv" venv --quiet /opt/venv
case $device in
  cpu)
    # torch and torchvision must be of one build; CUDA's parts of the constraints are left out.
    grep -vE '^(cuda-|nvidia-|triton|torch==|torchvision==)' constraints.txt > /tmp/constraints.txt
    versions=$(grep -E '^(torch|torchvision)==' constraints.txt | tr '\n' ' ')
    # shellcheck disable=SC2086 # two words are meant
    "$uv" pip install --quiet -p /opt/venv ${torch_index:+--index-url "$torch_index"} $versions
    ;;
  cuda) cp constraints.txt /tmp/constraints.txt ;;
  *) echo "DEVICE: must be cpu or cuda, got $device" >&2; exit 2 ;;
esac
"$uv" pip install --quiet -p /opt/venv -c /tmp/constraints.txt --compile-bytecode '.[server,onnx]'
# Tests, headers and static libraries of the big ones: nothing that runs needs them.
find /opt/venv -type d \( -name tests -o -name test \) -path '*/site-packages/*' \
  \( -path '*/torch/*' -o -path '*/pandas/*' -o -path '*/numpy/*' -o -path '*/pyarrow/*' \
  -o -path '*/scipy/*' -o -path '*/sklearn/*' \) -prune -exec rm -rf {} +
rm -rf /opt/venv/lib/python*/site-packages/torch/include /tmp/tools /tmp/constraints.txt
