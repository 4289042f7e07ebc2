use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{CgroupId, EndpointId, Mode, RuleId, Ruling, Verdict};

/// How much of a request's first line goes up: its method and its target. A longer one does not parse.
pub const REQUEST_LINE_LEN: usize = 128;

/// How much of a packet's payload is looked at. A request that is longer does not parse.
pub const SCAN_BUDGET: usize = 1024;

/// A record of the ring buffer `REQUESTS`: one request that went straight to IMDS and was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestRecord {
    /// When the request left, in nanoseconds since boot (`CLOCK_BOOTTIME`).
    pub time: u64,
    /// The pod-level cgroup of the pod that made the socket.
    pub pod: CgroupId,
    line: [[u8; 8]; REQUEST_LINE_LEN / 8],
    /// The rule that let it pass.
    pub rule: RuleId,
    /// Of the answer; 0 where it could not be read.
    pub status: u16,
    /// The endpoint's id.
    pub endpoint: EndpointId,
    length: u8,
    has_token: u8,
    verdict: u8,
    mode: u8,
    reserved: [u8; 7],
}

impl RequestRecord {
    /// A request of which nothing is known yet but who made it.
    #[inline(always)]
    pub const fn new(time: u64, pod: CgroupId, endpoint: EndpointId, ruling: Ruling) -> Self {
        Self {
            time,
            pod,
            line: [[0; 8]; REQUEST_LINE_LEN / 8],
            rule: ruling.rule(),
            status: 0,
            endpoint,
            length: 0,
            has_token: 0,
            verdict: ruling.verdict().code(),
            mode: ruling.mode().code(),
            reserved: [0; 7],
        }
    }

    /// What the policy says of the pod.
    pub const fn verdict(&self) -> Verdict {
        Verdict::from_code(self.verdict)
    }

    /// Whether that is carried out.
    pub const fn mode(&self) -> Mode {
        Mode::from_code(self.mode)
    }

    /// Its method, a space and its target; none for a request that did not parse.
    pub fn line(&self) -> Option<&[u8]> {
        self.line.as_flattened().get(..usize::from(self.length)).filter(|line| !line.is_empty())
    }

    /// Whether it had a session token; never known of one that did not parse.
    pub const fn has_token(&self) -> bool {
        self.has_token != 0
    }

    /// Writes eight bytes of the line, as they stand in the packet.
    #[inline(always)]
    pub const fn write(&mut self, word: usize, bytes: [u8; 8]) {
        // The mask shows the verifier the bound.
        self.line[word & (REQUEST_LINE_LEN / 8 - 1)] = bytes;
    }

    /// Says that it parsed, with its line written.
    #[inline(always)]
    pub const fn parsed(&mut self, length: u8, has_token: bool) {
        self.length = length;
        self.has_token = has_token as u8;
    }

    /// Takes back that it parsed: there was more of it.
    #[inline(always)]
    pub const fn unparse(&mut self) {
        self.parsed(0, false);
    }
}

/// What is kept with a socket that has sent a request to IMDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenRequest {
    /// The request that waits for its answer, if one does.
    pub record: RequestRecord,
    /// The sequence number after everything that was sent.
    sent: u32,
    /// The sequence number after the packet that the request began with.
    asked: u32,
    phase: u32,
    /// Where the look at the request stands.
    pub scan: Scan,
}

/// Nothing was sent yet: what new storage is filled with.
const UNUSED: u32 = 0;
const IDLE: u32 = 1;
const WAITING: u32 = 2;

/// What a packet with payload is to the request before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The same as before: it was lost on its way.
    Again,
    /// More before the answer: the rest of the request, or one sent ahead.
    More,
    /// A request begins with it.
    New,
    /// A request begins somewhere in it.
    Torn,
}

impl OpenRequest {
    /// Takes note of a packet with payload, by its sequence numbers.
    #[inline(always)]
    pub const fn send(&mut self, first: u32, end: u32) -> Sent {
        let phase = self.phase;
        if phase != UNUSED && !is_after(end, self.sent) {
            return Sent::Again;
        }
        let follows = phase == UNUSED || first == self.sent;
        self.sent = end;
        if phase == WAITING {
            return Sent::More;
        }
        self.asked = end;
        self.phase = WAITING;
        if follows { Sent::New } else { Sent::Torn }
    }

