//! AMX's tile registers: who may use them, and their shapes.

use std::arch::asm;

/// Rows of a tile register, and 32-bit numbers in a row.
pub(crate) const TILE: usize = 16;

/// Shapes of the eight tile registers: all of them 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config([u8; 64]);

static ALL_FULL: Config = {
    let mut c = [0; 64];
    c[0] = 1; // palette
    let mut tile = 0;
    while tile < 8 {
        c[16 + 2 * tile] = 64; // bytes in a row
        c[48 + tile] = TILE as u8; // rows
        tile += 1;
    }
    Config(c)
};

/// Makes all tile registers full size. Rust has no stable intrinsics for tiles, and the compiler never uses them itself.
///
/// # Safety
/// [`permitted`] must have said so. [`release`] must follow.
#[inline(always)]
pub(crate) unsafe fn configure() {
    // SAFETY: reads 64 bytes; the processor has the instruction, as the caller knows.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &ALL_FULL, options(nostack, readonly)) };
}

/// Gives the tile registers up, so that the system has nothing to save.
///
/// # Safety
/// As for [`configure`].
#[inline(always)]
pub(crate) unsafe fn release() {
    // SAFETY: the processor has the instruction, as the caller knows.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Whether the processor has AMX for bfloat16 and the system lets this process use it. Asks the system for it: the tile
/// registers make signal frames larger, so Linux wants to be asked, and refuses where an alternate signal stack is too small.
#[cfg(target_os = "linux")]
pub(crate) fn permitted() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    use std::sync::OnceLock;

    const TILE_BF16: u32 = 1 << 24 | 1 << 22;
    const OSXSAVE: u32 = 1 << 27;
    const TILE_STATE: u64 = 0b11 << 17;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;

    #[target_feature(enable = "xsave")]
    unsafe fn enabled_state() -> u64 {
        // SAFETY: the caller found that the system uses XSAVE.
        unsafe { _xgetbv(0) }
    }
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & TILE_BF16 != TILE_BF16 || __cpuid(1).ecx & OSXSAVE == 0 {
            return false;
        }
        // SAFETY: OSXSAVE is set; the system call takes two numbers and touches no memory of ours.
        unsafe {
            enabled_state() & TILE_STATE == TILE_STATE
                && libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0
        }
    })
}

/// Whether tiles multiply 8-bit integers, too, where they are [`permitted`].
pub(crate) fn multiply_integers() -> bool {
    use std::arch::x86_64::__cpuid_count;

    const TILE_INT8: u32 = 1 << 25;
    permitted() && __cpuid_count(7, 0).edx & TILE_INT8 != 0
}

/// Other systems are left without.
#[cfg(not(target_os = "linux"))]
pub(crate) fn permitted() -> bool {
    false
}
