//! What becomes of a sandbox's questions for names.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use super::device::Device;
use super::dns::{self, Answer, Asker, Lookup, Question, REFUSED, SERVER_FAILURE, Step};
use super::engine::Shared;
use super::flow::Flow;
use super::gate::Protocol;
use super::ledger::{Attempt, Ended, Verdict};
use super::packet::udp;

impl Device {
    /// The sandbox asks.
    pub(super) fn question(&mut self, message: &[u8], asker: Asker, shared: &mut Shared) {
        let question = Some(message)
            .filter(|message| message.len() <= dns::QUESTION_MAX)
            .and_then(dns::parse_question);
        let Some(question) = question else {
            return;
        };
        let Some(name) = question.name.text() else {
            self.answer(&question, asker, &Answer::empty(REFUSED), shared);
            return;
        };
        let decision = self.gate.question(&name, shared.now);
        let resolver = SocketAddr::new(super::GATEWAY_V4.into(), dns::PORT);
        let mut attempt = Attempt::new(Protocol::Dns, resolver, &decision, shared.now);
        attempt.name = Some(name.as_str().into());
        let at_once = if attempt.verdict != Verdict::Allowed {
            Some(Answer::empty(REFUSED))
        } else if self.other_flows >= self.limits.udp_flows || self.is_spent() {
            attempt.verdict = Verdict::Limited;
            Some(Answer::empty(REFUSED))
        } else {
            let known = shared.resolvers.known(&name, shared.now);
            known
                .map(|addresses| Answer::known(&question, addresses))
                .map(|answer| answer.filtered(&question, &name, &mut self.gate, shared.now))
                .or_else(|| dns::answer_by_kind(question.kind))
        };
        if let Some(answer) = at_once {
            self.answer(&question, asker, &answer, shared);
            let ended = if attempt.verdict == Verdict::Allowed {
                dns::ended(Some(&answer))
            } else {
                Ended::NotBegun
            };
            self.ledger.add(attempt.end(ended, shared.now));
            return;
        }
        // Another one for each: whoever answers in a resolver's place has to guess it, and the port.
        let [a, b, ..] = RandomState::new().hash_one(shared.now).to_be_bytes();
        let id = u16::from_be_bytes([a, b]);
        let lookup = Lookup::new(question, name, asker, attempt, id, shared.now);
        let token = self.add(Flow::Lookup(Box::new(lookup)), None, shared);
        self.lookup_step(token, Step::Next, shared);
        self.settle(token, shared);
    }

    /// Goes on with a lookup.
    pub(super) fn lookup_step(&mut self, token: u32, mut step: Step, shared: &mut Shared) {
        let Some(mut slot) = self.flows.remove(&token) else {
            return;
        };
        if let Flow::Lookup(lookup) = &mut slot.flow {
            loop {
                step = match step {
                    Step::Wait => break,
                    Step::Done(answer) => {
                        self.finish(lookup, Some(answer), shared);
                        break;
                    }
                    Step::Next if lookup.given_up(shared.now) => {
                        self.finish(lookup, None, shared);
                        break;
                    }
                    Step::Next | Step::Stream => match self.ask(lookup, token, &step, shared) {
                        Some(next) => next,
                        None => {
                            self.finish(lookup, None, shared);
                            break;
                        }
                    },
                };
            }
        }
        self.flows.insert(token, slot);
    }

    /// Asks somebody; nothing when there is nobody left.
    fn ask(
        &self,
        lookup: &mut Lookup,
        token: u32,
        step: &Step,
        shared: &mut Shared,
    ) -> Option<Step> {
        let counted = shared.sockets.one_more()?;
        let asked = if matches!(step, Step::Stream) {
            lookup.ask_stream(counted, shared.now)
        } else {
            let servers = shared.resolvers.servers(shared.now);
            if lookup.all_asked(servers) {
                return None;
            }
            lookup.ask(servers, counted, shared.now)
        };
        let watched = asked.and_then(|socket| self.watch(socket, token, shared));
        Some(if watched.is_ok() {
            Step::Wait
        } else {
            Step::Next
        })
    }

    fn finish(&mut self, lookup: &mut Lookup, answer: Option<Answer>, shared: &mut Shared) {
        let filtered = answer.map(|answer| {
            answer.filtered(&lookup.question, &lookup.name, &mut self.gate, shared.now)
        });
        lookup.ended = Some(dns::ended(filtered.as_ref()));
        let answer = filtered.unwrap_or_else(|| Answer::empty(SERVER_FAILURE));
        self.answer(&lookup.question, lookup.asker, &answer, shared);
    }

    fn answer(&mut self, question: &Question, asker: Asker, answer: &Answer, shared: &mut Shared) {
        match asker {
            Asker::Datagram(guest, resolver) => {
                let message = dns::write_answer(question, answer, question.room);
                let mut link = self.wire.link(shared);
                let at = udp::data_at(guest.ip());
                if let Some(room) = link.frame.get_mut(at..at + message.len()) {
                    room.copy_from_slice(&message);
                    udp::write(link.frame, resolver, guest, message.len());
                    link.write(at + message.len());
                }
            }
            Asker::Stream(token) => {
                if let Some(Flow::Resolver(stream)) =
                    self.flows.get_mut(&token).map(|slot| &mut slot.flow)
                {
                    stream.answer(question, answer);
                }
            }
        }
    }

    /// A connection to the resolver has something to tell.
    pub(super) fn resolver_ready(&mut self, token: u32, shared: &mut Shared) {
        while let Some(Flow::Resolver(stream)) =
            self.flows.get_mut(&token).map(|slot| &mut slot.flow)
        {
            let Some(message) = stream.question(&mut shared.frame) else {
                return;
            };
            self.question(&message, Asker::Stream(token), shared);
        }
    }
}
