"""Connections. Each node dials every other and writes on what it has dialled; what it accepts, it reads.

When a connection breaks, the peer is dialled back at once, and what comes of that is what it proves:

    exited, as its guardian says    its process is gone (`Link.attested`), where that is believed
    connection refused              its process is gone, where that is believed and three things hold
                                    (`Link.refused_by_system`)
    welcome of a new life           its process is gone, and another is there
    broken before the welcome       nothing yet; a dying process closes its sockets one by one: dial again
    anything else                   nothing: it may hang, or be cut off
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from electorate.core.identity import Start
from electorate.core.model import Message, NodeId
from electorate.runtime.contact import explain
from electorate.runtime.figures import Refusal
from electorate.runtime.hearsay import SENTENCE, heard
from electorate.runtime.lobby import machine
from electorate.runtime.names import Name, Place, in_turn, place, reach
from electorate.runtime.tls import expiry
from electorate.runtime.wire import (
    FRAME_LIMIT,
    MAX_METADATA,
    Answer,
    Exited,
    Foreign,
    Greeting,
    Part,
    Refused,
    Said,
    Versions,
    Welcome,
    WireError,
    answers,
    frame,
    greetings,
    messages,
    size_of,
)

if TYPE_CHECKING:
    from electorate.runtime.host import Host

HANDSHAKE = 2.0
"""How many seconds a handshake may take."""
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds between two attempts to dial, at first and at most."""
HASTE = 0.05
"""For so many seconds after a break, a dial that breaks before the welcome is repeated without a pause."""
UNHEARD = 3.0
"""After so many seconds without any acknowledgement by the peer's machine, a connection is given up."""
QUIET, PROBES = 15, 3
"""After so many seconds without a word the system asks whether the peer's machine is there; if it does not
say so, so many times, `UNHEARD` seconds apart."""
KEPT = {
    "TCP_USER_TIMEOUT": int(UNHEARD * 1000),
    "TCP_KEEPIDLE": QUIET,
    "TCP_KEEPALIVE": QUIET,  # the same, as macOS calls it
    "TCP_KEEPINTVL": int(UNHEARD),
    "TCP_KEEPCNT": PROBES,
}
AGE = 600.0
"""After so many seconds at most a connection in TLS is made anew: both sides prove again who they are."""
AGAIN = 1.0
"""Seconds until that is tried again, if it comes to nothing."""
NO_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    b'{"error": "here nodes speak to each other; for HTTP see nodes.ID.http of the cluster file"}\n'
)
"""What a browser is told that has come to the wrong door."""
BACKLOG = 4 << 20
"""A peer that leaves more bytes unread than this, and takes nothing for `UNHEARD` seconds, is cut off."""


A_STRANGER = "a stranger"
"""Of whom nothing is known that could be said."""


SAME = "give every node the same [tls] or secret_file"
"""What to do where one speaks TLS and another does not."""


class Reached(NamedTuple):
    """Whom a connection of mine has reached, and where."""

    start: Start
    place: Place | None


