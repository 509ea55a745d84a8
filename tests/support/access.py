"""Nodes with certificates, and a log of what Mosquitto refused them."""

from __future__ import annotations

from broker.access import Node, Role

LEADER, A1, A2 = (
    Node("leader", Role.leader),
    Node("a1", Role.aggregator, "leader"),
    Node("a2", Role.aggregator, "leader"),
)
REGISTRAR, ENROLMENT = Node("registrar", Role.registrar), Node("enrolment", Role.enrolment)
MOLE, ROGUE, DESK = Node("mole", Role.home, "a1"), Node("rogue", Role.aggregator, "leader"), Node("desk", Role.observer)
HOMES = [Node(f"h{number}", Role.home, "a1" if number % 2 else "a2") for number in range(1, 7)]
EVERYONE = [LEADER, A1, A2, ROGUE, *HOMES, MOLE, Node("stray", Role.home, "rogue"), DESK, REGISTRAR, ENROLMENT]
LOG = """03:28:11: mosquitto version 2.0.11 running
03:28:13: New connection from 127.0.0.1:48821 on port 18990.
03:28:13: New client connected from 127.0.0.1:48821 as mole (p2, c1, k60, u'mole').
03:28:13: Will message specified (7 bytes) (r1, q1).
03:28:13: \tstackelgrid/r/a1/h1/presence
03:28:13: Sending CONNACK to mole (0, 0)
03:28:12: Received SUBSCRIBE from mole
03:28:12: \t# (QoS 0)
03:28:12: mole 0 #
03:28:12: mole 0 stackelgrid/r/a1/signal
03:28:12: mole 1 $share/g/stackelgrid/+/a1/signal
03:28:12: mole 1 $share/g/stackelgrid/#
03:28:12: Sending SUBACK to mole
03:28:12: Received PUBLISH from h1 (d0, q0, r0, m0, 'stackelgrid/r/a1/h1/answer', ... (1 bytes))
03:28:12: Sending PUBLISH to a1 (d0, q0, r0, m0, 'stackelgrid/r/a1/h1/answer', ... (1 bytes))
03:28:13: Denied PUBLISH from mole (d0, q1, r0, m2, 'stackelgrid/r/a1/h1/answer', ... (6 bytes))
03:28:13: Denied PUBLISH from mole (d0, q1, r0, m3, 'a/Denied PUBLISH from h1 (d0, q1', ... (6 bytes))
03:28:13: Client mole already connected, closing old connection.
03:28:13: OpenSSL Error[0]: error:0A000126:SSL routines::unexpected eof while reading
03:28:13: Client mole closed its connection.
03:28:14: OpenSSL Error[0]: error:0A000086:SSL routines::certificate verify failed
03:28:14: Client <unknown> disconnected: Protocol error.
03:28:15: OpenSSL Error[0]: error:0A0000C7:SSL routines::peer did not return a certificate
03:28:15: Client connection from 127.0.0.1 failed: error:0A00010B:SSL routines::wrong version number.
03:28:15: Client connection from 127.0.0.1 failed: error:0A00009C:SSL routines::http request.
03:28:52: OpenSSL Error[0]: error:0A000102:SSL routines::unsupported protocol
03:28:53: OpenSSL Error[0]: error:0A0000C1:SSL routines::no shared cipher
03:28:20: Error: Unable to load certificate revocation file "crl.pem". Check crlfile."""
