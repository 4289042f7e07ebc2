//! System calls as a 32-bit program makes them. Any program may make them where the kernel runs 32-bit ones, and some
//! hooks of the kernel look at the others alone: that of `setsockopt` for cgroups, for one.

use std::io;
use std::os::fd::RawFd;
use std::process::{Command, Stdio};

use super::outcome::unsupported;

/// How `guard-attack` is asked whether such calls can be made: the kernel ends who makes them where they can't.
pub const PROBE: &str = "probe-compat";

/// Makes a call that changes nothing.
#[cfg(target_arch = "x86_64")]
pub fn probe() -> io::Result<()> {
    const GETPID: u32 = 20;
    call(GETPID, [0; 5]).map(drop)
}

/// No other processor has them in every kernel.
#[cfg(not(target_arch = "x86_64"))]
pub fn probe() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Ends with "unsupported" where the kernel takes no such call.
pub(super) fn require() -> io::Result<()> {
    let probe = Command::new(std::env::current_exe()?)
        .arg(PROBE)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let missing = io::Error::from_raw_os_error(libc::ENOSYS);
    if probe.success() { Ok(()) } else { Err(unsupported("32-bit system calls", &missing)) }
}

/// Sets an option of a socket to the bytes of its value.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a 32-bit program has its memory where 32 bits reach")]
pub(super) fn set_option(socket: RawFd, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    const SETSOCKOPT: u32 = 366;
    const PAGE: usize = 4096;
    assert!(value.len() <= PAGE, "a value that fits a page");
    // SAFETY: a new mapping, at an address that the kernel chooses, as long as the value or longer, and unmapped once
    // nobody refers to it.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
            -1,
            0,
        );
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        page.cast::<u8>().copy_from(value.as_ptr(), value.len());
        let number = |value: i32| value.cast_unsigned();
        let place = u32::try_from(page as usize).map_err(io::Error::other);
        let length = u32::try_from(value.len()).map_err(io::Error::other);
        let set = match (place, length) {
            (Ok(place), Ok(length)) => {
                call(SETSOCKOPT, [number(socket), number(level), number(option), place, length])
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        libc::munmap(page, PAGE);
        set.map(drop)
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn set_option(_: RawFd, _: i32, _: i32, _: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "no library makes them")]
fn call(number: u32, [first, second, third, fourth, fifth]: [u32; 5]) -> io::Result<u32> {
    let result: u32;
    // SAFETY: `int 0x80` changes no register but those that are named; the compiler keeps rbx for itself, and has it back.
    // What the kernel does with the arguments is the caller's to know.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first:r}",
            "int 0x80",
            "xchg rbx, {first:r}",
            first = inout(reg) u64::from(first) => _,
            inlateout("eax") number => result,
            in("ecx") second,
            in("edx") third,
            in("esi") fourth,
            in("edi") fifth,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    let result = result.cast_signed();
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result.cast_unsigned()) }
}
