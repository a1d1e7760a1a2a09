#!/bin/sh
# Run a command with each NAME_FILE's content as NAME: the way from compose's secrets to settings.
set -eu
for line in $(env | grep -E '^[A-Z0-9_]+_FILE=/run/secrets/'); do
  name=${line%%=*} file=${line#*=}
  export "${name%_FILE}=$(cat "$file")"
  unset "$name"
done
exec "$@"
