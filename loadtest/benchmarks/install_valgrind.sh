#!/usr/bin/env bash
# Installs valgrind, when it is missing and this user may; says why not and fails otherwise.
set -euo pipefail

command -v valgrind >/dev/null && exit 0
command -v apt-get >/dev/null || {
  echo "valgrind is missing, and this is no Debian"
  exit 1
}
install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends valgrind)
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! sudo -n true 2>/dev/null; then
    echo "valgrind is missing; as root: apt-get install valgrind"
    exit 1
  fi
  as_root=(sudo -n)
fi
# The lists may be old: then they are fetched once, and it is tried again.
"${as_root[@]}" "${install[@]}" >/dev/null 2>&1 || {
  "${as_root[@]}" apt-get update >/dev/null 2>&1
  "${as_root[@]}" "${install[@]}" >/dev/null 2>&1
} || {
  echo "valgrind is missing and could not be installed"
  exit 1
}
