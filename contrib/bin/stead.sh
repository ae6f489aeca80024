#!/bin/sh
# /usr/local/bin/stead. Python itself ends with a fatal error where standard input is a directory, before it
# has read a line of ours: so that is said here, and it is empty then.
if [ -d /dev/stdin ]; then
    echo "stead: cannot read standard input: it is a directory" >&2
    exec </dev/null
fi
exec /opt/stead/venv/bin/stead "$@"
