//! What programs are told of the far end: the one that they asked for, not the service that they were led to.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use super::connect::{AF_INET6, named};
use crate::kernel::{
    lead::{self, AF_INET},
    maps,
    socket::LED,
};

/// The only verdict of these programs.
const PASS: i32 = 1;

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    received(&ctx, AF_INET)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    received(&ctx, AF_INET6)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    connected_to(&ctx, AF_INET)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    connected_to(&ctx, AF_INET6)
}

/// A datagram came from the service: it is told as from the server that was asked.
#[inline(always)]
fn received(ctx: &SockAddrContext, family: u16) -> i32 {
    // SAFETY: the context's socket is one; its tag lives as long.
    unsafe {
        let tag = maps::SOCKETS.get((*ctx.sock_addr).__bindgen_anon_1.sk);
        if tag.is_null() {
            return PASS;
        }
        let Some(service) = lead::service_of((*tag).sandbox_id) else { return PASS };
        let port = u16::from_be((*ctx.sock_addr).user_port as u16);
        if let Some(server) = lead::asked((*tag).sandbox_id, service, named(ctx, family), port) {
            lead::turn_back(ctx, family, server);
        }
    }
    PASS
}

#[inline(always)]
fn connected_to(ctx: &SockAddrContext, family: u16) -> i32 {
    // SAFETY: as in `received`.
    unsafe {
        let tag = maps::SOCKETS.get((*ctx.sock_addr).__bindgen_anon_1.sk);
        if !tag.is_null() && (*tag).flags & LED != 0 {
            lead::write(ctx, family, (*tag).address, (*tag).port);
        }
    }
    PASS
}
