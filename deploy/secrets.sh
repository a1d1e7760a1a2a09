#!/usr/bin/env bash
# Make the passwords of a site, once: what is there is left alone.
#   deploy/secrets.sh                           for compose.yaml, in deploy/secrets
#   deploy/secrets.sh FOLDER POSTGRES REDIS     for servers at these HOST:PORT, which may change
# The folder is its owner's alone. Compose mounts single files out of it into containers, whose users
# have to read them: for these the files are open, inside the closed folder.
set -euo pipefail
folder=${1:-$(dirname "$0")/secrets} postgres=${2:-postgres:5432} redis=${3:-redis:6379}
given=$# mode=600
[ $# -gt 0 ] || mode=444
umask 077
mkdir -p "$folder"
cd "$folder"

random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
write() { # NAME TEXT
  printf '%s\n' "$2" >"$1.part" && chmod "$mode" "$1.part" && mv "$1.part" "$1"
}
keep() { [ -e "$1" ] || write "$@"; } # where there is no such file yet
address() { if [ "$given" = 0 ]; then keep "$@"; else write "$@"; fi; }

for name in prefect ledger redis; do keep "$name-password" "$(random)"; done
prefect=$(<prefect-password) ledger=$(<ledger-password) password=$(<redis-password)

keep prefect-auth "comfyline:$(random)"
address prefect-database-url "postgresql+asyncpg://prefect:$prefect@$postgres/prefect"
address ledger-url "postgresql://comfyline:$ledger@$postgres/comfyline"
keep postgres.sql "CREATE ROLE prefect LOGIN PASSWORD '$prefect';
CREATE ROLE comfyline LOGIN PASSWORD '$ledger';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE comfyline OWNER comfyline;"
keep redis.conf "requirepass $password"
address redis-url "redis://:$password@$redis/0"

if [ $# -eq 0 ]; then
  for name in postgres-password storage-key storage-secret; do keep "$name" "$(random)"; done
  keep storage-pair "\"$(<storage-key),$(<storage-secret)\"" # CSV, as rclone reads it
  [ -e runcomfy-token ] || echo "Put RunComfy's token into $PWD/runcomfy-token (mode $mode)."
fi
