#!/usr/bin/env bash
# Makes the secrets of compose.yaml, each in a file of its own, where they are missing; what is there stays.
#
# Containers read them as users of their own, so the files are readable and the folder is not.
set -euo pipefail

folder="$(dirname "${BASH_SOURCE[0]}")/secrets"
mkdir -p "$folder"
chmod 700 "$folder"

random() {
  head -c 24 /dev/urandom | base64 | tr '+/' '-_'
}

for name in store_password mysql_root_password redis_password grafana_password carrier_key; do
  [[ -s "$folder/$name" ]] || random >"$folder/$name"
done
[[ -s "$folder/longwave.toml" ]] || printf 'telnyx_api_key = "%s"\n' "$(cat "$folder/carrier_key")" >"$folder/longwave.toml"
chmod 644 "$folder"/*
printf 'secrets are in %s\n' "$folder"