    /// Whether a packet that acknowledges so much can be the answer to the request that waits. What was sent before
    /// the request had come is the rest of an earlier answer.
    #[inline(always)]
    pub const fn is_answered(&self, acknowledged: u32) -> bool {
        self.phase == WAITING && !is_after(self.asked, acknowledged)
    }

    /// Waits for no answer any more.
    #[inline(always)]
    pub const fn close(&mut self) {
        self.phase = IDLE;
    }

    /// Forgets what was sent: the socket is connected anew, and counts from another number.
    #[inline(always)]
    pub const fn reconnect(&mut self) {
        self.phase = UNUSED;
    }
}

/// Whether one TCP sequence number comes after another.
#[inline(always)]
const fn is_after(one: u32, other: u32) -> bool {
    other.wrapping_sub(one) > u32::MAX / 2
}

/// The status out of the first bytes of an answer, `HTTP/1.x NNN`; 0 for anything else.
#[inline(always)]
pub const fn status_of(start: [u8; 12]) -> u16 {
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9', b' ', digits @ ..] = start else { return 0 };
    let mut status = 0;
    let mut place = 0;
    while place < digits.len() {
        let digit = digits[place].wrapping_sub(b'0');
        if digit > 9 {
            return 0;
        }
        status = status * 10 + digit as u16;
        place += 1;
    }
    status
}

/// A look at a request, byte by byte: where its line's target ends, whether it has a token, whether it ends.
///
/// Each step is two look-ups in tables and no branch: the kernel's verifier follows a thousand of them for little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Scan {
    kept: u16,
    state: u8,
    has_token: u8,
}

impl Scan {
    /// Before the first byte.
    pub const START: Self = Self { kept: 0, state: METHOD_START, has_token: 0 };

    /// Takes the next byte.
    #[inline(always)]
    pub const fn step(&mut self, byte: u8) {
        let class = CLASSES[byte as usize] % CLASS_COUNT;
        let entry = STEPS[place(self.state % STATE_COUNT, class)];
        self.state = entry % STATE_COUNT;
        self.kept += (entry / KEEP) as u16;
        self.has_token |= entry / TOKEN % 2;
    }

    /// The length of method and target, if what was read is one whole request and they are short enough.
    #[inline(always)]
    pub const fn line_length(self) -> Option<u8> {
        let [length, high] = self.kept.to_le_bytes();
        let fits = high == 0 && length as usize <= REQUEST_LINE_LEN;
        if self.state == DONE && fits { Some(length) } else { None }
    }

    /// Whether there was a token among the headers.
    #[inline(always)]
    pub const fn has_token(self) -> bool {
        self.has_token != 0
    }
}

/// The header with the session token, in lower case.
const NAME: &[u8; NAME_LEN as usize] = b"x-aws-ec2-metadata-token";
const NAME_LEN: u8 = 24;

// The states, each named for what was read last.
const METHOD_START: u8 = 0;
const METHOD: u8 = 1;
const TARGET_START: u8 = 2;
const TARGET: u8 = 3;
const VERSION: u8 = 4;
const LINE_CR: u8 = 5;
/// At the start of a header; so many more: so many bytes of [`NAME`] were read.
const HEADER: u8 = 6;
const NAMED: u8 = HEADER + NAME_LEN;
const VALUE: u8 = NAMED + 1;
const LAST_CR: u8 = NAMED + 2;
const DONE: u8 = NAMED + 3;
const BAD: u8 = NAMED + 4;
const STATE_COUNT: u8 = 64;

// What a step adds to the state.
/// The byte belongs to the method or the target, or stands between them.
const KEEP: u8 = 128;
/// The header with the token was found.
const TOKEN: u8 = 64;

// The classes of bytes.
const OTHER: u8 = 0;
const CR: u8 = 1;
const LF: u8 = 2;
const SPACE: u8 = 3;
const CONTROL: u8 = 4;
const COLON: u8 = 5;
/// The first letter of [`NAME`]; so many more: its others, each with the place where it first stands.
const LETTER: u8 = 6;
const CLASS_COUNT: u8 = 32;

const _: () = assert!(BAD < STATE_COUNT && STATE_COUNT <= TOKEN && LETTER + NAME_LEN <= CLASS_COUNT);

static CLASSES: [u8; 256] = {
    let mut classes = [OTHER; 256];
    let mut byte = u8::MIN;
    loop {
        classes[byte as usize] = class(byte);
        if byte == u8::MAX {
            break classes;
        }
        byte += 1;
    }
};

