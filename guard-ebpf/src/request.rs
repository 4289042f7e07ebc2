//! Requests that go straight to IMDS, seen in passing: the request on its way out, the status of its answer on its way
//! in. Of all that, a line of at most 128 bytes, a bit for the token and the status leave the kernel; nothing else is
//! kept, not even here.

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{bpf_ktime_get_boot_ns, bpf_sk_storage_get},
    programs::SkBuffContext,
};
use guard_common::{
    CgroupId, EndpointId, HTTP_PORT, Lost, OpenRequest, REQUEST_LINE_LEN, RequestRecord, Ruling, SCAN_BUDGET,
    Scan, Sent, status_of,
};

use crate::{
    account::lose,
    identity::socket_of_packet,
    maps::{OPEN_REQUESTS, REQUESTS},
    packet::Segment,
};

/// How much of a packet is read at once.
const WORD: usize = 8;

/// Looks at a packet that goes to IMDS.
#[inline(always)]
pub fn observe(ctx: &SkBuffContext, pod: CgroupId, endpoint: EndpointId, ruling: Ruling) {
    let Some(segment) = Segment::of(ctx) else { return };
    let socket = socket_of_packet(ctx.skb.skb);
    if segment.destination_port != HTTP_PORT || socket.is_null() {
        return;
    }
    if segment.is_first
        && let Some(open) = open(socket, 0)
    {
        open.reconnect();
    }
    if segment.length == 0 {
        return;
    }
    let Some(open) = open(socket, BPF_SK_STORAGE_GET_F_CREATE) else { return lose(Lost::Requests) };
    match open.send(segment.sequence, segment.end()) {
        Sent::Again => {}
        Sent::More => open.record.unparse(),
        sent @ (Sent::New | Sent::Torn) => {
            // SAFETY: the helper has no precondition.
            let time = unsafe { bpf_ktime_get_boot_ns() };
            open.record = RequestRecord::new(time, pod, endpoint, ruling);
            if sent == Sent::New
                && let Some(scan) = scan(ctx, &segment, &mut open.scan)
                && let Some(length) = scan.line_length()
                && copy_line(ctx, segment.start, length, &mut open.record).is_some()
            {
                open.record.parsed(length, scan.has_token());
            }
        }
    }
}

/// Looks at a packet that comes from IMDS: the first of an answer sends the request up.
#[inline(always)]
pub fn answer(ctx: &SkBuffContext) {
    let Some(segment) = Segment::of(ctx) else { return };
    if segment.source_port != HTTP_PORT || segment.length == 0 {
        return;
    }
    let Some(open) = open(socket_of_packet(ctx.skb.skb), 0) else { return };
    if !open.is_answered(segment.acknowledged) {
        return;
    }
    let status = ctx.load(segment.start).map_or(0, status_of);
    // "Continue" is not an answer yet.
    if status / 100 == 1 {
        return;
    }
    open.close();
    open.record.status = status;
    if REQUESTS.output(&open.record, 0).is_err() {
        lose(Lost::Requests);
    }
}

/// Reads the payload, if it is within the budget.
#[inline(always)]
fn scan(ctx: &SkBuffContext, segment: &Segment, place: &mut Scan) -> Option<Scan> {
    if segment.length > SCAN_BUDGET {
        return None;
    }
    let mut scan = Scan::START;
    let mut at = 0;
    while at < SCAN_BUDGET && at + WORD <= segment.length {
        let word: [u8; WORD] = ctx.load(segment.start + at).ok()?;
        for byte in word {
            scan.step(byte);
        }
        at += WORD;
    }
    scan = through(place, scan);
    for _ in 1..WORD {
        if at >= segment.length {
            break;
        }
        scan.step(ctx.load(segment.start + at).ok()?);
        at += 1;
    }
    Some(through(place, scan))
}

/// Leads a value through a map, where the verifier forgets what it knew of it: else it follows each length that a
/// request can have to the program's end.
#[inline(always)]
fn through(place: &mut Scan, scan: Scan) -> Scan {
    // SAFETY: `place` is a reference like any other.
    unsafe {
        core::ptr::write_volatile(place, scan);
        core::ptr::read_volatile(place)
    }
}

/// Copies the line of a request that has been read. ` HTTP/1.1` and the empty line follow it, so that whole words can
/// be read to its end; where they can't, it is no request that IMDS would take.
#[inline(always)]
fn copy_line(ctx: &SkBuffContext, start: usize, length: u8, record: &mut RequestRecord) -> Option<()> {
    for word in 0..REQUEST_LINE_LEN / WORD {
        let at = word * WORD;
        let Some(left) = usize::from(length).checked_sub(at).filter(|left| *left > 0) else { break };
        let bytes = u64::from_le_bytes(ctx.load(start + at).ok()?);
        let line = if left < WORD { bytes & ((1 << (left * 8)) - 1) } else { bytes };
        record.write(word, line.to_le_bytes());
    }
    Some(())
}

/// What is kept with a socket that has sent a request. `socket` is as the context has it, or null.
#[inline(always)]
fn open(socket: *mut bpf_sock, flags: u32) -> Option<&'static mut OpenRequest> {
    // SAFETY: the storage lives as long as the socket, which outlives the program's run. TCP sends a socket's packets
    // one at a time, and the answer comes when the request has gone; a client that sends on before it has its answer
    // races with itself, for a record of its own.
    unsafe {
        if socket.is_null() {
            return None;
        }
        let map = core::ptr::from_ref(&OPEN_REQUESTS).cast_mut().cast();
        bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), flags.into())
            .cast::<OpenRequest>()
            .as_mut()
    }
}
