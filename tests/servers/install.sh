#!/usr/bin/env bash
# Installs the servers that tests start (programs only, no service), when one is missing and this user may.
#
# The package prometheus comes with a service and no other has promtool: the service is masked, now and at the next boot
# (`systemctl unmask prometheus` gives it back).
# mariadb-server-core has mariadbd and no service, mariadb-client has mariadb-dump. redis-tools has the program of redis-server under another name
# (redis-check-rdb: which of the two it is, it reads from its own name); the package redis-server would start a service.
set -euo pipefail

PATH="$PATH:/usr/sbin:/usr/local/sbin"
wanted=()
command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null || wanted+=(mariadb-server-core)
command -v mariadb-dump >/dev/null || wanted+=(mariadb-client)
command -v redis-check-rdb >/dev/null || wanted+=(redis-tools)
# The tests of rules and dashboards run a server of their own; the package brings promtool along.
command -v prometheus >/dev/null && command -v promtool >/dev/null || wanted+=(prometheus)
# Networks between a node and its store that lose packets or end; only root's tests use them.
if [ "$(id -u)" -eq 0 ]; then
  command -v ip >/dev/null || wanted+=(iproute2)
  command -v nft >/dev/null || wanted+=(nftables)
fi
[ "${#wanted[@]}" -gt 0 ] || exit 0

install=(apt-get install -y --no-install-recommends "${wanted[@]}")
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! sudo -n true 2>/dev/null; then
    echo "make: tests need servers that are not installed; as root: ${install[*]}" >&2
    exit 1
  fi
  as_root=(sudo -n)
fi
command -v apt-get >/dev/null || {
  echo "make: tests need mariadbd, redis-server, prometheus and promtool; install MariaDB 10.6, Redis 7, Prometheus 2.42 or newer" >&2
  exit 1
}
echo "test: installing ${wanted[*]}"
if [[ " ${wanted[*]} " == *" prometheus "* ]]; then
  unit=/etc/systemd/system/prometheus.service
  [ -e "$unit" ] || [ -L "$unit" ] || "${as_root[@]}" ln -s /dev/null "$unit"
fi
# The lists may be old: then they are fetched once, and it is tried again.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}" >/dev/null 2>&1 || {
  "${as_root[@]}" apt-get update >/dev/null
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}" >/dev/null
}