static STEPS: [u8; place(STATE_COUNT, 0)] = {
    let mut steps = [BAD; place(STATE_COUNT, 0)];
    let mut state = 0;
    while state < STATE_COUNT {
        let mut class = 0;
        while class < CLASS_COUNT {
            steps[place(state, class)] = step(state, class);
            class += 1;
        }
        state += 1;
    }
    steps
};

/// Where the step from a state by a class of bytes stands in the table.
#[inline(always)]
const fn place(state: u8, class: u8) -> usize {
    state as usize * CLASS_COUNT as usize + class as usize
}

const fn class(byte: u8) -> u8 {
    match byte {
        b'\r' => CR,
        b'\n' => LF,
        b' ' => SPACE,
        b':' => COLON,
        0..=0x1f | 0x7f => CONTROL,
        _ => {
            let mut place = 0;
            while place < NAME_LEN {
                if NAME[place as usize] == byte.to_ascii_lowercase() {
                    return LETTER + place;
                }
                place += 1;
            }
            OTHER
        }
    }
}

/// The strict grammar: one space between the parts of the line, CR LF after every line, and nothing past the empty one.
const fn step(state: u8, class: u8) -> u8 {
    let is_word = !matches!(class, CR | LF | SPACE | CONTROL);
    match (state, class) {
        (METHOD_START | METHOD, _) if is_word => METHOD | KEEP,
        (METHOD, SPACE) => TARGET_START | KEEP,
        (TARGET_START | TARGET, _) if is_word => TARGET | KEEP,
        (TARGET, SPACE) => VERSION,
        (VERSION, _) if is_word => VERSION,
        (VERSION, CR) => LINE_CR,
        (LINE_CR, LF) => HEADER,
        (HEADER, CR) => LAST_CR,
        (LAST_CR, LF) => DONE,
        (HEADER..NAMED, _) if class == letter(state - HEADER) => state + 1,
        (NAMED, COLON) => VALUE | TOKEN,
        (HEADER..=VALUE, CR) => LINE_CR,
        // A space after the name: some take that for the header, and some do not.
        (NAMED, SPACE | CONTROL) | (HEADER..=VALUE, LF) => BAD,
        (HEADER..=VALUE, _) => VALUE,
        _ => BAD,
    }
}

