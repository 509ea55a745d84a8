#!/bin/sh
# Starts Mosquitto in its official image as the first process of the container, which gets the signals. Its log goes
# through a filter: of the level at which it logs refusals it logs every packet too.
set -eu
packets=/mosquitto/log/packets
rm -f "$packets"
mkfifo -m 600 "$packets"
awk -v rules=/mosquitto/config/access.acl -f /mosquitto/config/without-packets.awk < "$packets" >&2 &

# Mosquitto reads rules, revocations and its certificate again when an authority has changed them and is done.
state() { cat /mosquitto/config/access.acl /mosquitto/config/crl.pem /mosquitto/config/node.crt | cksum; }
read=$(state) before=$read
while sleep 1 && kill -0 $$ 2> /dev/null; do
    now=$(state)
    if [ "$now" != "$read" ] && [ "$now" = "$before" ]; then
        kill -HUP $$
        read=$now
    fi
    before=$now
done > /dev/null 2>&1 &
exec mosquitto -c /mosquitto/config/mosquitto.conf 2> "$packets"