class Link:
    """My connection to one peer: dialled, greeted, written on, and dialled again when it breaks."""

    def __init__(self, host: Host, peer: NodeId, address: tuple[str, int]) -> None:
        self.host = host
        self.peer = peer
        self.name = Name(*address, f"nodes.{peer}.address", host.log, self.unanswered)
        self.mute: list[Place] = []
        """Where a call of mine was taken and not answered, the latest last; until one is."""
        self.outgoing: Outgoing | None = None
        self.shown: Start | None = None
        """The start of mine that the peer has asked for."""
        self.at_once = False
        """It has: dial again."""
        self.fallen: Reached | None = None
        """What the last connection that stood had reached, once it has broken."""
        self.dialling: asyncio.Task[None] | None = None
        self.again: asyncio.TimerHandle | None = None
        self.pause = FIRST_PAUSE
        self.hasty_until = 0.0
        self.renewing: asyncio.TimerHandle | None = None
        self.distrusted = False
        """Who answered has not proved to be the peer."""
        self.failure: str | None = None
        """Why the attempt under way, or the last one, has come to nothing."""
        self.buffer: list[bytes] = []
        self.version: int | None = None
        """What was spoken last with the peer, of the versions of `wire`."""
        self.metadata: dict[str, str] = {}
        """What the peer has told of itself."""

    @property
    def connected(self) -> bool:
        return self.outgoing is not None

    def write(self, message: Message) -> None:
        """Say it with whatever else is said in this turn of the loop."""
        if self.outgoing is not None:
            said = frame(message)
            if len(said) > 4 + FRAME_LIMIT:
                what = f"{type(message).__name__} of {len(said) - 4} bytes, which would be refused"
                return self.host.complain("not saying to", self.peer, what, "junk")
            if not self.buffer:
                self.host.loop.call_soon(self.flush)
            self.buffer.append(said)
        return None

    def flush(self) -> None:
        data, self.buffer = b"".join(self.buffer), []
        if self.outgoing is not None and data:
            self.outgoing.transport.write(data)

    # --- dialling ------------------------------------------------------------------------------

    def dial_soon(self, delay: float = 0.0) -> None:
        """Dial after so many seconds; if an attempt is under way, leave it be."""
        if self.host.stopping or self.connected or self.dialling:
            return
        if self.again:
            self.again.cancel()
        self.again = self.host.loop.call_later(delay, self.dial) if delay else None
        if not delay:
            self.dial()

    def dial(self) -> None:
        self.again = None
        if not (self.host.stopping or self.host.between_lives or self.connected or self.dialling):
            self.dialling = self.host.loop.create_task(self.attempt())

    def renew_after(self, seconds: float) -> None:
        if self.renewing:
            self.renewing.cancel()
        self.renewing = self.host.loop.call_later(seconds, self.renew)

    def renew(self) -> None:
        """Make another connection, and then give up the one that stands. Who waits for an answer of mine
        would take that for its loss, so it has to come first."""
        if self.host.stopping or not self.connected or self.dialling:
            return
        if self.peer in self.host.handover.obliging.values():
            self.renew_after(AGAIN)
        else:
            self.dialling = self.host.loop.create_task(self.attempt())

    def not_renewed(self, standing: Outgoing) -> None:
        """The one that stands is given up if it is too old, or if who answers there is not the peer."""
        if self.distrusted or standing.until < self.host.loop.time():
            self.drop()
        else:
            self.renew_after(AGAIN)

    async def attempt(self) -> None:
        outgoing = Outgoing(self)
        broke_early = self.distrusted = False
        self.failure = None
        try:
            addresses, still_true = await self.name.addresses()
            turns = in_turn(addresses, self.fallen and self.fallen.place, self.mute)
            refused = self.refused_by_system if still_true else self.refused_elsewhere
            encryption = await self.encryption()
            outgoing.context = encryption.get("ssl")
            async with asyncio.timeout(HANDSHAKE):
                await reach(outgoing, turns, refused, **encryption)
                await outgoing.answered
        except ssl.SSLCertVerificationError as error:
            assert self.host.certificates
            self.distrust(f"its certificate is not to be trusted: {self.host.certificates.doubt(error)}")
        except OSError as error:
            broke_early = isinstance(error, ConnectionError | ssl.SSLError) and not isinstance(
                error, ConnectionRefusedError
            )
            self.host.log.debug("dialling node %s: %s", self.peer, error)
            self.failure = self.failure or explain(error)
        finally:
            self.dialling = None
            if self.outgoing is not outgoing:
                outgoing.close()
        if self.outgoing is outgoing or self.host.stopping:
            return
        if self.outgoing:
            self.not_renewed(self.outgoing)
            return
        if self.failure:
            self.host.contact.failed(self.peer, self.failure)
        if outgoing.silent and outgoing.place:
            self.mute = [place for place in self.mute if place != outgoing.place] + [outgoing.place]
        if self.at_once:
            self.at_once = False
            self.dial_soon()
        elif broke_early and self.host.loop.time() < self.hasty_until:
            self.dial_soon(0.001)
        else:
            if broke_early and self.host.certificates:
                reason = "it hangs up without a word; if that goes on, its log tells why"
                self.host.complain("not welcomed by", self.peer, reason, "refused_by_peer")
            self.dial_soon(self.pause * random.uniform(0.5, 1.0))
            self.pause = min(2 * self.pause, LONGEST_PAUSE)

    def unanswered(self) -> None:
        """Whatever this name stands for, the system has not said it for a while."""
        if not self.connected:
            self.host.contact.failed(self.peer, "looking up its name takes long")

    async def encryption(self) -> dict[str, Any]:
        if self.host.certificates is None:
            return {}
        await self.host.certificates.refresh()
        return {
            "ssl": self.host.certificates.client,
            "server_hostname": "",
            "ssl_handshake_timeout": HANDSHAKE,
            "ssl_shutdown_timeout": HANDSHAKE,
        }

    def distrust(self, doubt: str) -> None:
        """Who answers there has not proved to be the peer."""
        self.distrusted = True
        self.failure = f"it is not trusted: {doubt}"
        self.host.complain("not trusting", self.peer, doubt, "certificate")

    def refused_by_system(self, place: Place) -> None:
        """Nobody listens there. If I am to believe that, a life is over if it was there that I reached it
        last, if I have seen that connection break, and if it has none to me: a name may point elsewhere by
        now, and who can break the connections one way need not have ended anybody."""
        fallen, host = self.fallen, self.host
        believed = host.proof_of_death == "refused" and self.peer not in host.incoming
        if believed and fallen and fallen.place == place:
            host.peer_is_gone(self.peer, fallen.start)

    def refused_elsewhere(self, place: Place) -> None:
        """The name stood for this place once, and may stand for another by now: that proves nothing."""

    def attested(self, exited: Exited) -> None:
        """Who holds the socket of a life says that it has ended."""
        if self.host.proof_of_death != "none":
            self.host.peer_is_gone(self.peer, Start(*exited.start))

    def welcomed(self, outgoing: Outgoing, welcome: Welcome) -> None:
        identity = welcome.said.identity
        if not self.host.versions.oldest <= welcome.version <= self.host.versions.newest:
            what = f"it wants to speak version {welcome.version}, and I speak {self.host.versions}"
            self.failure = what
            return self.host.complain("not speaking with", self.peer, what, "protocol")
        if outgoing.start == self.host.started and self.host.recognises(self.peer, identity):
            before, self.outgoing = self.outgoing, outgoing
            self.fallen = None
            self.mute = []
            outgoing.reached = Reached(identity.start, outgoing.place)
            self.metadata = self.told(welcome.metadata)
            self.pause = FIRST_PAUSE
            if certificates := self.host.certificates:
                age = AGE * random.uniform(0.8, 1.0) if outgoing.context is certificates.client else AGAIN
                age = max(AGAIN, min(age, certificates.left(outgoing.end)))
                outgoing.until = self.host.loop.time() + age + 2 * HANDSHAKE
                self.renew_after(age)
            if before:
                before.close()
            if not (before and before.reached and before.reached.start == identity.start):
                self.host.connected(self.peer, identity)
            self.speak(welcome.version)
        return None

    def speak(self, version: int) -> None:
        """From now on in this version. That is worth a line if it is not the newest, or is another."""
        if version != (self.version or self.host.versions.newest):
            speaks = self.host.versions
            self.host.log.info("speaking version %d with node %s; I speak %s", version, self.peer, speaks)
        self.version = version

    def told(self, metadata: dict[str, str]) -> dict[str, str]:
        """What the peer tells of itself, if it tells no more than it may."""
        if size_of(metadata) <= MAX_METADATA:
            return metadata
        self.host.complain("ignoring", self.peer, "its metadata is longer than it may be", "junk")
        return {}

    def refused(self, refusal: Refused) -> None:
        """Show what it remembers of me, if I can, and have not yet."""
        asked = refusal.known and Start(*refusal.known)
        if asked:
            before = self.shown
            self.at_once = self.host.adopts(asked)
            self.shown = self.host.start_shown(asked)
            self.at_once |= self.shown is not None and self.shown != before
        if not self.at_once:
            self.host.refused_by(self.peer, refusal)
            self.failure = f"it refuses me: {heard(refusal.reason, SENTENCE)}"

    def broken(self) -> None:
        """The connection that stood has broken: dial back at once."""
        self.fallen = self.outgoing.reached if self.outgoing else None
        self.outgoing = None
        self.buffer.clear()
        if not self.host.stopping:
            self.host.lost(self.peer)
            self.pause = FIRST_PAUSE
            self.hasty_until = self.host.loop.time() + HASTE
            self.dial_soon()

    def drop(self) -> None:
        """Break the connection, and make another."""
        if self.outgoing:
            self.outgoing.transport.abort()

    def close(self) -> None:
        self.name.close()
        for timer in (self.again, self.renewing):
            if timer:
                timer.cancel()
        if self.dialling:
            self.dialling.cancel()
        if self.outgoing:
            self.flush()
            self.outgoing.close()


