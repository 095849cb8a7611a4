//! Packets that arrive from other machines, and from other network namespaces, at sockets of a sandbox.

use core::mem::MaybeUninit;

use aya_ebpf::{btf_maps::lpm_trie::Key, macros::cgroup_skb, programs::SkBuffContext};
use govsandbox_ebpf::{
    abi::{
        egress::EgressKey,
        event::{EventRecord, RecordAction, RecordKind},
    },
    decide::egress::decide_egress,
};

use super::{
    conclude,
    connect::judge,
    packet::{DROP, PASS, TCP, UDP, ends, is_first, read},
};
use crate::kernel::{
    emit,
    lead::IPPROTO_UDP,
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
        let Some(packet) = read(&ctx) else { return PASS };
        let asks = match packet.protocol {
            TCP => (*socket).state == LISTENING && is_first(&ctx, &packet),
            // Who is connected hears from that one alone, and was judged when sending.
            UDP => (*socket).dst_port == 0,
            _ => false,
        };
        if !asks {
            return PASS;
        }
        let Some(ends) = ends(&ctx, &packet) else { return DROP };
        let subject = Subject::absent((*tag).sandbox_id);
        if subject.config.orphaned != 0 {
            return DROP;
        }
        if packet.protocol == UDP && judge(&subject, ends.from, ends.from_port, IPPROTO_UDP).0.allow {
            return PASS;
        }
        let key = EgressKey { sandbox_id_be: subject.sandbox_id.to_be_bytes(), address: octets(ends.to) };
        let decision =
            decide_egress(maps::LISTEN.get(&Key::new(KEY_BITS, key)), ends.to_port, packet.protocol);
        if decision.allow {
            return PASS;
        }
        let mut record = MaybeUninit::<EventRecord>::uninit();
        let record = record.as_mut_ptr();
        SocketTag::begin(tag, record, RecordKind::Listen);
        (*record).action = RecordAction::Accept as u8;
        (*record).address = octets(ends.from);
        (*record).port = ends.from_port;
        (*record).family = packet.family;
        (*record).protocol = u16::from(packet.protocol);
        let refuse = conclude(&subject, decision, false, record);
        (*record).errno = 0; // whoever is refused is not here
        if SocketTag::is_news(tag, ends.from, ends.to_port) {
            emit::unhurried(&ctx, &subject, record);
        }
        if refuse { DROP } else { PASS }
    }
}
