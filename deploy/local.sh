#!/usr/bin/env bash
# A production site on this machine, without a container engine: deploy/local.sh --help
here=$(cd "$(dirname "$0")" && pwd)
python=$here/../.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$here/local.py" "$@"
