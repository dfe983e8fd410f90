//! x86-64: System V calling convention.

use core::arch::naked_asm;

/// Exports one hooked symbol as a jump through its slot. `r11`, which a callee
/// may clobber, carries the index for [`unresolved`].
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

/// What a slot holds before the driver is known: finds the target of the hook
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
        "mov edi, r11d",
        "call {resolve}",
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
