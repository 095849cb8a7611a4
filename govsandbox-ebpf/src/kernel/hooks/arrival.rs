//! Packets that arrive from other machines, and from other network namespaces, at sockets of a sandbox.

use core::mem::MaybeUninit;

use aya_ebpf::{btf_maps::lpm_trie::Key, macros::cgroup_skb, programs::SkBuffContext};
use govsandbox_ebpf::{
    abi::{
        egress::EgressKey,
        event::{EventRecord, RecordAction, RecordKind},
    },
    decide::{Decision, egress::decide_egress},
};

use super::{
    conclude,
    connect::judge,
    packet::{DROP, PASS, Packet, TCP, UDP, ends, is_first, is_for_many, read, read_through},
};
use crate::kernel::{
    emit, flow,
    lead::{IPPROTO_TCP, IPPROTO_UDP},
    maps,
    socket::{LISTENING, LOOPBACK, SocketTag, octets},
    subject::Subject,
};

/// Bits of a whole key: sandbox and address.
const KEY_BITS: u32 = 32 + 128;

/// Binding and listening are not refused: a server on all addresses is reached over loopback. What comes from elsewhere is
/// refused where `network.listen` does not name the address, and datagrams but for those of whom the sandbox may send to.
#[cgroup_skb(ingress)]
pub fn packet_in(ctx: SkBuffContext) -> i32 {
    // SAFETY: the verifier checks which fields of the context may be read; a tag lives as long as its socket, which the
    // packet is for.
    unsafe {
        if (*ctx.skb.skb).ifindex == LOOPBACK {
            return PASS;
        }
        let socket = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if socket.is_null() {
            return PASS;
        }
        let tag = maps::SOCKETS.get(socket);
        if tag.is_null() {
            return PASS;
        }
        let listens = (*socket).state == LISTENING;
        // A connection was judged. A connect of datagrams was not, though who is connected hears from that one alone.
        if !listens && (*tag).protocol == IPPROTO_TCP {
            return PASS;
        }
        let Some(first) = read(&ctx) else { return PASS };
        // Whatever headers stand before it: what can't be looked behind is for no server.
        let packet = read_through(&ctx, first);
        let Packet { protocol, .. } = packet.unwrap_or(first);
        let asks = match listens {
            true => !packet.is_some_and(|packet| packet.protocol == TCP && !is_first(&ctx, &packet)),
            false => protocol == UDP || (*tag).protocol == IPPROTO_UDP,
        };
        if !asks {
            return PASS;
        }
        let Some(ends) = ends(&ctx, &packet.unwrap_or(first)) else { return DROP };
        let subject = Subject::absent((*tag).sandbox_id);
        if subject.config.orphaned != 0 {
            return DROP;
        }
        let mut decision = Decision::DENY_DEFAULT;
        let far = (ends.from, ends.from_port, flow::NETWORK);
        if packet.is_some() {
            if protocol == UDP
                && (judge(&subject, ends.from, ends.from_port, IPPROTO_UDP).0.allow
                    || flow::goes_on(tag, subject.sandbox_id, far))
            {
                return PASS;
            }
            let key = EgressKey { sandbox_id_be: subject.sandbox_id.to_be_bytes(), address: octets(ends.to) };
            decision = decide_egress(maps::LISTEN.get(&Key::new(KEY_BITS, key)), ends.to_port, protocol);
        }
        if decision.allow {
            // What is sent to many comes back to who sent it, from whatever address.
            if protocol == UDP && !is_for_many(ends.to) {
                flow::note(tag, subject.sandbox_id, far);
            }
            return PASS;
        }
        let mut record = MaybeUninit::<EventRecord>::uninit();
        let record = record.as_mut_ptr();
        SocketTag::begin(tag, record, RecordKind::Listen);
        (*record).action = RecordAction::Accept as u8;
        (*record).address = octets(ends.from);
        (*record).port = ends.from_port;
        (*record).family = first.family;
        (*record).protocol = u16::from(protocol);
        let refuse = conclude(&subject, decision, false, record);
        (*record).errno = 0; // whoever is refused is not here
        if SocketTag::is_news(tag, ends.from, ends.to_port) {
            emit::unhurried(&ctx, &subject, record);
        }
        if refuse { DROP } else { PASS }
    }
}
