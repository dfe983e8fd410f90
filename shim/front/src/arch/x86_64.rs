//! x86-64: System V calling convention.

use core::arch::naked_asm;
use core::ffi::c_void;

/// Exports one symbol as a jump through its slot. `r11`, which a callee may
/// clobber, carries the index for [`unresolved`] and for the core's gate.
macro_rules! export_stub {
    ($name:ident) => {
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        extern "C" fn $name() {
            core::arch::naked_asm!(
                "mov r11d, {index}",
                "jmp qword ptr [rip + {slots} + 8 * {index}]",
                index = const rewarm_abi::Hook::$name as usize,
                slots = sym crate::slots::SLOTS,
            )
        }
    };
}

/// Bytes of one spare stub.
const SPARE_BYTES: usize = 16;

/// Address of the spare stub of that number.
pub(crate) fn spare_stub(number: usize) -> *mut c_void {
    let first = (spare_stubs as *const () as usize).next_multiple_of(SPARE_BYTES);
    (first + number * SPARE_BYTES) as *mut c_void
}

/// The spare stubs, one like the other: the index of the slot comes from where
/// each of them lies.
#[unsafe(naked)]
extern "C" fn spare_stubs() {
    naked_asm!(
        ".balign {bytes}",
        "2:",
        ".rept {count}",
        ".balign {bytes}",
        "lea r11, [rip]",
        "jmp 3f",
        ".endr",
        "3:",
        "lea r10, [rip + 2b]",
        "sub r11, r10",
        "shr r11, {shift}",
        "add r11d, {first}",
        "lea r10, [rip + {slots}]",
        "jmp qword ptr [r10 + 8 * r11]",
        bytes = const SPARE_BYTES,
        shift = const SPARE_BYTES.trailing_zeros(),
        count = const rewarm_abi::SPARES,
        first = const rewarm_abi::Hook::COUNT,
        slots = sym crate::slots::SLOTS,
    )
}

/// What a slot holds before the driver is known: finds the target of the stub
/// in `r11`, with every argument register kept, and jumps there.
#[unsafe(naked)]
pub(crate) extern "C" fn unresolved() {
    naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "push r11",
        "sub rsp, 32",
        // No function of the driver has more than two parameters that are
        // floating-point numbers.
        "movups xmmword ptr [rsp], xmm0",
        "movups xmmword ptr [rsp + 16], xmm1",
        "mov edi, r11d",
        "call {resolve}",
        "movups xmm0, xmmword ptr [rsp]",
        "movups xmm1, xmmword ptr [rsp + 16]",
        "add rsp, 32",
        "pop r11",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "jmp rax",
        resolve = sym crate::slots::resolve,
    )
}

/// The hook of `dlsym`. The real one learns from its return address who is
/// asking (`RTLD_NEXT` and `RTLD_DEFAULT` depend on it), so every question that
/// is not about a hooked symbol reaches it by a jump that leaves the caller's
/// return address in place.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn dlsym() {
    naked_asm!(
        // Only names that begin with "cu" can be ours.
        "test rsi, rsi",
        "jz 2f",
        "cmp byte ptr [rsi], {c}",
        "jne 2f",
        "cmp byte ptr [rsi + 1], {u}",
        "jne 2f",
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {is_ours}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "test al, al",
        "jnz {answer}",
        "2:",
        "mov rax, qword ptr [rip + {real}]",
        "test rax, rax",
        "jz 3f",
        "jmp rax",
        "3:",
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {find_real}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "jmp rax",
        c = const b'c',
        u = const b'u',
        is_ours = sym crate::symbols::is_ours,
        answer = sym crate::symbols::answer,
        real = sym crate::symbols::REAL_DLSYM,
        find_real = sym crate::symbols::find_real_dlsym,
    )
}
