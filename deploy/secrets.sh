#!/bin/sh
# Makes the secrets that compose.yaml mounts, once: deploy/secrets/ is never in the repository. `--kubernetes` prints a
# Secret with the same contents for `kubectl apply -f -`, with the addresses that k8s/ has.
set -eu
case "$#:${1:-}" in
  0: | 1:--kubernetes) ;;
  1:-h | 1:--help) sed -n '2,3s/^# //p' "$0"; exit ;;
  *) echo "usage: $0 [--kubernetes | --help]" >&2; exit 2 ;;
esac
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
made() { # a password, made when it is first asked for
  [ -s "secrets/$1" ] || head -c 32 /dev/urandom | base64 | tr -d '=+/\n' > "secrets/$1"
  cat "secrets/$1"
}
token=$(made fabric_token) bus=$(made .nats) watch=$(made .nats_system) cache=$(made .valkey)
made grafana_password > /dev/null

accounts="accounts {
  FABRIC { jetstream: enabled, users: [{ user: fabric, password: \"$bus\" }] }
  SYS { users: [{ user: system, password: \"$watch\" }] }
}
system_account: SYS"
nodes() { # the URL of all nodes for a user, whose password it ends in
  printf 'nats://%s@%s:4222,nats://%s@%s:4222,nats://%s@%s:4222' "$1" "$2" "$1" "$3" "$1" "$4"
}
passwords="requirepass $cache
masterauth $cache"

if [ "${1:-}" = --kubernetes ]; then
  at() { echo "nats-$1.nats"; }
  indented() { printf '%s\n' "$1" | sed 's/^/    /'; }
  cat <<YAML
apiVersion: v1
kind: Secret
metadata: { name: fabric }
stringData:
  token: $token
  nats-url: $(nodes "fabric:$bus" "$(at 0)" "$(at 1)" "$(at 2)")
  nats-system-url: $(nodes "system:$watch" "$(at 0)" "$(at 1)" "$(at 2)")
  redis-url: redis://:$cache@valkey-0.valkey:6379/0
---
apiVersion: v1
kind: Secret
metadata: { name: brokers }
stringData:
  nats_accounts: |
$(indented "$accounts")
  valkey_password: |
$(indented "$passwords")
YAML
  exit
fi

printf '%s\n' "$accounts" > secrets/nats_accounts
printf '%s\n' "$passwords" > secrets/valkey_password
printf '%s\n' "$cache" > secrets/valkey_client
nodes "fabric:$bus" nats-1 nats-2 nats-3 > secrets/nats_url
nodes "system:$watch" nats-1 nats-2 nats-3 > secrets/nats_system_url
printf 'nats://fabric:%s@nats:4222' "$bus" > secrets/nats_url_alone
printf 'redis://:%s@valkey:6379/0' "$cache" > secrets/redis_url
# The folder is its owner's alone; the files are mounted one by one, and read by the containers' own users.
chmod 644 secrets/*
echo "deploy/secrets/ is made; the operator's token is in deploy/secrets/fabric_token"