const fn letter(place: u8) -> u8 {
    class(NAME[place as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(request: &[u8]) -> Option<(usize, bool)> {
        let mut scan = Scan::START;
        for byte in request {
            scan.step(*byte);
        }
        Some((scan.line_length()?.into(), scan.has_token()))
    }

    #[test]
    fn a_whole_request_is_its_method_and_target_and_whether_it_has_a_token() {
        let cases: [(&str, &str, bool); 9] = [
            ("GET / HTTP/1.1\r\n\r\n", "GET /", false),
            ("GET /latest/meta-data/mac HTTP/1.0\r\nHost: h\r\n\r\n", "GET /latest/meta-data/mac", false),
            ("GET /a HTTP/1.1\r\nX-aws-ec2-metadata-token: t==\r\n\r\n", "GET /a", true),
            ("GET /a HTTP/1.1\r\nhost:h\r\nX-AWS-EC2-METADATA-TOKEN:\r\nb: c\r\n\r\n", "GET /a", true),
            (
                "PUT /t HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n",
                "PUT /t",
                false,
            ),
            ("GET /a HTTP/1.1\r\nA: x-aws-ec2-metadata-token: t\r\n\r\n", "GET /a", false),
            ("GET /a HTTP/1.1\r\nxx-aws-ec2-metadata-token: t\r\n\r\n", "GET /a", false),
            ("GET /a HTTP/1.1\r\nX-aws-ec2-metadata-toke: t\r\n\r\n", "GET /a", false),
            ("GET /?x-aws-ec2-metadata-token:t HTTP/1.1\r\n\r\n", "GET /?x-aws-ec2-metadata-token:t", false),
        ];
        for (request, line, token) in cases {
            let found = scan(request.as_bytes());
            assert_eq!(found.map(|(length, token)| (&request[..length], token)), Some((line, token)));
        }
    }

    #[test]
    fn anything_else_does_not_parse() {
        let cases: [&[u8]; 19] = [
            b"",
            b"GET",
            b"GET / HTTP/1.1\r\n",
            b"GET / HTTP/1.1\r\n\r",
            b"GET / HTTP/1.1\r\n\r\n ",
            b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\n\n",
            b"GET / HTTP/1.1\r\nA: b\n\r\n",
            b"GET /\r\n\r\n",
            b"GET  / HTTP/1.1\r\n\r\n",
            b" GET / HTTP/1.1\r\n\r\n",
            b"\r\nGET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1 \r\n\r\n",
            b"GET /\0 HTTP/1.1\r\n\r\n",
            b"GET\t/ HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            b"GET / HTTP/1.1\r\nX-aws-ec2-metadata-token : t\r\n\r\n",
            b"GET / HTTP/1.1\r\n\rA: b\r\n\r\n",
            b"meta-data/iam\r\nX-aws-ec2-metadata-token: t\r\n\r\n",
        ];
        for request in cases {
            assert_eq!(scan(request), None, "{}", request.escape_ascii());
        }
    }

    #[test]
    fn a_line_that_is_too_long_does_not_parse() {
        let request = |length: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(length - 5));
        assert_eq!(scan(request(128).as_bytes()), Some((128, false)));
        for length in [129, 384, 1000] {
            assert_eq!(scan(request(length).as_bytes()), None, "{length}");
        }
    }

    #[test]
    fn a_record_shows_the_line_that_was_written() {
        let mut record = RequestRecord::new(1, CgroupId(2), 0, Ruling::new(Verdict::Deny, Mode::Audit, 3));
        assert_eq!(record.line(), None);
        record.write(0, *b"GET /abc");
        record.write(1, *b"d\0\0\0\0\0\0\0");
        record.parsed(9, true);
        assert_eq!((record.line(), record.has_token()), (Some(&b"GET /abcd"[..]), true));
        assert_eq!((record.verdict(), record.mode(), record.rule), (Verdict::Deny, Mode::Audit, 3));
        record.unparse();
        assert_eq!((record.line(), record.has_token()), (None, false));
    }

    #[test]
    fn a_length_that_cannot_be_is_no_line() {
        let mut bytes = [1_u8; size_of::<RequestRecord>()];
        bytes[149] = 200;
        let record = RequestRecord::read_from_bytes(&bytes).expect("of this size");
        assert_eq!((record.length, record.line()), (200, None));
    }

    #[test]
    fn an_answer_begins_with_its_status() {
        let cases: [(&[u8; 12], u16); 6] = [
            (b"HTTP/1.1 200", 200),
            (b"HTTP/1.0 404", 404),
            (b"HTTP/2.0 200", 0),
            (b"HTTP/1.1 20x", 0),
            (b"HTTP/1.1200 ", 0),
            (b"<html>\n<head", 0),
        ];
        for (start, status) in cases {
            assert_eq!(status_of(*start), status, "{}", start.escape_ascii());
        }
    }

    fn unused() -> OpenRequest {
        OpenRequest::read_from_bytes(&[0; size_of::<OpenRequest>()]).expect("of this size")
    }

    #[test]
    fn requests_and_answers_take_turns() {
        // Across the end of the sequence numbers.
        let start = u32::MAX - 50;
        let at = |place| start.wrapping_add(place);
        let mut open = unused();
        assert!(!open.is_answered(at(0)));
        assert_eq!(open.send(at(0), at(40)), Sent::New);
        assert_eq!(open.send(at(0), at(40)), Sent::Again);
        assert!(!open.is_answered(at(0)), "an acknowledgement of less is of something earlier");
        assert!(open.is_answered(at(40)));
        open.close();
        assert!(!open.is_answered(at(40)), "one answer for one request");
        assert_eq!(open.send(at(40), at(80)), Sent::New);
        assert!(open.is_answered(at(80)));
    }

    #[test]
    fn what_is_sent_before_the_answer_belongs_to_the_request() {
        let mut open = unused();
        assert_eq!(open.send(10, 20), Sent::New);
        assert_eq!(open.send(20, 30), Sent::More);
        assert_eq!(open.send(10, 30), Sent::Again);
        assert!(open.is_answered(20), "an answer to its beginning is one too");
        open.close();
        assert_eq!(open.send(40, 50), Sent::Torn, "ten bytes were not seen");
    }

    #[test]
    fn a_socket_that_is_connected_anew_counts_anew() {
        let mut open = unused();
        assert_eq!(open.send(1000, 1100), Sent::New);
        open.reconnect();
        assert!(!open.is_answered(2000));
        assert_eq!(open.send(5, 25), Sent::New);
    }
}