class Outgoing(asyncio.Protocol):
    """One connection that I have dialled."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.decoder = answers(partial(link.host.beyond, link.peer))
        self.start = link.host.started
        self.answered: asyncio.Future[None] = link.host.loop.create_future()
        self.transport: asyncio.Transport
        self.opened = False
        self.silent = False
        """It stands, and nothing has answered on it."""
        self.place: Place | None = None
        self.reached: Reached | None = None
        """Once it is welcomed."""
        self.unread = 0
        self.looking: asyncio.TimerHandle | None = None
        self.context: ssl.SSLContext | None = None
        """Of what was trusted and shown when it was dialled."""
        self.end = 0.0
        """Of the certificate that was shown, in seconds since 1970."""
        self.until = float("inf")
        """When it is too old, on the clock of the loop."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(BACKLOG)
        self.opened = self.silent = True
        tune(self.transport)
        if peername := self.transport.get_extra_info("peername"):
            self.place = place(peername)
        host, peer = self.link.host, self.link.peer
        if host.certificates:
            certificate = certificate_of(self.transport)
            if not host.certificates.names(certificate, peer):
                self.link.distrust("its certificate is that of another node")
                return self.transport.abort()
            self.end = host.figures.expiry[peer] = expiry(certificate)
        greeting = Greeting(
            host.versions,
            host.config.cluster,
            host.id,
            peer,
            Said.of(host.identity(self.link.shown)),
            host.known(peer),
            host.safety,
            host.rest,
        )
        return self.transport.write(frame(greeting))

    def data_received(self, data: bytes) -> None:
        try:
            for answer in self.decoder.feed(data):
                self.take(answer)
        except Foreign as error:
            peer, host = self.link.peer, self.link.host
            self.link.failure = f"it answers in {error.tongue}: {host.foreign(error.tongue, peer)}"
            host.complain("refusing", f"node {peer}", self.link.failure, "junk")
            self.transport.abort()
        except WireError as error:
            self.link.host.junk(f"an answer of node {self.link.peer}", error)
            self.transport.abort()

    def take(self, answer: Answer) -> None:
        if self.answered.done():
            raise WireError("a second answer to one greeting")
        self.answered.set_result(None)
        self.silent = isinstance(answer, Exited)
        if isinstance(answer, Welcome):
            return self.link.welcomed(self, answer)
        if isinstance(answer, Exited):
            self.link.attested(answer)
        else:
            self.link.refused(answer)
        return self.transport.close()

    def pause_writing(self) -> None:
        """Much is unread: look whether it becomes less."""
        self.unread = self.transport.get_write_buffer_size()
        self.looking = self.link.host.loop.call_later(UNHEARD, self.look)

    def look(self) -> None:
        if self.transport.get_write_buffer_size() < self.unread:
            return self.pause_writing()
        self.link.host.log.warning("node %s does not read what it is sent: cutting it off", self.link.peer)
        return self.transport.abort()

    def resume_writing(self) -> None:
        if self.looking:
            self.looking.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        self.resume_writing()
        if not self.answered.done():
            self.answered.set_exception(ConnectionResetError("it broke before the welcome"))
            self.answered.exception()
        if self.link.outgoing is self:
            self.link.broken()

    def close(self) -> None:
        if self.opened:
            self.transport.close()


