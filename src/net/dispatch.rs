//! What becomes of a packet of the sandbox.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::device::{Device, Key};
use super::engine::Shared;
use super::flow::Flow;
use super::gate::{Decision, Peeked, Protocol};
use super::ledger::{Attempt, Ended, Verdict};
use super::link::{Counted, Socket};
use super::packet::icmp::{self, Echo, Failure};
use super::packet::tcp::{ACK, RST, SYN, Segment};
use super::packet::{self, ICMP, ICMPV6, Ip, TCP, UDP};
use super::service::SERVICE_PORT;
use super::{GUEST_V4, GUEST_V6, dns, echo, gateway, tcp, udp};
use crate::sys::socket;

impl Device {
    /// A frame came out of the sandbox.
    pub(super) fn frame(&mut self, frame: &[u8], shared: &mut Shared) {
        let Some(packet) = packet::strip(frame) else {
            return;
        };
        let Some(ip) = packet::parse(packet) else {
            return;
        };
        // Nobody else lives there, and what it sends to itself would not come here.
        let lives_there = |address| [IpAddr::V4(GUEST_V4), GUEST_V6.into()].contains(&address);
        if !lives_there(ip.source) || lives_there(ip.target) {
            return;
        }
        match ip.protocol {
            TCP => {
                if let Some((segment, data)) = packet::tcp::parse(&ip) {
                    self.segment(&segment, data, shared);
                }
            }
            UDP => {
                if let Some((from, to, data)) = packet::udp::parse(&ip) {
                    self.datagram((Protocol::Udp, from, to), data, ip.whole, packet, shared);
                }
            }
            ICMP | ICMPV6 => {
                if let Some(echo) = icmp::parse(&ip) {
                    self.echo(&ip, &echo, packet, shared);
                }
            }
            _ => self.fail(packet, Failure::Prohibited, shared),
        }
    }

