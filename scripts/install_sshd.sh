#!/usr/bin/env bash
# The SSH tests speak to a real sshd on loopback. Installs Debian's openssh-server where that is possible.
set -euo pipefail
if command -v sshd > /dev/null 2>&1 || [ -x /usr/sbin/sshd ]; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null 2>&1; then
  echo "installing openssh-server for the SSH tests"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openssh-server > /dev/null
else
  echo "sshd is missing: install openssh-server (the SSH tests need it)" >&2
  exit 1
fi