class Incoming(asyncio.Protocol):
    """One connection that I have accepted: a stranger until it has greeted."""

    def __init__(self, host: Host, connection: socket.socket) -> None:
        self.host = host
        self.connection = connection
        self.machine = caller_of(connection)
        self.peer: NodeId | None = None
        self.strangers = greetings(self.beyond)
        self.words = messages(self.beyond)
        self.transport: asyncio.Transport | None = None
        self.ended = False
        self.context: ssl.SSLContext | None = None
        """Of what was trusted and shown when it was accepted."""
        self.start: Start | None = None
        """The life that has greeted."""
        self.older: Incoming | None = None
        """What the same peer has said before this may still be on its way."""
        self.timeout = host.loop.call_later(HANDSHAKE, self.hurry)
        self.opening = host.loop.create_task(self.open())
        self.opening.add_done_callback(self.opened)

    async def open(self) -> None:
        """Go on in TLS, where that is spoken."""
        encryption: dict[str, Any] = {}
        if self.host.certificates:
            await self.host.certificates.refresh()
            self.context = self.host.certificates.server
            encryption = {
                "ssl": self.context,
                "ssl_handshake_timeout": HANDSHAKE,
                "ssl_shutdown_timeout": HANDSHAKE,
            }
        try:
            await self.host.loop.connect_accepted_socket(lambda: self, self.connection, **encryption)
        except ssl.SSLError as error:
            reason = "TLS without a certificate to be trusted"
            if isinstance(error, ssl.SSLCertVerificationError) and self.host.certificates:
                reason = f"its certificate is not to be trusted: {self.host.certificates.doubt(error)}"
            elif error.reason == "HTTP_REQUEST":
                reason = f"it speaks HTTP: {self.host.foreign('HTTP', self.host.id)}"
            elif error.reason == "WRONG_VERSION_NUMBER":
                reason = f"it does not speak TLS, and I do: {SAME}"
            self.host.complain("refusing", A_STRANGER, reason, "certificate")
            self.host.log.debug("a stranger's handshake failed: %s", error)
        except OSError as error:
            self.host.log.debug("a stranger hung up: %s", error)

    def opened(self, opening: asyncio.Task[None]) -> None:
        """Or not: it may have been cut off before that even began."""
        if self.transport is None:
            self.connection.close()
            self.settle()

    def abort(self) -> None:
        if self.older:
            self.older.abort()
        if self.transport:
            self.transport.abort()
        else:
            self.opening.cancel()

    def stay(self, seconds: float) -> None:
        """For so long at most."""
        self.timeout.cancel()
        self.timeout = self.host.loop.call_later(seconds, self.abort)

    def replace(self, older: Incoming) -> None:
        """The peer has made a new connection. In the same life it closes the older one itself, and what is on
        its way there is heard."""
        if older.start != self.start or self.context is None:
            return older.abort()
        if older.older:
            older.older.abort()
        older.stay(HANDSHAKE)
        self.older = older

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        tune(self.transport)

    def hurry(self) -> None:
        self.host.complain("cutting off", A_STRANGER, "no greeting in time", "no_greeting")
        self.abort()

    def data_received(self, data: bytes) -> None:
        try:
            if self.peer is None:
                data = self.greet(data)
            if self.peer is not None and data:
                for word in self.words.feed(data):
                    self.host.received(self.peer, word)
        except WireError as error:
            if self.peer:
                self.host.junk(f"node {self.peer}", error)
            elif isinstance(error, Foreign):
                reason = f"it speaks {error.tongue}: {self.host.foreign(error.tongue, self.host.id)}"
                self.host.complain("refusing", A_STRANGER, reason, "junk")
                if self.transport and error.tongue == "HTTP":
                    self.transport.write(NO_HTTP)
                    return self.transport.close()
            else:
                self.host.complain("junk from", A_STRANGER, "it is no node, or of another version", "junk")
                self.host.log.debug("a stranger said: %s", heard(str(error), SENTENCE))
            self.abort()

    def beyond(self, part: Part, what: str) -> None:
        self.host.beyond(self.peer or A_STRANGER, part, what)

    def greet(self, data: bytes) -> bytes:
        """Wait for the greeting, and answer it. Returns the bytes after it."""
        self.strangers.buffer += data
        greeting = self.strangers.next()
        if greeting is None or self.ended:
            return b""
        self.answer(greeting)
        return bytes(self.strangers.buffer)

    def refuse(self, whom: str, refused: Refused, refusal: Refusal) -> None:
        self.host.complain("refusing", whom, refused.reason, refusal)
        self.say(refused)
        self.close()

    def say(self, content: Welcome | Refused) -> None:
        if self.transport:
            self.transport.write(frame(content))

    def close(self) -> None:
        """Send what has been said, and hang up."""
        self.ended = True
        if self.transport:
            self.transport.close()

    def answer(self, greeting: Greeting) -> None:
        """It is who it says, as far as it can prove: a member, or not."""
        self.settle()
        certificates, certificate = self.host.certificates, certificate_of(self.transport)
        if certificates and not certificates.names(certificate, greeting.node):
            reason = f"your certificate is not that of node '{heard(greeting.node)}'"
            return self.refuse(A_STRANGER, Refused(reason), "certificate")
        refused = self.host.objection(greeting, self.whom(greeting.node))
        if refused:
            self.say(refused)
            return self.close()
        asked = greeting.known and Start(*greeting.known)
        if self.host.adopts(asked):
            return self.abort()
        self.peer, self.start = greeting.node, greeting.said.identity.start
        if certificates:
            age = AGE + 3 * HANDSHAKE if self.context is certificates.server else AGAIN
            self.stay(max(AGAIN, min(age, certificates.left(expiry(certificate)))))
        version = self.host.versions.agree(Versions(*greeting.versions))
        assert version is not None
        self.say(Welcome(Said.of(self.host.identity(asked)), version, self.host.metadata))
        return self.host.greeted(greeting, self)

    def whom(self, node: NodeId) -> str:
        """About whom a complaint is: anybody can say that it is a node, but not show its certificate, and not
        call from its address."""
        if node not in self.host.links:
            return A_STRANGER
        proven = self.host.certificates or self.host.is_at(node, self.machine)
        return node if proven else f"{A_STRANGER} that says it is {node}"

    def dismiss(self) -> None:
        """Others have come."""
        self.settle()
        self.abort()

    def settle(self) -> None:
        """No longer a stranger."""
        self.host.strangers.leave(self)
        self.timeout.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended, self.older = True, None
        self.settle()
        self.host.hung_up(self)


def caller_of(connection: socket.socket) -> bytes:
    """The address of who has called there, unless it has hung up already."""
    try:
        return machine(connection.getpeername()[0])
    except (OSError, IndexError):
        return b""


def certificate_of(transport: asyncio.Transport | None) -> Mapping[str, Any] | None:
    return cast(Mapping[str, Any], transport.get_extra_info("peercert")) if transport else None


def tune(transport: asyncio.Transport) -> None:
    """Small messages must not wait for more (Nagle). What a broken network does not acknowledge must not wait
    for ever longer retransmissions: after `UNHEARD` the connection breaks, and is dialled again. And one that
    carries nothing must not be forgotten by what is between the two, nor its end be noticed only when it is
    needed: so the systems, not the nodes, exchange a word now and then."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEPT.items():
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
