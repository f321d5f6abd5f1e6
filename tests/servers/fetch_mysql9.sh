#!/usr/bin/env bash
# Unpacks the MySQL 9 of Debian's sid suite, server and tools, into the folder given, beside all libraries it needs;
# installs nothing.
#
# It asks apt with lists, caches and sources of its own, all in that folder, so that nothing of the machine's is changed;
# 63 MB come over the network. Done already: it does nothing.
set -euo pipefail

folder="$(mkdir -p "$1" && cd "$1" && pwd)"
root="$folder/root"
[ -x "$root/usr/sbin/mysqld" ] && [ -x "$root/usr/bin/mysqldump" ] && exit 0
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
if ! [ -r "$keyring" ] || ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
  echo "make: MySQL 9 is unpacked from Debian's archive; apt-get, dpkg and $keyring are needed" >&2
  exit 1
fi

mkdir -p "$folder"/apt/{lists/partial,cache/archives/partial}
echo "deb [signed-by=$keyring] ${DEBIAN_ARCHIVE:-http://deb.debian.org/debian} sid main" >"$folder/apt/sources.list"
own=(
  -o "Dir::Etc::sourcelist=$folder/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
  -o "Dir::State::lists=$folder/apt/lists" -o "Dir::Cache=$folder/apt/cache" -o Dir::State::status=/dev/null
  -o "Dir::State=$folder/apt" -o Debug::NoLocking=1 -o APT::Sandbox::User= -o APT::Update::Post-Invoke=
  -o APT::Keep-Downloaded-Packages=true
)
apt-get -qq "${own[@]}" update
apt-get -qq -d -y "${own[@]}" -o APT::Install-Recommends=false install mysql-server-core mysql-client-core
rm -rf "$folder/unpacked" "$root"
mkdir -p "$folder/unpacked"
# In sid /lib is a link to /usr/lib: made before, so that no package puts a folder there.
mkdir -p "$folder/unpacked/usr/lib" "$folder/unpacked/usr/lib64" "$folder/unpacked/usr/bin" "$folder/unpacked/usr/sbin"
for name in lib lib64 bin sbin; do ln -sfn "usr/$name" "$folder/unpacked/$name"; done
for package in "$folder"/apt/cache/archives/*.deb; do dpkg -x "$package" "$folder/unpacked"; done
rm -rf "$folder/apt"
mv "$folder/unpacked" "$root"
