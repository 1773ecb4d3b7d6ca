#!/usr/bin/env bash
# Papers are compiled with pdflatex and bibtex, and read back with pdfinfo and pdftotext. Installs Debian's packages
# where that is possible (100 MB of files, less than a minute).
set -euo pipefail
missing=()
for program in pdflatex bibtex pdfinfo pdftotext; do
  command -v "$program" > /dev/null 2>&1 || missing+=("$program")
done
[ ${#missing[@]} = 0 ] && exit 0
packages="texlive-latex-base texlive-latex-recommended texlive-fonts-recommended poppler-utils"
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null 2>&1; then
  echo "installing LaTeX and poppler for papers (missing: ${missing[*]})"
  apt-get update -qq
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages > /dev/null
else
  echo "missing: ${missing[*]}. Fix: install $packages" >&2
  exit 1
fi