    fn fail(&mut self, packet: &[u8], failure: Failure, shared: &mut Shared) {
        let mut link = self.wire.link(shared);
        let Some(ip) = packet::parse(packet) else {
            return;
        };
        // No error about what was sent to many (RFC 1122).
        if ip.target.is_multicast() || ip.target == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
            return;
        }
        let gateway = gateway((ip.source, 0).into());
        if let Some(length) = icmp::write_failure(link.frame, gateway, packet, failure) {
            link.write(length);
        }
    }

    fn segment(&mut self, segment: &Segment, data: &[u8], shared: &mut Shared) {
        let key = (Protocol::Tcp, segment.from, segment.to);
        if let Some(token) = self.keys.get(&key).copied() {
            if let Some(Flow::Tcp(flow)) = self.flows.get_mut(&token).map(|slot| &mut slot.flow) {
                flow.segment(segment, data, &mut self.wire.link(shared));
            }
            self.touch(token);
            self.decide(token, shared);
            self.settle(token, shared);
        } else if segment.has(SYN) && !segment.has(ACK | RST) {
            self.connect(segment, key, shared);
        } else {
            tcp::refuse(segment, data.len(), &mut self.wire.link(shared));
        }
    }

    /// A connection is asked for.
    fn connect(&mut self, syn: &Segment, key: Key, shared: &mut Shared) {
        if syn.to.ip() == gateway(syn.from) {
            self.connect_to_gateway(syn, key, shared);
            return;
        }
        let decision = self.gate.open(Protocol::Tcp, syn.to, shared.now);
        let mut attempt = Attempt::new(Protocol::Tcp, syn.to, &decision, shared.now);
        if attempt.verdict == Verdict::Denied {
            tcp::write_failure(syn, Failure::Prohibited, &mut self.wire.link(shared));
            self.ledger.add(attempt.end(Ended::NotBegun, shared.now));
            return;
        }
        let over = self.tcp_flows >= self.limits.tcp_flows;
        if over || self.is_spent() {
            if over {
                self.ledger.over();
            }
            attempt.verdict = Verdict::Limited;
            tcp::refuse(syn, 0, &mut self.wire.link(shared));
            self.ledger.add(attempt.end(Ended::NotBegun, shared.now));
            return;
        }
        let mut flow = self.new_flow(syn, attempt, shared);
        if decision == Decision::Peek {
            flow.answer_early(&mut self.wire.link(shared));
        } else {
            self.dial(self.next_token(), &mut flow, shared);
        }
        self.add(Flow::Tcp(Box::new(flow)), Some(key), shared);
    }

    fn new_flow(&mut self, syn: &Segment, attempt: Attempt, shared: &mut Shared) -> tcp::Flow {
        let first = shared.first.of(syn.to, syn.from, shared.now);
        let by = shared.now + self.limits.connect;
        tcp::Flow::new(syn, first, attempt, by, &self.wire.link(shared))
    }

    /// Begins the connection outside.
    fn dial(&mut self, token: u32, flow: &mut tcp::Flow, shared: &mut Shared) {
        let Some(counted) = shared.sockets.one_more() else {
            flow.attempt.verdict = Verdict::Limited;
            flow.break_off(Ended::Limited, &mut self.wire.link(shared));
            return;
        };
        // One whose first bytes decided is among them already.
        let others = self.tcp_flows - usize::from(flow.is_peeking());
        let socket = socket::connect_tcp(flow.attempt.to)
            .map(|fd| Socket::stream(counted, fd, others, &shared.sockets))
            .and_then(|socket| {
                self.watch(&socket, token, shared)?;
                Ok(socket)
            });
        match socket {
            Ok(socket) => flow.join(socket),
            Err(error) => flow.refuse(&error, &mut self.wire.link(shared)),
        }
    }

    /// The gateway answers names, and what its service is asked.
    fn connect_to_gateway(&mut self, syn: &Segment, key: Key, shared: &mut Shared) {
        let port = syn.to.port();
        let served = self.service.is_some() && port == SERVICE_PORT;
        let asks = (port == dns::PORT || served) && !self.is_spent();
        let room = (served || self.other_flows < self.limits.udp_flows)
            && self.tcp_flows < self.limits.tcp_flows;
        if asks && self.tcp_flows >= self.limits.tcp_flows {
            self.ledger.over();
        }
        let pair = (asks && room).then(|| Socket::pair(&shared.sockets).ok());
        let pair = pair.flatten();
        let Some((ours, theirs)) = pair else {
            tcp::refuse(syn, 0, &mut self.wire.link(shared));
            return;
        };
        let allowed = Decision::Peek;
        let attempt = Attempt::new(Protocol::Tcp, syn.to, &allowed, shared.now);
        match &self.service {
            Some(service) if served => service.accept(theirs.into_call()),
            _ => {
                let token = self.next_token();
                if self.watch(&theirs, token, shared).is_ok() {
                    self.add(Flow::Resolver(dns::Stream::new(theirs)), None, shared);
                }
            }
        }
        let mut flow = self.new_flow(syn, attempt, shared);
        let token = self.next_token();
        if self.watch(&ours, token, shared).is_ok() {
            flow.join(ours);
        }
        self.add(Flow::Tcp(Box::new(flow)), Some(key), shared);
        self.activate(token);
    }

    /// Asks whether the first bytes of a connection decide.
    fn decide(&mut self, token: u32, shared: &mut Shared) {
        let Some(Flow::Tcp(flow)) = self.flows.get_mut(&token).map(|slot| &mut slot.flow) else {
            return;
        };
        let last = flow.first_bytes_end();
        let Some((to, bytes)) = flow.first_bytes() else {
            return;
        };
        match self.gate.first_bytes(to, bytes) {
            Peeked::NeedMore if !last => {}
            Peeked::Decided(decision @ Decision::Allow { .. }) => {
                flow.attempt.decided(&decision);
                if let Some(mut slot) = self.flows.remove(&token) {
                    if let Flow::Tcp(flow) = &mut slot.flow {
                        self.dial(token, flow, shared);
                    }
                    self.flows.insert(token, slot);
                }
            }
            Peeked::NeedMore => {
                flow.attempt.verdict = Verdict::Denied;
                flow.break_off(Ended::NotBegun, &mut self.wire.link(shared));
            }
            Peeked::Decided(decision) => {
                flow.attempt.decided(&decision);
                flow.attempt.verdict = Verdict::Denied;
                flow.break_off(Ended::NotBegun, &mut self.wire.link(shared));
            }
        }
    }

    fn datagram(&mut self, key: Key, data: &[u8], whole: bool, packet: &[u8], shared: &mut Shared) {
        let (_, from, to) = key;
        if to.ip() == gateway(from) {
            if to.port() == dns::PORT {
                self.question(data, dns::Asker::Datagram(from, to), shared);
            } else {
                self.fail(packet, Failure::Port, shared);
            }
            return;
        }
        let known = self.keys.get(&key).copied();
        let open = |attempt, fd, counted, now| {
            Flow::Udp(udp::Flow::new(
                from,
                to,
                Socket::new(counted, fd),
                attempt,
                now,
            ))
        };
        let Some(token) =
            known.or_else(|| self.open(key, packet, shared, socket::connect_udp, open))
        else {
            return;
        };
        if let Some(Flow::Udp(flow)) = self.flows.get_mut(&token).map(|slot| &mut slot.flow) {
            flow.datagram(data, whole, packet, &mut self.wire.link(shared));
        }
    }

    fn echo(&mut self, ip: &Ip<'_>, echo: &Echo<'_>, packet: &[u8], shared: &mut Shared) {
        let guest = SocketAddr::new(ip.source, echo.id);
        if ip.target == gateway(guest) {
            let mut link = self.wire.link(shared);
            let length = icmp::write_reply(link.frame, ip.target, ip.source, echo);
            link.write(length);
            return;
        }
        let key = (Protocol::Icmp, guest, SocketAddr::new(ip.target, 0));
        let known = self.keys.get(&key).copied();
        let open = |attempt, fd, counted, now| {
            let socket = Socket::new(counted, fd);
            Flow::Echo(echo::Flow::new(guest, ip.target, socket, attempt, now))
        };
        let Some(token) =
            known.or_else(|| self.open(key, packet, shared, socket::connect_ping, open))
        else {
            return;
        };
        if let Some(Flow::Echo(flow)) = self.flows.get_mut(&token).map(|slot| &mut slot.flow) {
            flow.request(echo, shared.now);
        }
    }

    /// Opens a flow without connection, if it may be and can be.
    fn open(
        &mut self,
        key: Key,
        packet: &[u8],
        shared: &mut Shared,
        connect: fn(SocketAddr) -> std::io::Result<OwnedFd>,
        flow: impl FnOnce(Attempt, OwnedFd, Counted, Instant) -> Flow,
    ) -> Option<u32> {
        let (protocol, _, to) = key;
        let decision = self.gate.open(protocol, to, shared.now);
        let mut attempt = Attempt::new(protocol, to, &decision, shared.now);
        let room = self.other_flows < self.limits.udp_flows && !self.is_spent();
        let counted = shared.sockets.one_more().filter(|_| room);
        let refused = match (attempt.verdict, counted) {
            (Verdict::Allowed, Some(counted)) => match connect(to) {
                Ok(fd) => {
                    let token = self.next_token();
                    if self.watch(&fd, token, shared).is_ok() {
                        let flow = flow(attempt, fd, counted, shared.now);
                        return Some(self.add(flow, Some(key), shared));
                    }
                    (Ended::Limited, Failure::Prohibited)
                }
                // Of a ping: the host lets nobody send any.
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    (Ended::Unreachable, Failure::Prohibited)
                }
                Err(_) => (Ended::Unreachable, Failure::Unreachable),
            },
            (Verdict::Allowed, None) => {
                attempt.verdict = Verdict::Limited;
                (Ended::NotBegun, Failure::Prohibited)
            }
            _ => (Ended::NotBegun, Failure::Prohibited),
        };
        let (ended, failure) = refused;
        self.fail(packet, failure, shared);
        self.ledger.add(attempt.end(ended, shared.now));
        None
    }
}
