#!/bin/sh
# Prints the GPUs of this host as Spark wants them: {"name": "gpu", "addresses": ["0", "1"]}
set -e
gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader,nounits)
addresses=$(echo "$gpus" | sed 's/[^0-9]//g; s/.*/"&"/' | paste -s -d , -)
echo "{\"name\": \"gpu\", \"addresses\": [$addresses]}"
