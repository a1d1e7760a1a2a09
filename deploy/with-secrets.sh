#!/bin/sh
# Run a command with each NAME_FILE's content as NAME: the way from compose's secrets to settings.
set -eu
for line in $(env | grep -E '^[A-Z0-9_]+_FILE=/run/secrets/'); do
  name=${line%%=*}
  content=$(cat "${line#*=}") # on a line of its own, so that a file that cannot be read ends it
  export "${name%_FILE}=$content"
  unset "$name"
done
exec "$@"
