#!/bin/sh
# Prints the GPUs of this host as Spark wants them: {"name": "gpu", "addresses": ["0", "1"]}
set -e
found=$(nvidia-smi --query-gpu=index --format=csv,noheader,nounits)
addresses=$(echo "$found" | sed 's/[^0-9]//g; s/.*/"&"/' | paste -s -d , -)
echo "{\"name\": \"gpu\", \"addresses\": [$addresses]}"
