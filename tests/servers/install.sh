#!/bin/sh
# Install what the tests start and what is missing, without starting any of it. Debian, as root; elsewhere say what to
# install. Never fails: the tests say at their end what they could not run, and with CI=true they fail.
set -eu

missing=""
need() { # a package, the variable that replaces it, then places of which one must exist
    package=$1 url=$2
    shift 2
    [ -z "$url" ] || return 0
    for place in "$@"; do
        if command -v "$place" >/dev/null 2>&1; then return 0; fi
    done
    missing="$missing $package"
}

PATH="$PATH:/usr/sbin:/sbin"
need postgresql "${JOBBRIDGE_TEST_POSTGRES:-}" postgres /usr/lib/postgresql/*/bin/postgres
need mariadb-server "${JOBBRIDGE_TEST_MARIADB:-}" mariadbd
need rabbitmq-server "${JOBBRIDGE_TEST_RABBITMQ:-}" /usr/lib/rabbitmq/bin/rabbitmq-server rabbitmq-server
need default-jre-headless "${JOBBRIDGE_TEST_KAFKA:-}" java
need chromium "${JOBBRIDGE_TEST_CHROMIUM:-}" chromium
need maven "${JOBBRIDGE_TEST_KAFKA:-}" mvn
need prometheus "" promtool
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! [ -e /etc/debian_version ]; then
    echo "To test against real servers install (Debian's names):$missing"
    exit 0
fi

# Debian asks this file whether an installed service may be started; 101 is no.
policy=/usr/sbin/policy-rc.d
mark="# put here by jobbridge's tests/servers/install.sh"
restore() {
    if [ -e "$policy.before" ]; then
        mv -f "$policy.before" "$policy"
    else
        rm -f "$policy"
    fi
}
if [ -e "$policy" ] && ! grep -qF "$mark" "$policy"; then
    mv "$policy" "$policy.before"
fi
trap restore EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
echo "Installing$missing"
# shellcheck disable=SC2086
if ! { apt-get update -qq && apt-get install -qq --no-install-recommends $missing >/dev/null; }; then
    echo "Could not install$missing"
fi
