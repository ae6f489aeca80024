#!/bin/sh
# The demonstration behind `./setup demo`: an agent on examples/hello with state of its own, removed at the end.
# Needs BUSYBOX (a static busybox) and STEAD (the command) in the environment.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
state=$(mktemp -d "${TMPDIR:-/tmp}/stead-demo.XXXXXX")
specs=$here/hello
agent=
watcher=

stead() { "$STEAD" --root "$state/root" --run "$state/run" "$@"; }

# The number of a container's first process on this machine.
pid_of() {
    stead inspect container "$1" 2>/dev/null | sed -n 's/^  "pid": \([0-9]*\),$/\1/p'
}

end() {
    code=$?
    trap - EXIT INT TERM
    [ -z "$watcher" ] || { kill "$watcher" 2>/dev/null && echo; } || :
    [ -z "$agent" ] || { kill "$agent" 2>/dev/null && wait "$agent" 2>/dev/null; } || :
    stead down "$specs" --volumes >/dev/null || code=1
    rm -rf "$state"
    exit "$code"
}
trap end EXIT
trap 'exit 0' INT TERM

# An image needs no registry: a directory with a static busybox is enough.
mkdir -p "$state/image/bin" "$state/image/etc" "$state/image/www" "$state/image/tmp"
cp "$BUSYBOX" "$state/image/bin/busybox"
for applet in sh httpd wget sleep date ls cat ps; do
    ln -s busybox "$state/image/bin/$applet"
done
echo 'root:x:0:0:root:/:/bin/sh' >"$state/image/etc/passwd"
echo 'Hello from a container.' >"$state/image/www/index.html"
stead image import "$state/image" hello-busybox:1 >/dev/null

cat >"$state/stead.toml" <<TOML
[[source]]
name = "hello"
directory = "$specs"

[listen]
metrics = ""
TOML

if [ "${1:-}" = --once ]; then
    stead apply "$specs"
    stead ps
    curl --fail --silent --show-error --max-time 5 http://127.0.0.1:18080/
    exit 0
fi

"$STEAD" --root "$state/root" --run "$state/run" agent --settings "$state/stead.toml" >"$state/agent.log" 2>&1 &
agent=$!
while kill -0 "$agent" 2>/dev/null && [ "$(pid_of hello/web)" = "" ]; do
    sleep 0.2
done
cat <<TEXT

Try in another terminal:
      curl http://127.0.0.1:18080/
      edit $specs/hello.toml and save it
      kill -9 $(pid_of hello/web)  # what hello/web runs: its shim starts it again
      $STEAD --root $state/root --run $state/run exec -it hello/web sh
      $STEAD --root $state/root --run $state/run history
Ctrl-C removes the demo.

TEXT
"$STEAD" --root "$state/root" --run "$state/run" ps --watch & # not by the function: its pid would be a shell's
watcher=$!
wait "$agent" || :
kill "$watcher" 2>/dev/null || :
echo 'the agent ended:' >&2
cat "$state/agent.log" >&2
exit 1
