#!/usr/bin/env bash
# Installs Debian's Kannel (programs; its service is not started), when it is missing and this user may.
set -euo pipefail

PATH="$PATH:/usr/sbin:/usr/local/sbin"
if command -v bearerbox >/dev/null && command -v smsbox >/dev/null; then exit 0; fi
install=(apt-get install -y --no-install-recommends kannel)
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "make: Kannel is not installed; as root: ${install[*]}" >&2
  exit 1
fi
echo "peers: installing kannel"
# Debian starts a service with its package, unless this program, asked before, says no (101).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
# The lists may be old: then they are fetched once, and it is tried again.
env DEBIAN_FRONTEND=noninteractive "${install[@]}" >/dev/null 2>&1 || {
  apt-get update >/dev/null
  env DEBIAN_FRONTEND=noninteractive "${install[@]}" >/dev/null
}
